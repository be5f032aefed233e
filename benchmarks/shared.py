"""Functions that several benchmarks share.

The Python of the peers imports this module too, so it imports only the standard library at the top.
"""

import resource
import statistics
from typing import Any


def spread(values: list[float]) -> dict[str, float]:
    """Returns the minimum, the median and the maximum."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def peak_megabytes() -> float:
    """Returns the largest memory that this process has had, in megabytes."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


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
