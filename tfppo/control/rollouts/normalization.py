"""Normalization of observations and rewards with running statistics, which are part of a checkpoint.

The statistics of observations are constant during a rollout and the update on it, and include the rollout afterwards.
So the policy evaluates the same normalized observations that it acted on, and the probability ratio starts at 1. The
statistics of rewards include a rollout before its rewards are scaled.
"""

from typing import NamedTuple

import gymnasium
import tensorflow as tf

from tfppo.control.envs.environment import Observations
from tfppo.control.envs.wrappers import ACTION_MASK
from tfppo.control.policies.encoders import is_image
from tfppo.ops.masking import masked_finite
from tfppo.ppo.types import Trajectory

CLIP = 10.0  # standard deviations
EPSILON = 1e-8  # added to variances
WHOLE = "observations"  # the key of observations that are not a dictionary


class Moments(NamedTuple):
    """Count, mean and variance of the values so far."""

    count: tf.Tensor  # [] float64
    mean: tf.Tensor  # [...] float64
    variance: tf.Tensor  # [...] float64, population variance


def initial_moments(shape: tuple[int, ...]) -> Moments:
    """Returns the moments of no values; normalization with them changes nothing except clipping."""
    return Moments(tf.zeros([], tf.float64), tf.zeros(shape, tf.float64), tf.ones(shape, tf.float64))


def merge_moments(moments: Moments, values: tf.Tensor, mask: tf.Tensor | None = None) -> Moments:
    """Merges moments with those of new values [N, ...].

    Args:
      moments: The moments of the values so far.
      values: [N, ...].
      mask: bool [N], True where a value counts. None counts every value.

    Returns:
      The moments of all values.

    Source:
      Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances".
    """
    values = tf.cast(values, tf.float64)
    mask = tf.ones(tf.shape(values)[:1], tf.bool) if mask is None else mask
    count = tf.reduce_sum(tf.cast(mask, tf.float64))
    counts = tf.reshape(mask, [-1, *[1] * (values.shape.rank - 1)])

    def mean_of(x: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.where(counts, x, 0.0), axis=0) / tf.maximum(count, 1.0)

    mean = mean_of(values)
    variance = mean_of(tf.square(values - mean))
    total = moments.count + count
    share = tf.math.divide_no_nan(count, total)  # of the new values
    delta = mean - moments.mean
    between = tf.square(delta) * share * (1.0 - share)
    merged = moments.variance * (1.0 - share) + variance * share + between
    return Moments(total, moments.mean + delta * share, tf.where(total > 0, merged, moments.variance))


