"""Returns and lengths of the latest finished episodes, computed in the graph."""

import tensorflow as tf

from tfppo.ppo.types import Trajectory

WINDOW = 100  # number of episodes in the reported mean, as in stable-baselines3


class EpisodeStatistics(tf.Module):
    """Keeps returns and lengths of the latest finished episodes, oldest first, and counts of the whole run."""

    def __init__(self) -> None:
        super().__init__(name="episode_statistics")
        zero = tf.zeros([], tf.int64)
        self.latest_returns = tf.Variable(tf.zeros([WINDOW]), trainable=False)
        self.latest_lengths = tf.Variable(tf.zeros([WINDOW]), trainable=False)
        self.num_episodes = tf.Variable(zero, trainable=False)  # finished
        self.env_steps = tf.Variable(zero, trainable=False)  # without steps that only started an episode

    @property
    def state(self) -> list[tf.Variable]:
        """All variables, in a fixed order."""
        return [self.latest_returns, self.latest_lengths, self.num_episodes, self.env_steps]

    def update(self, trajectory: Trajectory) -> None:
        """Adds the finished episodes and the steps of a trajectory."""
        finished = tf.reshape(trajectory.terminated | trajectory.truncated, [-1])  # [T * B], in order of time
        later = tf.cumsum(tf.cast(finished, tf.int32), exclusive=True, reverse=True)  # episodes that finish later
        slot = tf.where(finished & (later < WINDOW), WINDOW - 1 - later, WINDOW)  # slot WINDOW is discarded
        num_finished = tf.math.count_nonzero(finished)
        _push(self.latest_returns, trajectory.episode_returns, slot, num_finished)
        _push(self.latest_lengths, trajectory.episode_lengths, slot, num_finished)
        self.num_episodes.assign_add(num_finished)
        self.env_steps.assign_add(tf.math.count_nonzero(trajectory.mask))

    def metrics(self) -> dict[str, tf.Tensor]:
        """Returns the counts, and means over the latest episodes (NaN before the first episode has finished)."""
        num_episodes = self.num_episodes.read_value()
        count = tf.minimum(num_episodes, WINDOW)
        held = tf.range(WINDOW, dtype=tf.int64) >= WINDOW - count  # [WINDOW]
        divisor = tf.cast(count, tf.float32)

        def mean(latest: tf.Variable) -> tf.Tensor:
            return tf.reduce_sum(tf.where(held, latest.read_value(), 0.0)) / divisor

        return {
            "rollout/episode_return_mean": mean(self.latest_returns),
            "rollout/episode_length_mean": mean(self.latest_lengths),
            "rollout/episodes": num_episodes,
            "rollout/env_steps": self.env_steps.read_value(),
        }


def _push(latest: tf.Variable, values: tf.Tensor, slot: tf.Tensor, num_new: tf.Tensor) -> None:
    """Shifts `latest` by `num_new`, and writes the new values into their slots."""
    shift = tf.cast(tf.minimum(num_new, WINDOW), tf.int32)
    padded = tf.concat([latest.read_value(), tf.zeros([WINDOW + 1])], axis=0)
    moved = tf.gather(padded, shift + tf.range(WINDOW + 1))
    values = tf.cast(tf.reshape(values, [-1]), tf.float32)
    latest.assign(tf.tensor_scatter_nd_update(moved, slot[:, tf.newaxis], values)[:WINDOW])
