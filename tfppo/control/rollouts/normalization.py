"""Running statistics that observations and rewards are normalised by, part of a run's checkpoint.

Those of observations stand still during a rollout and the update on it, and take the rollout in afterwards: so the
policy evaluates exactly what it acted on, and the ratio starts at 1. Those of rewards take a rollout in before its
rewards are scaled.
"""

from typing import NamedTuple

import gymnasium
import numpy as np
import tensorflow as tf

from tfppo.control.envs.environment import Observations
from tfppo.control.policies.encoders import ACTION_MASK
from tfppo.ops.masking import finite_outside, masked_finite
from tfppo.ppo.types import Trajectory

CLIP = 10.0  # standard deviations
EPSILON = 1e-8  # added to variances
WHOLE = "observations"  # the key of observations that are no dictionary


class Moments(NamedTuple):
    """Count, mean and variance of what has been seen."""

    count: tf.Tensor  # [] float64
    mean: tf.Tensor  # [...] float64
    variance: tf.Tensor  # [...] float64, of the population


def initial_moments(shape: tuple[int, ...]) -> Moments:
    """Returns those of nothing: what is normalised by them stays as it is, but for the clipping."""
    return Moments(tf.zeros([], tf.float64), tf.zeros(shape, tf.float64), tf.ones(shape, tf.float64))


def merge_moments(moments: Moments, values: tf.Tensor) -> Moments:
    """Computes the moments of what was seen and of values [N, ...] together.

    Source: Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances".
    """
    values = tf.cast(values, tf.float64)
    count = tf.cast(tf.shape(values)[0], tf.float64)
    mean = tf.reduce_mean(values, axis=0)
    variance = tf.math.reduce_variance(values, axis=0)
    total = moments.count + count
    delta = mean - moments.mean
    squares = moments.variance * moments.count + variance * count + tf.square(delta) * moments.count * count / total
    return Moments(total, moments.mean + delta * count / total, squares / total)


class RunningMoments(tf.Module):
    """Keeps the moments of all values so far.

    Args:
      shape: of one value.
    """

    def __init__(self, shape: tuple[int, ...]):
        super().__init__(name="running_moments")
        self.state = [tf.Variable(x, trainable=False) for x in initial_moments(shape)]

    @property
    def variance(self) -> tf.Variable:
        """The variance so far."""
        return self.state[2]

    def take_in(self, values: tf.Tensor) -> None:
        """Merges values [N, ...]; values that are not all finite, which the guard skips, are left out."""
        before = Moments(*(variable.read_value() for variable in self.state))
        finite = masked_finite(values)
        for variable, old, new in zip(self.state, before, merge_moments(before, values), strict=True):
            variable.assign(tf.where(finite, new, old))

    def normalized(self, x: tf.Tensor) -> tf.Tensor:
        """Returns x [..., *shape] with mean 0 and standard deviation 1, clipped."""
        _, mean, variance = self.state
        scale = tf.cast(tf.math.rsqrt(variance + EPSILON), x.dtype)
        return tf.clip_by_value((x - tf.cast(mean, x.dtype)) * scale, -CLIP, CLIP)


class RewardScale(tf.Module):
    """Divides rewards by the standard deviation of the discounted return so far, and clips them.

    Args:
      num_envs: B.
      gamma: discount of the returns.
    """

    def __init__(self, num_envs: int, gamma: float):
        super().__init__(name="reward_scale")
        self.gamma = gamma
        self._moments = RunningMoments(())
        self._running = tf.Variable(tf.zeros([num_envs]), trainable=False, name="running_return")

    @property
    def state(self) -> list[tf.Variable]:
        """Everything that changes, in a fixed order."""
        return [*self._moments.state, self._running]

    def scaled(self, trajectory: Trajectory) -> tf.Tensor:
        """Takes a trajectory's returns in, and scales its rewards [T, B]."""
        rewards = tf.cast(trajectory.rewards, tf.float32)
        counted = tf.where(tf.math.is_finite(rewards), rewards, 0.0)  # one that is not would never leave the total
        ended = tf.cast(trajectory.terminated | trajectory.truncated, tf.float32)

        def step(carried: tuple[tf.Tensor, tf.Tensor], now: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            running, _ = carried
            reward, end = now
            total = self.gamma * running + reward
            return total * (1.0 - end), total

        start = self._running.read_value()
        ongoing, returns = tf.scan(step, (counted, ended), (start, tf.zeros_like(start)))  # [T, B]
        self._running.assign(ongoing[-1])
        # Steps that only start an episode count, as zeros, as they do in gymnasium's wrapper.
        self._moments.take_in(tf.reshape(returns, [-1]))
        scale = tf.cast(tf.math.rsqrt(self._moments.variance + EPSILON), tf.float32)
        return tf.clip_by_value(rewards * scale, -CLIP, CLIP)


class Normalization(tf.Module):
    """What stands between environments and the policy: observations and rewards on a common scale.

    Args:
      observation_space: of one environment; needed where observations are normalised. What is a Box of floats is
        normalised; images, choices and masks are not.
      num_envs: B.
      gamma: discount of the returns by whose standard deviation rewards are divided.
      observations: whether to subtract the mean of observations and divide by their standard deviation; clips to +-10.
      rewards: whether to divide rewards by the standard deviation of the discounted return; clips to +-10.

    Source: Huang et al. 2022, details of continuous actions 5 to 8; the mean of rewards stays, for it is what counts.
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
        """Everything that changes, in a fixed order."""
        moments = [variable for moments in self._moments.values() for variable in moments.state]
        return moments if self._reward_scale is None else [*moments, *self._reward_scale.state]

    def observations(self, observations: Observations) -> Observations:
        """Normalises observations [..., *shape]: the measured parts, as float32."""
        measured = self.measured(observations)
        return with_parts(observations, {key: self._moments[key].normalized(x) for key, x in measured.items()})

    def measured(self, observations: Observations) -> dict[str, tf.Tensor]:
        """Picks the parts of observations that statistics are kept of, as they are; those are normalised."""
        parts = observations if isinstance(observations, dict) else {WHOLE: observations}
        return {key: parts[key] for key in self._moments}

    def finish(self, trajectory: Trajectory) -> Trajectory:
        """Takes a trajectory into the statistics, and returns it with scaled rewards, as the learner gets it."""
        for key, x in trajectory.raw_observations.items():
            # The last row comes again, as the first of the next trajectory. For what ends an episode and is not finite
            # stands the start of the next episode, a row later.
            seen = finite_outside(x[:-1], trajectory.mask, x[1:])  # [T, B, ...]
            self._moments[key].take_in(tf.reshape(seen, [-1, *x.shape[2:]]))
        if self._reward_scale is None:
            return trajectory
        return trajectory._replace(rewards=self._reward_scale.scaled(trajectory))


def with_parts(observations: Observations, parts: dict[str, tf.Tensor]) -> Observations:
    """Returns observations with some parts replaced."""
    return {**observations, **parts} if isinstance(observations, dict) else parts.get(WHOLE, observations)


def _measured_shapes(space: gymnasium.Space | None) -> dict[str, tuple[int, ...]]:
    """Shapes of the parts of a space that are normalised: Boxes of floats, but for an action mask."""
    parts = dict(space) if isinstance(space, gymnasium.spaces.Dict) else {WHOLE: space}
    return {
        key: part.shape
        for key, part in parts.items()
        if isinstance(part, gymnasium.spaces.Box) and np.issubdtype(part.dtype, np.floating) and key != ACTION_MASK
    }
