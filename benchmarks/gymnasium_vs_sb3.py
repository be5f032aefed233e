"""Whole training iterations on gymnasium's CartPole-v1: tfppo beside stable-baselines3, with the same settings.

Both sides: 8 environments of gymnasium's, 32 steps of each in a rollout, 20 epochs with minibatches of 256, two
networks of 2 x 64 tanh, on the CPU: the settings of stable-baselines3's rl-zoo, which are the recipe here. Each run is
a fresh process, and the sides take turns. Measured are the seconds from the start of the process to the end of the
first iteration, and the environment steps per second over blocks of further iterations, after a warm-up that is not
counted. The run is announced as one of --total-steps, which on our side decides how the update is compiled: from 64,000
on by XLA, which takes seconds at the start (counted in the first iteration only).

    python benchmarks/gymnasium_vs_sb3.py --peer-python .venv/peers/bin/python
    python benchmarks/gymnasium_vs_sb3.py --peer-python .venv/peers/bin/python --lstm-units 64 --warmup 5 --iterations 5

With --lstm-units both sides have a memory: an LSTM each for actor and critic, and one hidden layer of 64 behind it. The
peer is then the RecurrentPPO of sb3-contrib, which makes its minibatches of whole sequences as well.

Sides: "native" is the default here, gymnasium's own CartPole-v1 written in NumPy for all environments at once; "sync"
steps the same eight single environments as the peer does. The peer uses DummyVecEnv, as the zoo does (SubprocVecEnv is
slower for environments as quick as this one), and one thread of PyTorch: as fast as two on two idle cores, and far
faster on busy ones. Prints one JSON line a run, and last the ratio of the default to the peer (above 1: tfppo is
faster), the median over the rounds of the ratio within a round, because other work on the machine slows whole rounds
down; and beside it the same of "sync".
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

from shared import sb3_cartpole, spread

ENV = "CartPole-v1"
NUM_ENVS, ROLLOUT_LENGTH = 8, 32  # as in `shared.sb3_cartpole`
SIDES = ("native", "sb3", "sync")


def run_tfppo(
    vectorization: str, lstm_units: int, total_steps: int, warmup: int, blocks: int, iterations: int
) -> dict[str, object]:
    """When the first iteration had ended, and the steps per second of each block."""
    from tfppo.cli.startup import import_tensorflow

    import_tensorflow()
    from tfppo import ControlTrainer, make_control_config

    memory = {"lstm_units": lstm_units, "hidden_units": (64,)} if lstm_units else {}
    how = {"backend": "gymnasium", "vectorization": vectorization, "device": "cpu"}
    config = make_control_config(ENV, total_steps=total_steps, **how, **memory)
    assert (config.control.num_envs, config.control.rollout_length) == (NUM_ENVS, ROLLOUT_LENGTH)
    needed = (1 + warmup + blocks * iterations) * config.control.batch_size
    assert needed <= total_steps, f"so many blocks want --total-steps of at least {needed}"
    trainer = ControlTrainer(config)
    loop = trainer.iterations()
    next(loop)
    first = time.time()
    for _ in range(warmup):
        next(loop)
    steps_per_s = []
    for _ in range(blocks):
        began = time.perf_counter()
        for _ in range(iterations):
            next(loop)
        steps_per_s.append(round(iterations * config.control.batch_size / (time.perf_counter() - began)))
    trainer.close()
    return {
        "first_iteration_at": first,
        "env_steps_per_s": steps_per_s,
        "compile": [trainer.rollout_mode, trainer.update_mode],
    }


def run_sb3(threads: int, lstm_units: int, warmup: int, blocks: int, iterations: int) -> dict[str, object]:
    """The same of stable-baselines3."""
    import torch
    from stable_baselines3.common.callbacks import BaseCallback

    class Clock(BaseCallback):
        """Notes the end of each iteration: a rollout's start, but for the first, is the end of the update before."""

        def __init__(self):
            super().__init__()
            self.walls, self.ticks = [], []

        def _on_rollout_start(self):
            self.walls.append(time.time())
            self.ticks.append(time.perf_counter())

        def _on_step(self):
            return True

    torch.set_num_threads(threads)
    model = sb3_cartpole(1, lstm_units)
    clock = Clock()
    batch_size = NUM_ENVS * ROLLOUT_LENGTH
    model.learn((2 + warmup + blocks * iterations) * batch_size, callback=clock)
    starts = clock.ticks[1 + warmup :: iterations][: blocks + 1]
    return {
        "first_iteration_at": clock.walls[1],
        "env_steps_per_s": [round(iterations * batch_size / (b - a)) for a, b in zip(starts, starts[1:], strict=False)],
    }


def measure(arguments: argparse.Namespace, side: str) -> dict[str, object]:
    """One run in a fresh process; what it says on standard error is shown."""
    python = arguments.peer_python if side == "sb3" else sys.executable
    names = ("lstm_units", "total_steps", "warmup", "blocks", "iterations", "peer_threads")
    options = {name: getattr(arguments, name) for name in names if side == "sb3" or name != "peer_threads"}
    command = [python, __file__, "--child", side]
    command += [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    started = time.time()
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    child = json.loads(output.strip().splitlines()[-1])
    return {"side": side, **options, "first_iteration_s": round(child.pop("first_iteration_at") - started, 2), **child}


def summarise(rounds: list[dict[str, dict]], ours: str) -> dict[str, object]:
    """One of our sides beside the peer: speeds are those of all blocks of all rounds."""

    def median_ratio(key: str, of: tuple[str, str]) -> float:
        above, below = of
        value = {side: [statistics.median(spread_of(turn[side][key])) for turn in rounds] for side in of}
        return round(statistics.median(a / b for a, b in zip(value[above], value[below], strict=True)), 2)

    def spread_of(measured: float | list[float]) -> list[float]:
        return measured if isinstance(measured, list) else [measured]

    summary = {"ratio": median_ratio("env_steps_per_s", (ours, "sb3"))}
    for name, side in (("ours", ours), ("peer", "sb3")):
        summary[name] = spread([speed for turn in rounds for speed in turn[side]["env_steps_per_s"]])
    summary["first_iteration"] = {"ratio": median_ratio("first_iteration_s", ("sb3", ours))} | {
        name: spread([turn[side]["first_iteration_s"] for turn in rounds])
        for name, side in (("ours", ours), ("peer", "sb3"))
    }
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lstm-units", type=int, default=0, help="of a policy with a memory; 0: it has none")
    parser.add_argument("--total-steps", type=int, default=100_000)
    parser.add_argument("--warmup", type=int, default=20, help="iterations after the first that are not counted")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=20, help="of a block")
    parser.add_argument("--peer-python", default=sys.executable, help="the Python that has stable-baselines3")
    parser.add_argument("--peer-threads", type=int, default=1, help="of PyTorch")
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        amounts = arguments.warmup, arguments.blocks, arguments.iterations
        child = (
            run_sb3(arguments.peer_threads, arguments.lstm_units, *amounts)
            if arguments.child == "sb3"
            else run_tfppo(arguments.child, arguments.lstm_units, arguments.total_steps, *amounts)
        )
        print(json.dumps(child))
        return
    rounds = []
    for _ in range(arguments.rounds):
        rounds.append({})
        for side in SIDES:
            rounds[-1][side] = measure(arguments, side)
            print(json.dumps(rounds[-1][side]), flush=True)
    print(json.dumps(summarise(rounds, "native") | {"sync": summarise(rounds, "sync"), "runs": arguments.rounds}))


if __name__ == "__main__":
    main()
