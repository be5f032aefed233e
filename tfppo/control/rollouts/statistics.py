"""Episode returns and lengths as they finish, kept in the graph: a window over the latest episodes."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from tfppo.ppo.types import Trajectory

WINDOW = 100  # episodes in the mean that is reported, as in stable-baselines3


class EpisodeStatistics(NamedTuple):
    """The latest finished episodes, oldest first, and counts since the run began."""

    latest_returns: tf.Tensor  # [WINDOW] float32
    latest_lengths: tf.Tensor  # [WINDOW] float32
    num_episodes: tf.Tensor  # [] int64, finished
    env_steps: tf.Tensor  # [] int64, steps that only started an episode left out


def empty_statistics() -> EpisodeStatistics:
    """Nothing has happened yet."""
    zero = tf.zeros([], tf.int64)
    return EpisodeStatistics(tf.zeros([WINDOW]), tf.zeros([WINDOW]), zero, zero)


def read_statistics(state: Sequence[tf.Variable]) -> EpisodeStatistics:
    """The statistics that a collector keeps in the last of its variables."""
    return EpisodeStatistics(*(variable.read_value() for variable in state[-len(EpisodeStatistics._fields) :]))


def update_statistics(
    statistics: EpisodeStatistics, trajectory: Trajectory, returns: tf.Tensor, lengths: tf.Tensor
) -> EpisodeStatistics:
    """The statistics after one more trajectory.

    Args:
      statistics: before it.
      trajectory: T steps of B environments.
      returns: [T, B] sum of the rewards of the running episode, up to each step.
      lengths: [T, B] steps of the running episode, up to each step.
    """
    finished = tf.reshape(trajectory.terminated | trajectory.truncated, [-1])  # [T * B], in the order of time
    later = tf.cumsum(tf.cast(finished, tf.int32), exclusive=True, reverse=True)  # how many finish after it
    slot = tf.where(finished & (later < WINDOW), WINDOW - 1 - later, WINDOW)  # slot WINDOW is thrown away
    num_finished = tf.math.count_nonzero(finished)
    return EpisodeStatistics(
        _push(statistics.latest_returns, returns, slot, num_finished),
        _push(statistics.latest_lengths, lengths, slot, num_finished),
        statistics.num_episodes + num_finished,
        statistics.env_steps + tf.math.count_nonzero(trajectory.mask),
    )


def statistics_metrics(statistics: EpisodeStatistics) -> dict[str, tf.Tensor]:
    """Means over the latest episodes (NaN before the first one has finished) and the count of steps."""
    count = tf.minimum(statistics.num_episodes, WINDOW)
    held = tf.range(WINDOW, dtype=tf.int64) >= WINDOW - count  # [WINDOW]
    divisor = tf.cast(count, tf.float32)

    def mean(latest):
        return tf.reduce_sum(tf.where(held, latest, 0.0)) / divisor

    return {
        "rollout/episode_return_mean": mean(statistics.latest_returns),
        "rollout/episode_length_mean": mean(statistics.latest_lengths),
        "rollout/episodes": statistics.num_episodes,
        "rollout/env_steps": statistics.env_steps,
    }


def _push(latest: tf.Tensor, values: tf.Tensor, slot: tf.Tensor, num_new: tf.Tensor) -> tf.Tensor:
    """`latest` moved on by `num_new`, with the newest values in their slots."""
    shift = tf.cast(tf.minimum(num_new, WINDOW), tf.int32)
    padded = tf.concat([latest, tf.zeros([WINDOW + 1])], axis=0)
    moved = tf.gather(padded, shift + tf.range(WINDOW + 1))
    values = tf.cast(tf.reshape(values, [-1]), tf.float32)
    return tf.tensor_scatter_nd_update(moved, slot[:, tf.newaxis], values)[:WINDOW]
