"""Compares whole training iterations on Gymnasium's CartPole-v1 with stable-baselines3, with the same settings.

Both sides have 8 Gymnasium environments, rollouts of 32 steps, 20 epochs with minibatches of 256, and two networks of
2 x 64 tanh, on the CPU. These are the settings of stable-baselines3's rl-zoo, and the recipe of tfppo. Each run is a
new process, and the sides alternate. The script measures the seconds from the start of the process to the end of the
first iteration, and the environment steps per second over blocks of further iterations, after a warm-up. On the tfppo
side, --total-steps decides how the update is compiled: from 64,000 steps on, XLA compiles it, which takes seconds in
the first iteration.

    python benchmarks/gymnasium_vs_sb3.py --peer-python .venv/peers/bin/python
    python benchmarks/gymnasium_vs_sb3.py --peer-python .venv/peers/bin/python --lstm-units 64 --warmup 5 --iterations 5

With --lstm-units, both sides have recurrent policies: one LSTM each for actor and critic, followed by one hidden layer
of 64. The peer is then RecurrentPPO of sb3-contrib, whose minibatches also consist of whole sequences.

The sides of tfppo are "native", the default of tfppo, which is Gymnasium's own CartPole-v1 in NumPy for all
environments at once, and "sync", which steps the same eight single environments as the peer. The peer uses DummyVecEnv,
as the zoo does, because SubprocVecEnv is slower for such fast environments. It uses one thread of PyTorch, which is as
fast as two threads on two idle cores, and much faster on busy cores.

The script prints one JSON line per run. The last line has the ratio of "native" to the peer, and of "sync" to the peer.
Above 1, tfppo is faster. A ratio is the median over the rounds of the ratio within a round, because other work on the
machine slows whole rounds down.
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
    """Returns the time at which the first iteration ended, and the steps per second of each block."""
    from tfppo.cli.startup import import_tensorflow

    import_tensorflow()
    from tfppo import ControlTrainer, make_control_config

    memory = {"lstm_units": lstm_units, "hidden_units": (64,)} if lstm_units else {}
    how = {"backend": "gymnasium", "vectorization": vectorization, "device": "cpu"}
    config = make_control_config(ENV, total_steps=total_steps, **how, **memory)
    assert (config.control.num_envs, config.control.rollout_length) == (NUM_ENVS, ROLLOUT_LENGTH)
    needed = (1 + warmup + blocks * iterations) * config.control.batch_size
    assert needed <= total_steps, f"--total-steps is {total_steps}; these blocks need at least {needed}"
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
    """Measures the same for stable-baselines3."""
    import torch
    from stable_baselines3.common.callbacks import BaseCallback

    class Clock(BaseCallback):
        """Records the end of each iteration, which is the start of the next rollout."""

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
    """Runs one side in a new process, whose standard error is shown."""
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
    """Compares one side of tfppo with the peer. The speeds are over all blocks of all rounds."""

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
    parser.add_argument("--lstm-units", type=int, default=0, help="LSTM units of actor and critic; 0: no LSTM")
    parser.add_argument("--total-steps", type=int, default=100_000)
    parser.add_argument("--warmup", type=int, default=20, help="iterations after the first one that are not measured")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=20, help="iterations per block")
    parser.add_argument("--peer-python", default=sys.executable, help="Python with stable-baselines3")
    parser.add_argument("--peer-threads", type=int, default=1, help="threads of PyTorch")
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
