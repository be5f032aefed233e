"""Environments as tensors: the contract of an in-graph environment, and the episodes around it.

Time limit and autoreset are written once, here, for all of them. A finished episode is reset by a step of its own,
as gymnasium's vector environments do by default (NEXT_STEP): that step ignores the action, gives reward 0 and is
masked out of everything; in exchange the observation after a step is always its true successor.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import gymnasium
import tensorflow as tf

from tfppo.errors import UsageError
from tfppo.execution.replicas import ALONE, Replicas
from tfppo.ops.random import fold_in
from tfppo.ppo.types import Trajectory
from tfppo.training.user_modules import import_named


class Environment(Protocol):
    """An in-graph environment: pure functions of tensors, batched over B copies, on any device."""

    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    max_episode_steps: int

    def reset(self, num_envs: int, seed: tf.Tensor) -> Any:
        """Fresh states: a nest of tensors [B, ...]."""

    def observe(self, state: Any) -> Any:
        """Observations [B, ...] of the states: a tensor, or a dictionary of tensors for a Dict space."""

    def step(self, state: Any, actions: tf.Tensor, seed: tf.Tensor) -> tuple[Any, tf.Tensor, tf.Tensor]:
        """The next states, the rewards [B] and whether the episodes terminated [B] bool."""


IN_GRAPH_ENVIRONMENTS: dict[str, Callable[[], Environment]] = {}
"""What makes each in-graph environment that is known, by its id."""


def register_environment(env: str, make: Callable[[], Environment]) -> None:
    """Makes an in-graph environment known by an id: `make()` gives one.

    Raises:
      UsageError: if another one has this id.
    """
    if IN_GRAPH_ENVIRONMENTS.setdefault(env, make) is not make:
        raise UsageError(f"environment id {env} is taken by {IN_GRAPH_ENVIRONMENTS[env]}: give another one")


def registered_id(env: str) -> str:
    """The id under which an environment is registered: "module:id" without its module, which is imported, as gymnasium
    does it, and registers the environment, here or with gymnasium.

    Raises:
      UsageError: if the module cannot be imported.
    """
    module, _, name = env.rpartition(":")
    if module:
        import_named(module, f"env {env!r}")
    return name


class Episodes(NamedTuple):
    """B environments in the middle of their episodes."""

    state: Any  # [B, ...] the environment's own
    returns: tf.Tensor  # [B] float32, sum of the rewards of the episode so far
    lengths: tf.Tensor  # [B] int64, steps of the episode so far
    done: tf.Tensor  # [B] bool: the next step starts a new episode
    memory: Any = ()  # [B, ...] what a recurrent policy remembers of the episode


class Transition(NamedTuple):
    """What one step of B environments gives back."""

    rewards: tf.Tensor  # [B]
    terminated: tf.Tensor  # [B] bool
    truncated: tf.Tensor  # [B] bool
    mask: tf.Tensor  # [B] bool, False where the step only started a new episode


def start_episodes(environment: Environment, num_envs: int, seed: tf.Tensor, memory: Any = ()) -> Episodes:
    """B new episodes, with the policy's `memory` [B, ...] of nothing."""
    return Episodes(
        state=environment.reset(num_envs, seed),
        returns=tf.zeros([num_envs]),
        lengths=tf.zeros([num_envs], tf.int64),
        done=tf.zeros([num_envs], tf.bool),
        memory=memory,
    )


def step_episodes(
    environment: Environment, episodes: Episodes, actions: tf.Tensor, fresh: Any, seed: tf.Tensor
) -> tuple[Episodes, Transition]:
    """Steps every environment, or puts it into its `fresh` state, its memory zero, where its last episode is done."""
    stepped, rewards, terminated = environment.step(episodes.state, actions, seed)
    starts = episodes.done
    rewards = tf.where(starts, tf.zeros_like(rewards), rewards)
    returns = tf.where(starts, tf.zeros_like(episodes.returns), episodes.returns + tf.cast(rewards, tf.float32))
    lengths = tf.where(starts, tf.zeros_like(episodes.lengths), episodes.lengths + 1)
    terminated = terminated & ~starts
    truncated = (lengths >= environment.max_episode_steps) & ~starts
    state = tf.nest.map_structure(lambda new, old: _where(starts, new, old), fresh, stepped)
    episodes = Episodes(state, returns, lengths, terminated | truncated, forget(episodes.memory, starts))
    return episodes, Transition(rewards, terminated, truncated, ~starts)


