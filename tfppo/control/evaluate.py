"""How good a policy is: episodes on gymnasium's own environment."""

import itertools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfppo.control.encoders import map_space, observation_dtype
from tfppo.control.environments import forget
from tfppo.control.normalization import Normalization
from tfppo.control.rollout import ControlPolicy
from tfppo.control.vector import make_vector_environment
from tfppo.random import fold_in

MAX_ENVS = 100
SEED_OFFSET = 1_000_003  # keeps evaluation's episodes apart from those of training


def episode_returns(
    policy: ControlPolicy,
    env: str,
    episodes: int,
    seed: int,
    *,
    vectorization: str = "auto",
    normalization: Normalization | None = None,
    greedy: bool = True,
    progress: Callable[[int], None] = lambda finished: None,
) -> np.ndarray:
    """Returns of `episodes` episodes on gymnasium's own environment, float [episodes].

    Every environment plays its fixed share of the episodes: taking whichever finish first would favour short ones.

    Args:
      policy: who acts.
      env: gymnasium id.
      episodes: how many.
      seed: of the episodes' starts, and of actions that are drawn.
      vectorization: as in `vector.make_vector_environment`.
      normalization: of the observations; None: they stay as they are.
      greedy: whether the most probable actions are taken; False: actions are drawn, as in training.
      progress: told how many episodes have finished, after each step.
    """
    normalization = normalization or Normalization()
    num_envs = min(episodes, MAX_ENVS)
    shares = np.full(num_envs, episodes // num_envs) + (np.arange(num_envs) < episodes % num_envs)
    environment = make_vector_environment(env, num_envs, vectorization)
    root = tf.constant([seed, 0xE7A1], tf.int64)
    dtypes = map_space(observation_dtype, environment.single_observation_space)

    @tf.function(autograph=False)
    def act(observations, step, memory, starts):
        observations = normalization.observations(observations)
        if greedy:
            actions, memory = policy.greedy_step(observations, memory)
        else:
            noise = policy.noise([num_envs], fold_in(root, step))
            actions, _, memory = policy.step(observations, noise, memory)
        return policy.to_environment(actions), forget(memory, starts)

    try:
        observations, _ = environment.reset(seed=(seed + SEED_OFFSET) % 2**31)
        returns: list[list[float]] = [[] for _ in range(num_envs)]
        running, done = np.zeros(num_envs), np.zeros(num_envs, bool)
        memory = policy.initial_memory(num_envs)
        finished = 0
        for step in itertools.count():
            now = tf.nest.map_structure(lambda dtype, x: tf.constant(x, dtype), dtypes, observations)
            actions, memory = act(now, tf.constant(step, tf.int64), memory, tf.constant(done))
            observations, rewards, terminated, truncated, _ = environment.step(actions.numpy())
            running = np.where(done, 0.0, running + rewards)  # a step that only starts an episode counts nothing
            done = (terminated | truncated) & ~done
            for index in np.flatnonzero(done):
                if len(returns[index]) < shares[index]:
                    returns[index].append(float(running[index]))
                    finished += 1
            progress(finished)
            if finished == episodes:
                break
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