class RunningMoments(tf.Module):
    """Keeps the moments of all values so far.

    Args:
      shape: The shape of one value.
    """

    def __init__(self, shape: tuple[int, ...]):
        super().__init__(name="running_moments")
        self.state = [tf.Variable(x, trainable=False) for x in initial_moments(shape)]

    @property
    def variance(self) -> tf.Variable:
        """The variance of all values so far."""
        return self.state[2]

    def take_in(self, values: tf.Tensor, mask: tf.Tensor) -> None:
        """Merges the values [N, ...] inside a mask [N].

        It leaves them out if one of them is not finite; the guard skips the update on such a rollout.
        """
        before = Moments(*(variable.read_value() for variable in self.state))
        finite = masked_finite(values, mask)
        for variable, old, new in zip(self.state, before, merge_moments(before, values, mask), strict=True):
            variable.assign(tf.where(finite, new, old))

    def normalized(self, x: tf.Tensor) -> tf.Tensor:
        """Normalizes `x` to mean 0 and standard deviation 1, and clips it to [-10, 10].

        Args:
          x: `[..., *shape]`.

        Returns:
          The normalized values, `[..., *shape]`.
        """
        mean, scale = (tf.cast(value, x.dtype) for value in self.mean_and_scale())
        return tf.clip_by_value((x - mean) * scale, -CLIP, CLIP)

    def mean_and_scale(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the mean, and the factor that makes the standard deviation 1: float64 `[*shape]` each."""
        _, mean, variance = self.state
        return mean.read_value(), tf.math.rsqrt(variance + EPSILON)


class RewardScale(tf.Module):
    """Divides rewards by the running standard deviation of the discounted return, and clips them to [-10, 10].

    Args:
      num_envs: B.
      gamma: Discount factor of the return.
    """

    def __init__(self, num_envs: int, gamma: float):
        super().__init__(name="reward_scale")
        self.gamma = gamma
        self._moments = RunningMoments(())
        self._running = tf.Variable(tf.zeros([num_envs]), trainable=False, name="running_return")

    @property
    def state(self) -> list[tf.Variable]:
        """All variables, in a fixed order."""
        return [*self._moments.state, self._running]

    def scaled(self, trajectory: Trajectory) -> tf.Tensor:
        """Merges the returns of a trajectory into the statistics, and returns its scaled rewards [T, B]."""
        rewards = tf.cast(trajectory.rewards, tf.float32)
        counted = tf.where(tf.math.is_finite(rewards), rewards, 0.0)  # others would stay in the total
        ended = tf.cast(trajectory.terminated | trajectory.truncated, tf.float32)

        def step(carried: tuple[tf.Tensor, tf.Tensor], now: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            running, _ = carried
            reward, end = now
            total = self.gamma * running + reward
            return total * (1.0 - end), total

        start = self._running.read_value()
        ongoing, returns = tf.scan(step, (counted, ended), (start, tf.zeros_like(start)))  # [T, B]
        self._running.assign(ongoing[-1])
        # Steps that only start an episode do not count. Gymnasium's wrapper counts them as zeros.
        self._moments.take_in(tf.reshape(returns, [-1]), tf.reshape(trajectory.mask, [-1]))
        scale = tf.cast(tf.math.rsqrt(self._moments.variance + EPSILON), tf.float32)
        return tf.clip_by_value(rewards * scale, -CLIP, CLIP)


class Normalization(tf.Module):
    """Normalizes observations and scales rewards between the environments and the policy.

    Args:
      observation_space: The space of a single environment's observations; needed if `observations` is True. Only Boxes
        are normalized, also those of integers: images, discrete observations and action masks are not.
      num_envs: B.
      gamma: Discount factor of the return whose standard deviation divides the rewards.
      observations: True normalizes observations to mean 0 and standard deviation 1, and clips them to [-10, 10].
      rewards: True divides rewards by the standard deviation of the discounted return, and clips them to [-10, 10].

    Source:
      Huang et al. 2022, details 5 to 8 of continuous actions. The mean of the rewards is not subtracted, because that
      would change the task.
    """

    def __init__(
        self,
        observation_space: gymnasium.Space | None = None,
        num_envs: int = 1,
        gamma: float = 1.0,
        observations: bool = False,
        rewards: bool = False,
    ):
        super().__init__(name="normalization")
        shapes = _measured_shapes(observation_space) if observations else {}
        self._moments = {key: RunningMoments(shape) for key, shape in sorted(shapes.items())}
        self._reward_scale = RewardScale(num_envs, gamma) if rewards else None

    @property
    def state(self) -> list[tf.Variable]:
        """All variables, in a fixed order."""
        moments = [variable for moments in self._moments.values() for variable in moments.state]
        return moments if self._reward_scale is None else [*moments, *self._reward_scale.state]

    @property
    def statistics(self) -> list[tf.Variable]:
        """The first variables of `state`: those that do not belong to the episodes of this run."""
        return self.state if self._reward_scale is None else self.state[:-1]

    @property
    def is_active(self) -> bool:
        """True if a part of the observations is normalized."""
        return bool(self._moments)

    def has(self, key: str) -> bool:
        """Returns whether the part of a Dict with this key is normalized; `WHOLE` is the key of other observations."""
        return key in self._moments

    def observations(self, observations: Observations) -> Observations:
        """Normalizes observations `[..., *shape]`; normalized parts are float32."""
        measured = self.measured(observations)
        return with_parts(observations, {key: self._moments[key].normalized(x) for key, x in measured.items()})

    def measured(self, observations: Observations) -> dict[str, tf.Tensor]:
        """Returns the parts of observations that are normalized, with their current values."""
        parts = observations if isinstance(observations, dict) else {WHOLE: observations}
        return {key: parts[key] for key in self._moments}

    def mean_and_scale(self, key: str) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what `RunningMoments.mean_and_scale` returns for a part of `measured`."""
        return self._moments[key].mean_and_scale()

    def finish(self, trajectory: Trajectory) -> Trajectory:
        """Merges a trajectory into the statistics, and returns it with scaled rewards."""
        for key, x in trajectory.raw_observations.items():
            # The last row is the first row of the next trajectory, and is merged there. Observations at the end of an
            # episode do not count: the policy does not act on them, and some autoreset modes do not return them.
            self._moments[key].take_in(tf.reshape(x[:-1], [-1, *x.shape[2:]]), tf.reshape(trajectory.mask, [-1]))
        if self._reward_scale is None:
            return trajectory
        return trajectory._replace(rewards=self._reward_scale.scaled(trajectory))


def with_parts(observations: Observations, parts: dict[str, tf.Tensor]) -> Observations:
    """Returns observations with some parts replaced."""
    return {**observations, **parts} if isinstance(observations, dict) else parts.get(WHOLE, observations)


def _measured_shapes(space: gymnasium.Space | None) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the parts of a space that are normalized: Boxes, except images and an action mask."""
    parts = dict(space) if isinstance(space, gymnasium.spaces.Dict) else {WHOLE: space}
    return {
        key: part.shape
        for key, part in parts.items()
        if isinstance(part, gymnasium.spaces.Box) and not is_image(part) and key != ACTION_MASK
    }
