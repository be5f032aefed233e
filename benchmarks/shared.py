"""What several benchmarks have in common. It is imported by the peers' Python too, and so needs nothing but Python."""

import statistics
from typing import Any


def spread(values: list[float]) -> dict[str, float]:
    """Least, median and most."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def sb3_cartpole(seed: int) -> Any:
    """stable-baselines3's PPO with the settings of its rl-zoo for CartPole-v1, on the CPU."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    return PPO(
        "MlpPolicy",
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
    )
