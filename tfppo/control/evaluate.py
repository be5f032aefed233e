"""Evaluates a policy: episodes in Gymnasium's own environment."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import tensorflow as tf
from gymnasium.vector import VectorEnv

from tfppo.control.envs.environment import Observations
from tfppo.control.envs.vector import make_vector_environment
from tfppo.control.policies.encoders import map_space, observation_dtype
from tfppo.control.policies.policy import ControlPolicy, Memory, forget
from tfppo.control.rollouts.normalization import Normalization
from tfppo.ops.random import fold_in
from tfppo.reporting.console import progress_bar

MAX_ENVS = 100
SEED_OFFSET = 1_000_003  # evaluation must not repeat the episodes of training
NOISE_STEPS = 128  # steps whose noise is drawn at once, as in a rollout; gSDE repeats noise for several steps


class Player:
    """Acts with a policy in a vector environment.

    It normalizes observations, keeps the policy's memory, and converts actions to the form that the environment takes.

    Args:
      policy: The policy that acts.
      environment: A vector environment with B copies and autoreset mode NEXT_STEP.
      normalization: Normalization of observations; None leaves them unchanged.
      greedy: True takes the most probable actions; False samples actions as in training.
    """

    def __init__(
        self,
        policy: ControlPolicy,
        environment: VectorEnv,
        normalization: Normalization | None = None,
        greedy: bool = True,
    ):
        self.policy = policy
        self.environment = environment
        self.normalization = normalization or Normalization()
        self.greedy = greedy
        self._dtypes = map_space(observation_dtype, environment.single_observation_space)
        self._act = tf.function(self._act_at, autograph=False)
        self._noise = tf.function(self._draw_noise, autograph=False)

    def play(self, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Resets the environment, and steps it without end.

        Args:
          seed: Seed of the environment and of sampled actions.

        Yields:
          Rewards, float [B], and whether an episode has just ended, bool [B]. The first pair belongs to the reset: its
          rewards are 0, and no episode has ended. The same holds for a step that only starts a new episode.
        """
        num_envs = self.environment.num_envs
        root = tf.constant([seed, 0xE7A1], tf.int64)
        observations, _ = self.environment.reset(seed=(seed + SEED_OFFSET) % 2**31)
        memory = self.policy.initial_memory(num_envs)
        rewards, done = np.zeros(num_envs), np.zeros(num_envs, bool)
        noise = tf.zeros([NOISE_STEPS])
        for step in itertools.count():
            yield rewards, done
            block, index = divmod(step, NOISE_STEPS)
            if not (self.greedy or index):
                noise = self._noise(fold_in(root, block))
            now = tf.nest.map_structure(lambda dtype, x: tf.constant(x, dtype), self._dtypes, observations)
            actions, memory = self._act(now, noise, tf.constant(index), memory, tf.constant(done))
            observations, rewards, terminated, truncated, _ = self.environment.step(actions.numpy())
            done = (terminated | truncated) & ~done

    def _draw_noise(self, seed: tf.Tensor) -> tf.Tensor:
        return self.policy.noise([NOISE_STEPS, self.environment.num_envs], seed)

    def _act_at(
        self, observations: Observations, noise: tf.Tensor, index: tf.Tensor, memory: Memory, starts: tf.Tensor
    ) -> tuple[tf.Tensor, Memory]:
        """Returns actions for the environment and the memory after the step.

        The memory is zero where this step only starts a new episode.
        """
        observations = self.normalization.observations(observations)
        if self.greedy:
            actions, memory = self.policy.greedy_step(observations, memory)
        else:
            actions, _, memory = self.policy.step(observations, noise[index], memory)
        return self.policy.to_environment(actions), forget(memory, starts)


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
    """Computes returns of episodes in Gymnasium's own environment.

    Each copy of the environment plays a fixed number of the episodes. Taking the episodes that finish first would favor
    short episodes.

    Args:
      policy: The policy that acts.
      env: The environment ID, as for `vector.make_vector_environment`.
      episodes: Number of episodes.
      seed: Seed of the environment and of sampled actions.
      vectorization: As for `vector.make_vector_environment`.
      normalization: Normalization of observations; None leaves them unchanged.
      greedy: True takes the most probable actions; False samples actions as in training.
      progress: Function that gets the number of finished episodes, after the reset and after each step.

    Returns:
      Returns of the episodes, float [episodes].
    """
    num_envs = min(episodes, MAX_ENVS)
    shares = np.full(num_envs, episodes // num_envs) + (np.arange(num_envs) < episodes % num_envs)
    environment = make_vector_environment(env, num_envs, vectorization)
    try:
        returns: list[list[float]] = [[] for _ in range(num_envs)]
        running = np.zeros(num_envs)
        finished = 0
        for rewards, done in Player(policy, environment, normalization, greedy).play(seed):
            running += rewards
            for index in np.flatnonzero(done):
                if len(returns[index]) < shares[index]:
                    returns[index].append(float(running[index]))
                    finished += 1
            running[done] = 0.0
            progress(finished)
            if finished == episodes:
                break
    finally:
        environment.close()
    return np.array([value for episode_returns in returns for value in episode_returns])


def judge(
    policy: ControlPolicy,
    env: str,
    episodes: int,
    seed: int,
    *,
    vectorization: str = "auto",
    normalization: Normalization | None = None,
) -> dict[str, Any]:
    """Evaluates a policy with greedy and with sampled actions, and shows progress bars.

    Args:
      policy: The policy that acts.
      env: The environment ID. If Gymnasium does not have it and the policy was trained in EnvPool's environment,
        EnvPool's environment is used.
      episodes: Number of episodes for each kind of actions.
      seed: As for `episode_returns`.
      vectorization: Vectorization of the training.
      normalization: Normalization of observations; None leaves them unchanged.

    Returns:
      The summary of the greedy episodes, with that of the sampled ones under "stochastic".
    """
    is_foreign = vectorization == "envpool" and env not in gymnasium.registry
    judged = []
    for greedy, label in ((True, "evaluating greedily"), (False, "evaluating stochastically")):
        with progress_bar(label, episodes) as advance:
            returns = episode_returns(
                policy,
                env,
                episodes,
                seed,
                vectorization="envpool" if is_foreign else "auto",
                normalization=normalization,
                greedy=greedy,
                progress=advance,
            )
        judged.append(summarise(returns))
    return judged[0] | {"stochastic": judged[1]}


def summarise(returns: np.ndarray) -> dict[str, float]:
    """Returns the number of episodes, and mean, std, min and max of their returns."""
    return {
        "episodes": len(returns),
        "mean": float(returns.mean()),
        "std": float(returns.std()),
        "min": float(returns.min()),
        "max": float(returns.max()),
    }


def describe(evaluation: dict[str, Any]) -> str:
    """Returns an evaluation as text: one line with the returns, and one with the hash of the weights."""
    shown = "{mean:.1f} +- {std:.1f}, from {min:g} to {max:g}"
    drawn = evaluation["stochastic"]
    whose = "Gymnasium's " if evaluation["env"] in gymnasium.registry else ""
    return (
        f"greedy return over {evaluation['episodes']} episodes of {whose}{evaluation['env']}: "
        f"{shown.format(**evaluation)}; with actions sampled as in training: {shown.format(**drawn)}\n"
        f"weights {evaluation['weights']} (SHA-256)"
    )
