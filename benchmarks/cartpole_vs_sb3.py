"""Compares the time to learn CartPole-v1 with stable-baselines3, each library with its own tuned settings.

For both libraries, the script measures the seconds from the start of a new process until the mean return of the latest
100 TRAINING episodes first reaches 475. The mean is checked after each rollout. It also measures the seconds from the
first environment step, which exclude import and compilation. The libraries alternate for each seed. The script prints
one JSON line per run, and last the ratios.

    python benchmarks/cartpole_vs_sb3.py --seeds 1 2 3 --peer-python .venv/peers/bin/python

`make peers` builds the environment of the peer. The `peers` extra also installs stable-baselines3, but it starts faster
in an environment without TensorFlow, because it imports TensorFlow if it is installed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

from shared import sb3_cartpole

TARGET = 475.0
EPISODES = 100


def run_tfppo(seed: int) -> dict[str, float]:
    """Trains with the default recipe of `make train-cartpole`, without writing files."""
    from tfppo.cli.startup import import_tensorflow

    import_tensorflow()
    from tfppo import ControlConfig, ControlRunConfig, ControlTrainer, PPOConfig, RunConfig

    trainer = ControlTrainer(ControlRunConfig(RunConfig(seed=seed), ControlConfig(), PPOConfig()))
    compiled = 0.0
    for iteration, row in trainer.iterations():
        compiled = compiled if iteration else time.time()
        if row["rollout/episodes"] >= EPISODES and row["rollout/episode_return_mean"] >= TARGET:
            return {"compiled_at": compiled, "reached_at": time.time(), "env_steps": int(row["rollout/env_steps"])}
    raise SystemExit("tfppo did not reach the target")


def run_sb3(seed: int) -> dict[str, float]:
    """Trains PPO of stable-baselines3 with the settings of its rl-zoo for CartPole-v1."""
    from stable_baselines3.common.callbacks import BaseCallback

    class StopWhenSolved(BaseCallback):
        reached_at = None

        def _on_training_start(self):
            self.started_at = time.time()

        def _on_step(self):
            return self.reached_at is None

        def _on_rollout_end(self):
            returns = [info["r"] for info in self.model.ep_info_buffer]
            if self.reached_at is None and len(returns) >= EPISODES and statistics.fmean(returns) >= TARGET:
                self.reached_at = time.time()

    model = sb3_cartpole(seed=seed)
    callback = StopWhenSolved()
    model.learn(100_000, callback=callback)
    if callback.reached_at is None:
        raise SystemExit("stable-baselines3 did not reach the target")
    return {
        "compiled_at": callback.started_at,
        "reached_at": callback.reached_at,
        "env_steps": model.num_timesteps,
    }


def measure(python: str, library: str, seed: int) -> dict[str, float | str | int]:
    """Trains one seed in a new process."""
    started = time.time()
    command = [python, __file__, "--child", library, "--seeds", str(seed)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    child = json.loads(output.strip().splitlines()[-1])
    return {
        "library": library,
        "seed": seed,
        "seconds_from_start": round(child["reached_at"] - started, 2),
        "seconds_from_first_step": round(child["reached_at"] - child["compiled_at"], 2),
        "env_steps": child["env_steps"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--peer-python", default=sys.executable, help="Python with stable-baselines3")
    parser.add_argument("--child", choices=("tfppo", "sb3"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps({"tfppo": run_tfppo, "sb3": run_sb3}[arguments.child](arguments.seeds[0])))
        return
    runs = []
    for seed in arguments.seeds:
        for library, python in (("tfppo", sys.executable), ("sb3", arguments.peer_python)):
            runs.append(measure(python, library, seed))
            print(json.dumps(runs[-1]), flush=True)
    summary = {}
    for key in ("seconds_from_start", "seconds_from_first_step"):
        ours, peer = (sorted(r[key] for r in runs if r["library"] == library) for library in ("tfppo", "sb3"))
        summary[key] = {
            "ratio": round(statistics.median(peer) / statistics.median(ours), 2),
            "ours": {"min": ours[0], "median": statistics.median(ours), "max": ours[-1]},
            "peer": {"min": peer[0], "median": statistics.median(peer), "max": peer[-1]},
        }
    print(
        json.dumps(
            {**summary["seconds_from_start"], "from_first_step": summary["seconds_from_first_step"], "runs": len(runs)}
        )
    )


if __name__ == "__main__":
    main()