def collect_trajectory(
    environment: Environment,
    episodes: Episodes,
    act: Callable[[Any, Any, Any], tuple[tf.Tensor, Any, Any]],
    noise: Any,
    seed: tf.Tensor,
    to_environment: Callable[[tf.Tensor], tf.Tensor] = tf.identity,
    replicas: Replicas = ALONE,
    index: int = 0,
) -> tuple[Episodes, Trajectory, tuple[tf.Tensor, tf.Tensor]]:
    """T steps of B environments in one loop, on from where the last trajectory ended.

    All random numbers are drawn before the loop, where one draw costs little more than a step's: drawing in every
    step took more than half of a rollout's time in graph mode.

    Args:
      environment: the environment.
      episodes: where its B copies are.
      act: of observations [B, ...], noise [B, ...] and memory [B, ...]; gives actions [B, ...], the distribution they
        come from, and the memory afterwards.
      noise: random numbers for `act`, a nest of [T, B, ...].
      seed: of new episodes and of stochastic dynamics.
      to_environment: what the environment gets for actions that the trajectory keeps as they are.
      replicas: who share the B copies; each draws the random numbers of all of them and steps its own, but stochastic
        dynamics draw for the share alone.
      index: of the replica.

    Returns:
      the episodes afterwards, the trajectory, and the returns [T, B] and lengths [T, B] of the episodes so far; those
      of the replica's share.
    """
    length, num_envs = tf.nest.flatten(noise)[0].shape[:2]
    drawn = environment.reset(length * num_envs, fold_in(seed, 0))
    fresh = tf.nest.map_structure(lambda x: tf.reshape(x, [length, num_envs, *x.shape[1:]]), drawn)
    step_seed = fold_in(seed, 1)
    if index:
        step_seed = fold_in(step_seed, -index)
    episodes = replicas.cut(episodes, index)
    noise, fresh = replicas.cut((noise, fresh), index, axis=1)

    def advance(time, episodes):
        noise_now, fresh_now = tf.nest.map_structure(lambda x: x[time], (noise, fresh))
        observations = environment.observe(episodes.state)
        actions, distribution, memory = act(observations, noise_now, episodes.memory)
        episodes, transition = step_episodes(
            environment,
            episodes._replace(memory=memory),
            to_environment(actions),
            fresh_now,
            fold_in(step_seed, time),
        )
        return episodes, (observations, actions, distribution, transition, episodes.returns, episodes.lengths)

    _, example = advance(0, episodes)  # only its shapes are used: the compiler drops the rest
    arrays = tf.nest.map_structure(lambda x: tf.TensorArray(x.dtype, size=length, element_shape=x.shape), example)

    def body(time, episodes, arrays):
        episodes, record = advance(time, episodes)
        return time + 1, episodes, tf.nest.map_structure(lambda a, x: a.write(time, x), arrays, record)

    _, episodes, arrays = tf.while_loop(lambda time, *_: time < length, body, (tf.constant(0), episodes, arrays))
    record = tf.nest.map_structure(lambda a: a.stack(), arrays)  # [T, B, ...]
    observations, actions, distribution, transition, returns, lengths = record
    last = environment.observe(episodes.state)  # [B, ...]
    trajectory = Trajectory(
        observations=tf.nest.map_structure(
            lambda x, y: tf.concat([x, y[tf.newaxis]], axis=0), observations, last
        ),  # [T + 1, B, ...]
        actions=actions,
        distribution=distribution,
        rewards=transition.rewards,
        terminated=transition.terminated,
        truncated=transition.truncated,
        mask=transition.mask,
    )
    return episodes, trajectory, (returns, lengths)


def forget(memory: Any, starts: tf.Tensor) -> Any:
    """A policy's memory [B, ...], zero behind a step that only started a new episode (`starts` [B] bool)."""
    return tf.nest.map_structure(lambda x: _where(starts, tf.zeros_like(x), x), memory)


def _where(condition: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """tf.where with a condition [B] over tensors [B, ...]."""
    return tf.where(tf.reshape(condition, [-1] + [1] * (x.shape.rank - 1)), x, y)
