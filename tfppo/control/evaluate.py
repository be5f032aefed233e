"""Evaluates a policy by episodes in Gymnasium's own environment, at the end of a run and during it."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import tensorflow as tf
from gymnasium.vector import VectorEnv

from tfppo.control.envs.environment import Observations
from tfppo.control.envs.vector import NO_OPTIONS, is_stepped_in_turn, make_vector_environment, time_limit
from tfppo.control.envs.wrappers import ACTION_MASK
from tfppo.control.policies.empty_masks import check_masks, has_mask
from tfppo.control.policies.encoders import map_space, observation_dtype
from tfppo.control.policies.policy import ControlPolicy, Memory, forget
from tfppo.control.rollouts.normalization import Normalization
from tfppo.ops.random import fold_in
from tfppo.reporting.console import progress_bar
from tfppo.training.trainer import Evaluation

MIN_ENVS, MAX_ENVS = 10, 100  # copies that are stepped one after the other; other ones are always MAX_ENVS
MAX_STEPS = 10_000  # of an episode in an environment without a time limit
SEED_OFFSET = 1_000_003  # evaluation must not repeat the episodes of training
VALIDATION_OFFSET = 2_000_003  # validation must repeat neither these nor those of the evaluation
VALIDATION_RETURN = "validation/return_mean"
VALIDATION = (VALIDATION_RETURN, "validation/stochastic_return_mean")
NOISE_STEPS = 128  # steps whose noise is drawn at once, as in a rollout; gSDE repeats noise for several steps


class Turn(NamedTuple):
    """What a player sees after a step of B environments."""

    rewards: np.ndarray  # float [B]
    done: np.ndarray  # bool [B], an episode has just ended
    terminated: np.ndarray  # bool [B], it has ended by itself, and not by a time limit
    observations: Any  # [B, ...], as the environment returned them


class Acting:
    """The compiled steps of a policy, which evaluations of the same policy share.

    It normalizes observations, and converts actions to the form that the environment takes.

    Args:
      policy: The policy that acts.
      normalization: Normalization of observations; None leaves them unchanged.
      greedy: True takes the most probable actions; False samples actions as in training.
    """

    def __init__(self, policy: ControlPolicy, normalization: Normalization | None = None, greedy: bool = True):
        self.policy = policy
        self.normalization = normalization or Normalization()
        self.greedy = greedy
        self.act = tf.function(self._act_at, autograph=False)
        self.noise = tf.function(self._draw_noise, autograph=False)

    def _draw_noise(self, seed: tf.Tensor, num_envs: int) -> tf.Tensor:
        return self.policy.noise([NOISE_STEPS, num_envs], seed)

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


class Player:
    """Acts with a policy in a vector environment, and keeps the policy's memory.

    Args:
      acting: The steps of the policy.
      environment: A vector environment with B copies and autoreset mode NEXT_STEP.
    """

    def __init__(self, acting: Acting, environment: VectorEnv):
        self.acting = acting
        self.environment = environment
        self._dtypes = map_space(observation_dtype, environment.single_observation_space)
        self._is_masked = has_mask(environment.single_observation_space)

    def play(self, seed: int) -> Iterator[Turn]:
        """Resets the environment, and steps it without end.

        Args:
          seed: Seed of the environment and of sampled actions.

        Yields:
          What came of each step. The first turn belongs to the reset: its rewards are 0, and no episode has ended. The
          same holds for a step that only starts a new episode.
        """
        num_envs = self.environment.num_envs
        root = tf.constant([seed, 0xE7A1], tf.int64)
        observations, _ = self.environment.reset(seed=(seed + SEED_OFFSET) % 2**31)
        policy = self.acting.policy
        memory = policy.initial_memory(num_envs)
        rewards, done, terminated = np.zeros(num_envs), np.zeros(num_envs, bool), np.zeros(num_envs, bool)
        noise = tf.zeros([NOISE_STEPS])
        for step in itertools.count():
            yield Turn(rewards, done, terminated, observations)
            block, index = divmod(step, NOISE_STEPS)
            if not (self.acting.greedy or index):
                noise = self.acting.noise(fold_in(root, block), num_envs)
            if self._is_masked:
                check_masks(self.environment, observations[ACTION_MASK], policy.head.sizes, ~done, step)
            now = tf.nest.map_structure(lambda dtype, x: tf.constant(x, dtype), self._dtypes, observations)
            actions, memory = self.acting.act(now, noise, tf.constant(index), memory, tf.constant(done))
            observations, rewards, terminated, truncated, _ = self.environment.step(actions.numpy())
            done = (terminated | truncated) & ~done


class Episodes(NamedTuple):
    """Episodes that were played to evaluate a policy."""

    returns: np.ndarray  # float [N]
    unfinished: int  # episodes that still went on at `max_steps`


def play_episodes(
    acting: Acting,
    env: str,
    episodes: int,
    seed: int,
    *,
    vectorization: str = "auto",
    num_envs: int = MAX_ENVS,
    max_steps: int | None = None,
    options: Mapping[str, Any] = NO_OPTIONS,
    progress: Callable[[float], None] = lambda finished: None,
) -> Episodes:
    """Plays episodes in Gymnasium's own environment.

    Each copy of the environment plays a fixed number of the episodes. Taking the episodes that finish first would favor
    short episodes.

    Args:
      acting: The steps of the policy.
      env: The environment ID, as for `vector.make_vector_environment`.
      episodes: Number of episodes.
      seed: Seed of the environment and of sampled actions.
      vectorization: As for `vector.make_vector_environment`.
      num_envs: Largest number of copies.
      max_steps: Time limit of an episode, in steps. None keeps that of the environment.
      options: Arguments and wrappers of the environment, as for `vector.make_vector_environment`.
      progress: Function that gets the number of finished episodes, after the reset and after each step. With a time
        limit, an episode that goes on counts as a fraction of it.

    Returns:
      The episodes. They are fewer than `episodes` if a vector environment takes no time limit, and the steps of all
      episodes of a copy do not end its first ones.
    """
    num_envs = min(episodes, num_envs)
    shares = np.full(num_envs, episodes // num_envs) + (np.arange(num_envs) < episodes % num_envs)
    limit = max_steps or time_limit(env, options) or math.inf
    if max_steps is not None:
        options = {**options, "max_episode_steps": max_steps}
    environment = make_vector_environment(env, num_envs, vectorization, **options)
    try:
        returns: list[list[float]] = [[] for _ in range(num_envs)]
        running, lengths, starts = np.zeros(num_envs), np.zeros(num_envs, int), np.ones(num_envs, bool)
        counts = np.zeros(num_envs, int)
        unfinished = turns = 0
        for rewards, done, terminated, _ in Player(acting, environment).play(seed):
            running += rewards
            lengths = np.where(starts, 0, lengths + 1)
            for index in np.flatnonzero(done & (counts < shares)):
                returns[index].append(float(running[index]))
                unfinished += max_steps is not None and lengths[index] >= max_steps and not terminated[index]
            counts = np.minimum(counts + done, shares)
            running[done] = 0.0
            starts = done
            progress(float(np.sum(counts + np.where((counts < shares) & ~done, lengths / limit, 0.0))))
            if counts.sum() == episodes:
                break
            if max_steps is not None and (turns := turns + 1) > shares.max() * (max_steps + 1):
                # This form of the environment takes no time limit. The episodes that go on are the last ones.
                for index in np.flatnonzero(counts < shares):
                    returns[index].append(float(running[index]))
                    unfinished += 1
                break
    finally:
        environment.close()
    return Episodes(np.array([value for of_copy in returns for value in of_copy]), int(unfinished))


def judge(
    greedy: Acting,
    sampled: Acting,
    env: str,
    episodes: int,
    seed: int,
    *,
    vectorization: str = "auto",
    num_envs: int = MAX_ENVS,
    max_steps: int | None = None,
    options: Mapping[str, Any] = NO_OPTIONS,
    show: bool = True,
) -> dict[str, Any]:
    """Evaluates a policy with greedy and with sampled actions.

    It uses as many copies as suit the environment. Copies with a native or an in-graph form cost little, and there are
    up to 100 of them. Others are as many as in training, but at least 10.

    Args:
      greedy: The greedy steps of the policy.
      sampled: Its steps with sampled actions.
      env: The environment ID. If Gymnasium does not have it and the policy was trained in EnvPool's environment,
        EnvPool's environment is used.
      episodes: Number of episodes for each kind of actions.
      seed: As for `play_episodes`.
      vectorization: Vectorization of the training.
      num_envs: Number of copies in training.
      max_steps: Time limit of an episode, in steps. None: that of the environment, else 10,000.
      options: As for `play_episodes`.
      show: True shows progress bars.

    Returns:
      The summary of the greedy episodes, with that of the sampled ones under "stochastic". If the limit is not that of
      the environment, each has the limit as "max_steps", and as "unfinished" the number of episodes that still went on.
    """
    if vectorization == "envpool" and env not in gymnasium.registry:
        used = "envpool"
    else:
        used = "async" if vectorization == "async" else "auto"
        if time_limit(env, options) is None:
            max_steps = max_steps or MAX_STEPS
    is_costly = used == "async" or is_stepped_in_turn(env) or "wrappers" in options
    num_envs = min(max(num_envs, MIN_ENVS), MAX_ENVS) if is_costly else MAX_ENVS
    judged = []
    for acting, label in ((greedy, "evaluating greedily"), (sampled, "evaluating stochastically")):
        with progress_bar(label, episodes) if show else nullcontext(_ignore) as advance:
            played = play_episodes(
                acting,
                env,
                episodes,
                seed,
                vectorization=used,
                num_envs=num_envs,
                max_steps=max_steps,
                options=options,
                progress=advance,
            )
        capped = {} if max_steps is None else {"max_steps": max_steps, "unfinished": played.unfinished}
        judged.append(summarise(played.returns) | capped)
    return judged[0] | {"stochastic": judged[1]}


def _ignore(finished: float) -> None:
    """Shows no progress."""


class Validation:
    """Plays the same episodes again and again during a run.

    Args:
      play: Function of a number of episodes and a seed that returns an evaluation, as `results.ControlResults.judge`.
      episodes: Number of greedy episodes, and of episodes with sampled actions.
      seed: Seed of the run.
    """

    def __init__(self, play: Callable[[int, int], Evaluation], episodes: int, seed: int):
        self._play = play
        self._episodes = episodes
        self._seed = (seed + VALIDATION_OFFSET) % 2**31
        # A checkpoint holds the values, so that a resumed run repeats them.
        self.latest = tf.Variable([math.nan] * len(VALIDATION), dtype=tf.float64, trainable=False)

    @property
    def metrics(self) -> dict[str, float]:
        """The latest values by name. NaN: not measured yet."""
        return dict(zip(VALIDATION, map(float, self.latest.numpy()), strict=True))

    def measure(self) -> None:
        """Plays the episodes with the policy of now."""
        evaluation = self._play(self._episodes, self._seed)
        self.latest.assign([evaluation["mean"], evaluation["stochastic"]["mean"]])  # type: ignore[index]


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
    """Returns an evaluation as text: one line with the returns, one with the hash of the weights.

    If episodes did not end within the time limit, a third line says how many did.
    """
    drawn = evaluation["stochastic"]
    whose = "Gymnasium's " if evaluation["env"] in gymnasium.registry else ""
    text = (
        f"greedy return over {evaluation['episodes']} episodes of {whose}{evaluation['env']}: "
        f"{_returns(evaluation)}; with actions sampled as in training: {_returns(drawn)}\n"
        f"weights {evaluation['weights']} (SHA-256)"
    )
    if not (evaluation.get("unfinished") or drawn.get("unfinished")):
        return text
    ended = [f"{each['episodes'] - each['unfinished']} of {each['episodes']}" for each in (evaluation, drawn)]
    return (
        f"{text}\n{ended[0]} greedy episodes and {ended[1]} episodes with sampled actions ended within "
        f"{evaluation['max_steps']:,} steps (option --eval-max-steps); the others count with their return up to then"
    )


def _returns(summary: dict[str, Any]) -> str:
    """Formats mean, standard deviation and range with at least four significant digits."""
    largest = max(abs(summary["mean"]), summary["std"])
    decimals = min(max(1, 3 - math.floor(math.log10(largest))), 9) if 0 < largest < math.inf else 1
    mean, std = (f"{summary[name]:.{decimals}f}" for name in ("mean", "std"))
    return f"{mean} +- {std}, from {summary['min']:g} to {summary['max']:g}"
