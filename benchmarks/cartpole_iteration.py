"""Measures the speed of the compiled iteration of CartPole-v1, and the cost of tf.data.

The iteration has 64 environments x 128 steps, 4 epochs x 4 minibatches of 2,048, and two networks of 2 x 64 tanh. The
script prints one JSON line per measurement (min, median and max over the repetitions), and last the ratios.

    python benchmarks/cartpole_iteration.py
"""

import argparse
import json
import time

from tfppo.cli.startup import import_tensorflow

import_tensorflow()

import tensorflow as tf  # noqa: E402
from shared import spread  # noqa: E402

from tfppo import ControlConfig, ControlRunConfig, ControlTrainer, PPOConfig, RunConfig, rollout_dataset  # noqa: E402


def make_trainer(backend: str, mode: str, num_envs: int, rollout_length: int) -> ControlTrainer:
    batch_size = num_envs * rollout_length
    return ControlTrainer(
        ControlRunConfig(
            RunConfig(device="cpu", compile_rollout=mode, compile_update=mode),
            ControlConfig(
                backend=backend, num_envs=num_envs, rollout_length=rollout_length, total_steps=10_000 * batch_size
            ),
            PPOConfig(num_epochs=4, minibatch_size=batch_size // 4),
        )
    )


def measure_iterations(backend: str, mode: str, num_envs: int, rollout_length: int, repetitions: int) -> dict:
    """Returns the environment steps per second of whole iterations, after two iterations of warm-up."""
    trainer = make_trainer(backend, mode, num_envs, rollout_length)
    rows = []
    for iteration, row in trainer.iterations():
        if iteration >= 2:
            rows.append(row)
        if len(rows) == repetitions:
            break
    trainer.close()
    steps_per_s = spread([round(row["time/env_steps_per_s"]) for row in rows])
    rollout_ms = spread([round(1e3 * row["time/rollout_s"], 2) for row in rows])
    update_ms = spread([round(1e3 * row["time/update_s"], 2) for row in rows])
    return {
        "backend": backend,
        "compile": mode,
        "num_envs": num_envs,
        "rollout_length": rollout_length,
        "env_steps_per_s": steps_per_s,
        "rollout_ms": rollout_ms,
        "update_ms": update_ms,
        "first_iteration_s": round(trainer.compile_seconds, 2),
    }


def measure_dataset(repetitions: int) -> dict:
    """Returns the milliseconds of a rollout through Dataset.map and of a direct call. The two alternate."""
    trainer = make_trainer("graph", "xla", 64, 128)
    rollouts = iter(rollout_dataset(trainer.collector.collect))
    times: dict[str, list[float]] = {"dataset": [], "direct": []}
    for repetition in range(repetitions + 5):
        for name, collect in (
            ("dataset", lambda: next(rollouts)),
            ("direct", lambda k=repetition: trainer.collector.collect(tf.constant(k, tf.int64))),
        ):
            began = time.perf_counter()
            collect().rewards.numpy()
            if repetition >= 5:
                times[name].append(1e3 * (time.perf_counter() - began))
    return {"rollout_ms": {name: {k: round(v, 3) for k, v in spread(values).items()} for name, values in times.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=30)
    repetitions = parser.parse_args().repetitions
    runs = []
    for backend, mode in (("graph", "xla"), ("graph", "graph"), ("gymnasium", "xla"), ("gymnasium", "graph")):
        runs.append(measure_iterations(backend, mode, 64, 128, repetitions))
        print(json.dumps(runs[-1]), flush=True)
    dataset = measure_dataset(10 * repetitions)
    print(json.dumps(dataset), flush=True)
    ours, peer = (run["env_steps_per_s"]["median"] for run in (runs[0], runs[2]))
    through, direct = (dataset["rollout_ms"][name]["median"] for name in ("dataset", "direct"))
    print(
        json.dumps(
            {"ratio": round(ours / peer, 2), "ours": ours, "peer": peer, "runs": repetitions}
            | {"peer_is": "the gymnasium backend", "dataset_over_direct": round(through / direct, 3)}
        )
    )


if __name__ == "__main__":
    main()
