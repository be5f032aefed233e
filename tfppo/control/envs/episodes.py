"""The episodes of in-graph environments: time limit and autoreset, written once for all environments.

A finished episode is reset by a step of its own, as gymnasium's vector environments do by default (NEXT_STEP): that
step ignores the action, gives reward 0 and is masked out of everything; in exchange the observation after a step is
always its true successor.
"""

from typing import NamedTuple

import tensorflow as tf

from tfppo.control.envs.environment import Environment
from tfppo.ops.nest import Nest


class Episodes(NamedTuple):
    """B environments in the middle of their episodes."""

    state: Nest  # [B, ...] the environment's own
    returns: tf.Tensor  # [B] float32, sum of the rewards of the episode so far
    lengths: tf.Tensor  # [B] int64, steps of the episode so far
    done: tf.Tensor  # [B] bool: the next step starts a new episode


class Transition(NamedTuple):
    """What one step of B environments gives back."""

    rewards: tf.Tensor  # [B]
    terminated: tf.Tensor  # [B] bool
    truncated: tf.Tensor  # [B] bool
    mask: tf.Tensor  # [B] bool, False where the step only started a new episode


def start_episodes(environment: Environment, num_envs: int, seed: tf.Tensor) -> Episodes:
    """Starts B new episodes."""
    return Episodes(
        state=environment.reset(num_envs, seed),
        returns=tf.zeros([num_envs]),
        lengths=tf.zeros([num_envs], tf.int64),
        done=tf.zeros([num_envs], tf.bool),
    )


def fresh_states(environment: Environment, length: int, num_envs: int, seed: tf.Tensor) -> Nest:
    """Draws the states [T, B, ...] in which new episodes start, one for every step and place."""
    drawn = environment.reset(length * num_envs, seed)
    return tf.nest.map_structure(lambda x: tf.reshape(x, [length, num_envs, *x.shape[1:]]), drawn)


def step_episodes(
    environment: Environment, episodes: Episodes, actions: tf.Tensor, fresh: Nest, seed: tf.Tensor
) -> tuple[Episodes, Transition]:
    """Steps every environment, or puts it into its `fresh` state [B, ...], where its last episode is done."""
    stepped, rewards, terminated = environment.step(episodes.state, actions, seed)
    starts = episodes.done
    rewards = tf.where(starts, tf.zeros_like(rewards), rewards)
    returns = tf.where(starts, tf.zeros_like(episodes.returns), episodes.returns + tf.cast(rewards, tf.float32))
    lengths = tf.where(starts, tf.zeros_like(episodes.lengths), episodes.lengths + 1)
    terminated = terminated & ~starts
    truncated = (lengths >= environment.max_episode_steps) & ~starts
    state = tf.nest.map_structure(lambda new, old: where_rows(starts, new, old), fresh, stepped)
    episodes = Episodes(state, returns, lengths, terminated | truncated)
    return episodes, Transition(rewards, terminated, truncated, ~starts)


def where_rows(condition: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Calls tf.where with a condition [B] over tensors [B, ...]."""
    return tf.where(tf.reshape(condition, [-1] + [1] * (x.shape.rank - 1)), x, y)
