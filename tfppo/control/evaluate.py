"""How good a policy is: episodes on gymnasium's own environment."""

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
SEED_OFFSET = 1_000_003  # keeps evaluation's episodes apart from those of training
NOISE_STEPS = 128  # whose noise is drawn at once, as a rollout's is: gSDE's stays for several steps


class Player:
    """A policy that acts in a vector environment: observations normalised, the memory kept, actions as the environment
    takes them.

    Args:
      policy: acts.
      environment: B environments that start a new episode by a step of its own (gymnasium's NEXT_STEP).
      normalization: of the observations; None: they stay as they are.
      greedy: whether the most probable actions are taken; False: actions are drawn, as in training.
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
        """Resets the environment, then steps it for ever; `seed` is that of the episodes' starts and of drawn actions.

        Yields rewards, float [B], and whether an episode has ended, bool [B]: of the reset, which gives 0 and ends
        nothing, as does a step that only starts an episode, and then of each step.
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
        """Returns what the environment gets, and the memory: zero where this step only starts a new episode."""
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
    """Returns of `episodes` episodes on gymnasium's own environment, float [episodes].

    Every environment plays its fixed share of the episodes: taking whichever finish first would favour short ones.

    Args:
      policy: acts.
      env: its id, as in `vector.make_vector_environment`.
      episodes: how many.
      seed: of the episodes' starts, and of actions that are drawn.
      vectorization: as in `vector.make_vector_environment`.
      normalization: of the observations; None: they stay as they are.
      greedy: whether the most probable actions are taken; False: actions are drawn, as in training.
      progress: told how many episodes have finished, at the start and after each step.
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
    """Greedy episodes, summarised, and under "stochastic" as many with actions that are drawn; shows its progress.

    Args:
      policy: who acts.
      env: its id; where gymnasium has none of it and the policy was trained on EnvPool's, it is EnvPool's.
      episodes: how many of each.
      seed: as for `episode_returns`.
      vectorization: of the training.
      normalization: of the observations; None: they stay as they are.
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
    """mean, std, min and max of episode returns, and how many there are."""
    return {
        "episodes": len(returns),
        "mean": float(returns.mean()),
        "std": float(returns.std()),
        "min": float(returns.min()),
        "max": float(returns.max()),
    }


def describe(evaluation: dict[str, Any]) -> str:
    """An evaluation in a line."""
    shown = "{mean:.1f} +- {std:.1f}, from {min:g} to {max:g}"
    drawn = evaluation["stochastic"]
    whose = "gymnasium's " if evaluation["env"] in gymnasium.registry else ""
    return (
        f"greedy return over {evaluation['episodes']} episodes of {whose}{evaluation['env']}: "
        f"{shown.format(**evaluation)}; with actions drawn as in training: {shown.format(**drawn)}\n"
        f"weights {evaluation['weights']} (SHA-256)"
    )
