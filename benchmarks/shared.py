"""Functions that several benchmarks share.

The Python of the peers imports this module too, so it imports only the standard library at the top.
"""

import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO


def spread(values: list[float]) -> dict[str, float]:
    """Returns the minimum, the median and the maximum."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def peak_bytes() -> int:
    """Returns the largest memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def trained(command: Sequence[str], folder: Path, output: TextIO = sys.stdout) -> Path:
    """Runs a command of tfppo that trains, unless its finished run exists. The output of the command goes to a file."""
    if not (folder / "evaluation.json").exists():
        words = [*command, "--name", folder.name, "--runs-dir", str(folder.parent)]
        print(f"$ tfppo {' '.join(words)}", file=output, flush=True)
        # If it fails, the process has printed the reason.
        if subprocess.run([sys.executable, "-m", "tfppo", *words], stdout=output).returncode:
            there = f"{folder} was not trained to its end: resume it, or delete it" if folder.exists() else 1
            raise SystemExit(there)
    return folder


def sb3_cartpole(seed: int, lstm_units: int = 0) -> Any:
    """Makes the PPO of stable-baselines3 with the settings of its rl-zoo for CartPole-v1, on the CPU.

    With LSTM units, it is the RecurrentPPO of sb3-contrib: one LSTM each for actor and critic, followed by one hidden
    layer of 64.
    """
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    kind, policy, options = PPO, "MlpPolicy", {}
    if lstm_units:
        from sb3_contrib import RecurrentPPO

        kind, policy = RecurrentPPO, "MlpLstmPolicy"
        networks = {"lstm_hidden_size": lstm_units, "enable_critic_lstm": True, "net_arch": [64]}
        options = {"policy_kwargs": networks}
    return kind(
        policy,
        make_vec_env("CartPole-v1", n_envs=8, seed=seed),
        n_steps=32,
        batch_size=256,
        n_epochs=20,
        learning_rate=lambda remaining: 1e-3 * remaining,
        clip_range=lambda remaining: 0.2 * remaining,
        gamma=0.98,
        gae_lambda=0.8,
        ent_coef=0.0,
        seed=seed,
        device="cpu",
        **options,
    )
