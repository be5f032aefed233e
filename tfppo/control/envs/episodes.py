"""Time limit and autoreset of in-graph environments.

The step after the end of an episode only resets the environment, which is the default of Gymnasium's vector
environments (NEXT_STEP). This step ignores the action, has reward 0, and is masked out everywhere. The advantage: the
observation after every other step is its true next observation.
"""

from typing import NamedTuple

import tensorflow as tf

from tfppo.control.envs.environment import Environment
from tfppo.ops.nest import Nest


class Episodes(NamedTuple):
    """The state of B environments and of their current episodes."""

    state: Nest  # [B, ...], the environment's state
    returns: tf.Tensor  # [B] float32, sum of the rewards of the current episode
    lengths: tf.Tensor  # [B] int64, steps of the current episode
    done: tf.Tensor  # [B] bool, True: the next step only starts a new episode


class Transition(NamedTuple):
    """The result of one step of B environments."""

    rewards: tf.Tensor  # [B]
    terminated: tf.Tensor  # [B] bool
    truncated: tf.Tensor  # [B] bool
    mask: tf.Tensor  # [B] bool, False where the step only started a new episode


def start_episodes(environment: Environment, num_envs: int, seed: tf.Tensor) -> Episodes:
    """Starts B new episodes.

    Args:
      environment: The environment.
      num_envs: B.
      seed: Integer tensor [2].

    Returns:
      The new episodes.
    """
    return Episodes(
        state=environment.reset(num_envs, seed),
        returns=tf.zeros([num_envs]),
        lengths=tf.zeros([num_envs], tf.int64),
        done=tf.zeros([num_envs], tf.bool),
    )


def fresh_states(environment: Environment, length: int, num_envs: int, seed: tf.Tensor) -> Nest:
    """Draws initial states [T, B, ...], one for every step and environment.

    Args:
      environment: The environment.
      length: T.
      num_envs: B.
      seed: Integer tensor [2].

    Returns:
      The states, a nest of [T, B, ...].
    """
    drawn = environment.reset(length * num_envs, seed)
    return tf.nest.map_structure(lambda x: tf.reshape(x, [length, num_envs, *x.shape[1:]]), drawn)


def step_episodes(
    environment: Environment,
    episodes: Episodes,
    actions: tf.Tensor,
    fresh: Nest,
    seed: tf.Tensor,
    max_episode_steps: int | None = None,
) -> tuple[Episodes, Transition]:
    """Steps every environment whose episode continues, and resets the others.

    Args:
      environment: The environment.
      episodes: The episodes before the step.
      actions: [B, ...].
      fresh: Initial states [B, ...] for the environments that are reset.
      seed: Integer tensor [2], for stochastic dynamics.
      max_episode_steps: Time limit of an episode, in steps. None: that of the environment.

    Returns:
      The episodes after the step, and the transition.
    """
    stepped, rewards, terminated = environment.step(episodes.state, actions, seed)
    starts = episodes.done
    rewards = tf.where(starts, tf.zeros_like(rewards), rewards)
    returns = tf.where(starts, tf.zeros_like(episodes.returns), episodes.returns + tf.cast(rewards, tf.float32))
    lengths = tf.where(starts, tf.zeros_like(episodes.lengths), episodes.lengths + 1)
    terminated = terminated & ~starts
    truncated = (lengths >= (max_episode_steps or environment.max_episode_steps)) & ~starts
    state = tf.nest.map_structure(lambda new, old: where_rows(starts, new, old), fresh, stepped)
    episodes = Episodes(state, returns, lengths, terminated | truncated)
    return episodes, Transition(rewards, terminated, truncated, ~starts)


def where_rows(condition: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Selects rows of x or y [B, ...] by a condition [B], as tf.where does with elements."""
    return tf.where(tf.reshape(condition, [-1] + [1] * (x.shape.rank - 1)), x, y)
