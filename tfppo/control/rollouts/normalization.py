"""Running statistics that observations and rewards are normalised by, part of a run's checkpoint.

Those of observations stand still during a rollout and the update on it, and take the rollout in afterwards: so the
policy evaluates exactly what it acted on, and the ratio starts at 1. Those of rewards take a rollout in before its
rewards are scaled.
"""

from typing import Any, NamedTuple

import gymnasium
import numpy as np
import tensorflow as tf

from tfppo.control.policies.encoders import ACTION_MASK
from tfppo.ops.masking import finite_outside, masked_finite
from tfppo.ppo.types import Trajectory

CLIP = 10.0  # standard deviations
EPSILON = 1e-8  # added to variances


class Moments(NamedTuple):
    """Count, mean and variance of what has been seen."""

    count: tf.Tensor  # [] float64
    mean: tf.Tensor  # [...] float64
    variance: tf.Tensor  # [...] float64, of the population


def initial_moments(shape: tuple[int, ...]) -> Moments:
    """Of nothing: what is normalised by them stays as it is, but for the clipping."""
    return Moments(tf.zeros([], tf.float64), tf.zeros(shape, tf.float64), tf.ones(shape, tf.float64))


def merge_moments(moments: Moments, values: tf.Tensor) -> Moments:
    """The moments of what was seen and of values [N, ...] together.

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
        self.gamma = gamma
        self._observations = _nest_of_moments(observation_space) if observations else None
        self._rewards = _variables(initial_moments(())) if rewards else None
        self._running = tf.Variable(tf.zeros([num_envs]), trainable=False, name="running_return") if rewards else None

    @property
    def state(self) -> list[tf.Variable]:
        """Everything that changes, in a fixed order."""
        return [x for x in tf.nest.flatten((self._observations, self._rewards, self._running)) if x is not None]

    def observations(self, observations: Any) -> Any:
        """Normalised observations [..., *shape], as float32."""
        if self._observations is None:
            return observations
        if not isinstance(observations, dict):
            return _normalized(observations, self._observations)
        return {key: _normalized(x, self._observations[key]) for key, x in observations.items()}

    def finish(self, trajectory: Trajectory) -> Trajectory:
        """A trajectory with normalised observations and scaled rewards, as the learner gets it; takes it in."""
        raw = trajectory.observations
        if self._observations is not None:
            successors = self.observations(trajectory.successors) if tf.nest.flatten(trajectory.successors) else ()
            trajectory = trajectory._replace(observations=self.observations(raw), successors=successors)
            for x, moments in _pairs(raw, self._observations):
                # The last row comes again, as the first of the next trajectory. For what ends an episode and is not
                # finite stands the start of the next episode, a row later.
                seen = finite_outside(x[:-1], trajectory.mask, x[1:])  # [T, B, ...]
                self._take_in(moments, tf.reshape(seen, [-1, *x.shape[2:]]))
        if self._rewards is not None:
            trajectory = trajectory._replace(rewards=self._scale_rewards(trajectory))
        return trajectory

    def _scale_rewards(self, trajectory: Trajectory) -> tf.Tensor:
        rewards = tf.cast(trajectory.rewards, tf.float32)
        counted = tf.where(tf.math.is_finite(rewards), rewards, 0.0)  # one that is not would never leave the total
        ended = tf.cast(trajectory.terminated | trajectory.truncated, tf.float32)

        def step(carried, now):
            running, _ = carried
            reward, end = now
            total = self.gamma * running + reward
            return total * (1.0 - end), total

        start = self._running.read_value()
        ongoing, returns = tf.scan(step, (counted, ended), (start, tf.zeros_like(start)))  # [T, B]
        self._running.assign(ongoing[-1])
        # Steps that only start an episode count, as zeros, as they do in gymnasium's wrapper.
        moments = self._take_in(self._rewards, tf.reshape(returns, [-1]))
        scale = tf.cast(tf.math.rsqrt(moments.variance + EPSILON), tf.float32)
        return tf.clip_by_value(rewards * scale, -CLIP, CLIP)

    @staticmethod
    def _take_in(moments: Moments, values: tf.Tensor) -> Moments:
        """Merges values [N, ...] into variables, and returns what they are now; values that are not all finite, which
        the guard skips, are left out."""
        before = _read(moments)
        finite = masked_finite(values)
        after = Moments(*(tf.where(finite, *pair) for pair in zip(merge_moments(before, values), before, strict=True)))
        _assign(moments, after)
        return after


def _nest_of_moments(space: gymnasium.Space) -> Any:
    if isinstance(space, gymnasium.spaces.Dict):
        return {key: None if key == ACTION_MASK else _nest_of_moments(part) for key, part in space.items()}
    if isinstance(space, gymnasium.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return _variables(initial_moments(space.shape))
    return None


def _pairs(observations: Any, moments: Any) -> list[tuple[tf.Tensor, Moments]]:
    """Tensors of observations with the moments that they go into."""
    if isinstance(observations, dict):
        return [(observations[key], moments[key]) for key in observations if moments[key] is not None]
    return [] if moments is None else [(observations, moments)]


def _normalized(x: tf.Tensor, moments: Moments | None) -> tf.Tensor:
    if moments is None:
        return x
    mean = tf.cast(moments.mean, x.dtype)
    scale = tf.cast(tf.math.rsqrt(moments.variance + EPSILON), x.dtype)
    return tf.clip_by_value((x - mean) * scale, -CLIP, CLIP)


def _variables(moments: Moments) -> Moments:
    return Moments(*(tf.Variable(x, trainable=False) for x in moments))


def _read(moments: Moments) -> Moments:
    return Moments(*(variable.read_value() for variable in moments))


def _assign(moments: Moments, values: Moments) -> None:
    for variable, value in zip(moments, values, strict=True):
        variable.assign(value)
