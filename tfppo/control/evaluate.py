"""How good a policy is: greedy episodes on gymnasium's own environment."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfppo.control.gymnasium import make_vector_environment
from tfppo.control.policy import ActorCriticPolicy

MAX_ENVS = 100
SEED_OFFSET = 1_000_003  # keeps evaluation's episodes apart from those of training


def greedy_returns(
    policy: ActorCriticPolicy,
    env: str,
    episodes: int,
    seed: int,
    progress: Callable[[int], None] = lambda finished: None,
) -> np.ndarray:
    """Returns of `episodes` greedy episodes, float [episodes].

    Every environment plays its fixed share of the episodes: taking whichever finish first would favour short ones.

    Args:
      policy: whose most probable actions are taken.
      env: gymnasium id.
      episodes: how many.
      seed: of the episodes' starts.
      progress: told how many episodes have finished, after each step.
    """
    num_envs = min(episodes, MAX_ENVS)
    shares = np.full(num_envs, episodes // num_envs) + (np.arange(num_envs) < episodes % num_envs)
    environment = make_vector_environment(env, num_envs)
    try:
        greedy = tf.function(policy.greedy, autograph=False)
        observations, _ = environment.reset(seed=(seed + SEED_OFFSET) % 2**31)
        returns: list[list[float]] = [[] for _ in range(num_envs)]
        running, done = np.zeros(num_envs), np.zeros(num_envs, bool)
        finished = 0
        while finished < episodes:
            actions = greedy(tf.constant(observations, tf.float32)).numpy()
            observations, rewards, terminated, truncated, _ = environment.step(actions)
            running = np.where(done, 0.0, running + rewards)  # a step that only starts an episode counts nothing
            done = (terminated | truncated) & ~done
            for index in np.flatnonzero(done):
                if len(returns[index]) < shares[index]:
                    returns[index].append(float(running[index]))
                    finished += 1
            progress(finished)
    finally:
        environment.close()
    return np.array([value for episode_returns in returns for value in episode_returns])


def summarise(returns: np.ndarray) -> dict[str, float]:
    """mean, std, min and max of episode returns, and how many there are."""
    return {
        "episodes": len(returns),
        "mean": float(returns.mean()),
        "std": float(returns.std()),
        "min": float(returns.min()),
        "max": float(returns.max()),
    }
