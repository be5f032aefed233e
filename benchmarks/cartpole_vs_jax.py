"""Compares the compiled iteration of CartPole-v1 with the same recipe in plain JAX, on the CPU or a GPU.

On both sides, the environment is part of the compiled program, an episode is reset by a separate step that is masked
out, and there are 4 epochs x 4 minibatches and two networks of 2 x 64 tanh. Each run is a new process. Four variants
alternate: "tfppo" (one program for the rollout and one for the update), "tfppo-fused" (a block of iterations in one
call), "jax" (one iteration per call) and "jax-scan" (a block of iterations in one call).

The script measures the seconds from the start of the process to the end of the first iteration, and the environment
steps per second of blocks of further iterations. It prints one JSON line per run. The last lines have, for each size,
the ratio of the faster variant of tfppo to the faster variant of JAX: the ratio within each round, and its median over
the rounds, because other work on the machine slows whole rounds down.

    python benchmarks/cartpole_vs_jax.py --peer-python .venv/peers/bin/python
    python benchmarks/cartpole_vs_jax.py --peer-python .venv/peers/bin/python --num-envs 256 --rollout-length 64
    JAX_PLATFORMS=cuda python benchmarks/cartpole_vs_jax.py --device gpu --num-envs 16384 --rollout-length 64

`benchmarks/jax_iteration.py` is the JAX side, and explains how to install JAX.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from shared import spread

SIZES = ((64, 128), (1024, 128))
BLOCK_STEPS = 524_288
OURS, PEERS = ("tfppo", "tfppo-fused"), ("jax", "jax-scan")  # one iteration per call, and a block of iterations
SIDES = (*OURS, *PEERS)


def run_tfppo(
    num_envs: int, rollout_length: int, blocks: int, iterations: int, micro_batches: int, device: str, fused: bool
) -> dict[str, object]:
    """Returns the time at which the first iteration ended, and the steps per second of each block after it."""
    from tfppo.cli.startup import import_tensorflow

    import_tensorflow()
    from tfppo import ControlConfig, ControlRunConfig, ControlTrainer, PPOConfig, RunConfig

    batch_size = num_envs * rollout_length
    trainer = ControlTrainer(
        ControlRunConfig(
            RunConfig(device=device, log_interval=iterations if fused else 1, checkpoint_interval=iterations),
            ControlConfig(
                backend="graph",
                fused=fused,
                num_envs=num_envs,
                rollout_length=rollout_length,
                total_steps=10_000 * batch_size,
            ),
            PPOConfig(num_epochs=4, minibatch_size=batch_size // 4, num_micro_batches=micro_batches),
        )
    )
    loop = trainer.iterations()
    next(loop)
    first = time.time()
    steps_per_s = []
    for _ in range(blocks):
        began = time.perf_counter()
        for _ in range(1 if fused else iterations):
            next(loop)
        steps_per_s.append(round(iterations * batch_size / (time.perf_counter() - began)))
    trainer.close()
    return {
        "first_iteration_at": first,
        "env_steps_per_s": steps_per_s,
        "compile_rollout": trainer.rollout_mode,
        "compile_update": trainer.update_mode,
    }


def measure(arguments: argparse.Namespace, side: str, num_envs: int, rollout_length: int) -> dict[str, object]:
    """Runs one variant in a new process, whose standard error is shown."""
    iterations = max(1, BLOCK_STEPS // (num_envs * rollout_length))
    options = ["--num-envs", num_envs, "--rollout-length", rollout_length, "--blocks", arguments.blocks]
    options += ["--iterations", iterations, "--micro-batches", arguments.micro_batches]
    options += ["--device", arguments.device] if side in OURS else []
    if side in OURS:
        command = [sys.executable, __file__, "--child", *options, *(["--fused"] if side == "tfppo-fused" else [])]
    else:
        command = [arguments.peer_python, Path(__file__).with_name("jax_iteration.py"), *options]
        command += ["--scan", iterations] if side == "jax-scan" else []
    started = time.time()
    output = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, check=True).stdout
    child = json.loads(output.strip().splitlines()[-1])
    first = round(child.pop("first_iteration_at") - started, 2)
    # If the first call is a whole block, the duration of the first iteration is unknown.
    return {"side": side, "num_envs": num_envs, "rollout_length": rollout_length, **child} | (
        {"first_iteration_s": first} if side in (OURS[0], PEERS[0]) else {}
    )


def summarise(rounds: list[dict[str, dict]]) -> dict[str, object]:
    """Summarizes the runs of one size, one run of each variant per round. A ratio above 1 means that tfppo is faster.

    The speeds are over all blocks of all rounds.
    """
    speeds = {side: spread([v for turn in rounds for v in turn[side]["env_steps_per_s"]]) for side in SIDES}
    medians = [{side: statistics.median(turn[side]["env_steps_per_s"]) for side in SIDES} for turn in rounds]
    ratios = [max(median[side] for side in OURS) / max(median[side] for side in PEERS) for median in medians]
    first = {side: [turn[side]["first_iteration_s"] for turn in rounds] for side in (OURS[0], PEERS[0])}
    sooner = [peer / ours for ours, peer in zip(first[OURS[0]], first[PEERS[0]], strict=True)]
    ours, peer = (max(sides, key=lambda side: speeds[side]["median"]) for sides in (OURS, PEERS))
    return {
        "ratio": round(statistics.median(ratios), 2),
        "ours": speeds[ours],
        "peer": speeds[peer],
        "runs": len(rounds) * len(SIDES),
        "ours_is": ours,
        "peer_is": peer,
        "ratios": [round(ratio, 2) for ratio in ratios],
        "num_envs": rounds[0]["tfppo"]["num_envs"],
        "rollout_length": rounds[0]["tfppo"]["rollout_length"],
        "first_iteration_s": {
            "ratio": round(statistics.median(sooner), 2),
            "ours": spread(first[OURS[0]]),
            "peer": spread(first[PEERS[0]]),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num-envs", type=int, help="measure this size only")
    parser.add_argument("--rollout-length", type=int, default=128)
    parser.add_argument("--blocks", type=int, default=3, help="timed blocks per run")
    parser.add_argument("--micro-batches", type=int, default=1, help="micro-batches per minibatch, on both sides")
    parser.add_argument(
        "--device", choices=("cpu", "gpu"), default="cpu", help="of tfppo; JAX_PLATFORMS sets that of JAX"
    )
    parser.add_argument("--fused", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--peer-python", default=sys.executable, help="Python with JAX and optax")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--iterations", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        sizes = arguments.num_envs, arguments.rollout_length, arguments.blocks, arguments.iterations
        print(json.dumps(run_tfppo(*sizes, arguments.micro_batches, arguments.device, arguments.fused)))
        return
    sizes = ((arguments.num_envs, arguments.rollout_length),) if arguments.num_envs else SIZES
    rounds: dict[tuple[int, int], list] = {size: [] for size in sizes}
    for _ in range(arguments.rounds):
        for size in sizes:
            turn = {}
            for side in SIDES:
                turn[side] = measure(arguments, side, *size)
                print(json.dumps(turn[side]), flush=True)
            rounds[size].append(turn)
    for size in sizes:
        print(json.dumps(summarise(rounds[size])), flush=True)


if __name__ == "__main__":
    main()
