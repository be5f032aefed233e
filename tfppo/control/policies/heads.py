"""Action heads: the step from an actor's outputs to actions for the environment.

A head makes a distribution from the actor's outputs, samples actions from it, and converts these actions, which the
rollout stores, to the form that the environment takes.
"""

import abc
import math
from collections.abc import Sequence
from typing import TypeAlias

import gymnasium
import numpy as np
import tensorflow as tf

from tfppo.control.policies.encoders import LARGEST_ONE_HOT
from tfppo.errors import UsageError, one_line
from tfppo.ops.distributions import Categorical, Distribution, MultiCategorical, mask_logits
from tfppo.ops.masking import check_same_shape
from tfppo.ops.normals import DiagonalNormal, SquashedNormal

Outputs: TypeAlias = tf.Tensor | tuple[tf.Tensor, tf.Tensor]  # the outputs of an actor; a pair for gSDE


class ActionHead(abc.ABC):
    """The base class of action heads, one for each kind of action space."""

    num_outputs: int  # size of the last axis of the actor's outputs
    sizes: Sequence[int] = ()  # number of actions of each choice; empty for continuous actions

    @abc.abstractmethod
    def distribution(self, outputs: Outputs, action_mask: tf.Tensor | None = None) -> Distribution:
        """Makes the distribution over actions.

        Args:
          outputs: The actor's outputs [..., num_outputs].
          action_mask: bool, True where an action is allowed; forbidden actions get probability 0. None allows all
            actions.

        Returns:
          The distribution.

        Raises:
          UsageError: If the mask does not fit the action space.
        """

    @abc.abstractmethod
    def noise(self, rows: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
        """Draws the random numbers for `act`.

        One draw for all steps of a rollout is faster than one draw a step.

        Args:
          rows: The leading axes: (T, B) for T steps, or (B,) for one step.
          seed: Integer tensor [2].

        Returns:
          Random numbers, with `rows` as the leading axes.
        """

    @abc.abstractmethod
    def to_environment(self, actions: tf.Tensor) -> tf.Tensor:
        """Converts actions [B, ...] to the form that the environment takes."""

    def act(
        self, outputs: Outputs, noise: tf.Tensor, action_mask: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, Distribution]:
        """Samples actions.

        Args:
          outputs: The actor's outputs [B, num_outputs].
          noise: [B, ...], one step of the result of `noise`.
          action_mask: As for `distribution`.

        Returns:
          Actions [B, ...] and their distribution.
        """
        distribution = self.distribution(outputs, action_mask)
        return distribution.reparameterize(noise), distribution


class DiscreteHead(ActionHead):
    """The head of a Discrete space: one of A actions, from logits [B, A].

    Args:
      num_actions: A.
      start: The space's first action.
    """

    def __init__(self, num_actions: int, start: int = 0):
        self.num_outputs = num_actions
        self.sizes = [num_actions]
        self.start = start

    def distribution(self, outputs: tf.Tensor, action_mask: tf.Tensor | None = None) -> Categorical:
        """Makes a categorical distribution from logits [..., A]."""
        return Categorical(_allowed(outputs, action_mask))

    def noise(self, rows: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
        """Draws noise with the shape of the logits."""
        return Categorical.noise([*rows, self.num_outputs], seed)

    def to_environment(self, actions: tf.Tensor) -> tf.Tensor:
        """Adds the space's first action."""
        return actions + self.start if self.start else actions


class MultiDiscreteHead(ActionHead):
    """The head of a MultiDiscrete or MultiBinary space.

    It makes K choices of A_1, ..., A_K actions each, from logits [B, A_1 + ... + A_K]. An action mask has the same last
    axis.

    Args:
      sizes: A_1, ..., A_K, in the shape of the space.
      start: The first action of each choice, or one number for all.
    """

    def __init__(self, sizes: np.ndarray, start: np.ndarray | int = 0):
        self.shape = sizes.shape
        self.sizes = [int(size) for size in sizes.reshape(-1)]
        self.num_outputs = sum(self.sizes)
        self.start = np.broadcast_to(start, sizes.shape).reshape(-1).astype(np.int32)

    def distribution(self, outputs: tf.Tensor, action_mask: tf.Tensor | None = None) -> MultiCategorical:
        """Makes one categorical distribution for each choice."""
        return MultiCategorical(tuple(tf.split(_allowed(outputs, action_mask), self.sizes, axis=-1)))

    def noise(self, rows: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
        """Draws noise with the shape of the logits."""
        return MultiCategorical.noise([*rows, self.num_outputs], seed)

    def to_environment(self, actions: tf.Tensor) -> tf.Tensor:
        """Adds the first action of each choice, and restores the space's shape."""
        return tf.reshape(actions + self.start, [-1, *self.shape])


class NormalHead(ActionHead):
    """The head of a Box space: D normal distributions, from means and log standard deviations [B, 2 D].

    The environment gets actions that are clipped to the space. The rollout stores the actions before clipping (Huang et
    al. 2022, details of continuous actions).

    Args:
      space: The action space.
    """

    def __init__(self, space: gymnasium.spaces.Box):
        self.shape = space.shape
        self.num_actions = math.prod(space.shape)
        self.num_outputs = 2 * self.num_actions
        self.low, self.high = _inner_bounds(space)

    def distribution(self, outputs: tf.Tensor, action_mask: tf.Tensor | None = None) -> DiagonalNormal | SquashedNormal:
        """Makes a diagonal normal distribution from means and log standard deviations.

        Raises:
          UsageError: If there is an action mask.
        """
        _refuse_mask(action_mask)
        return DiagonalNormal(*tf.split(outputs, 2, axis=-1))

    def noise(self, rows: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
        """Draws standard normal numbers, one for each action."""
        return DiagonalNormal.noise([*rows, self.num_actions], seed)

    def to_environment(self, actions: tf.Tensor) -> tf.Tensor:
        """Restores the space's shape, and clips the actions to its bounds."""
        return tf.clip_by_value(tf.reshape(actions, [-1, *self.shape]), self.low, self.high)


class SquashedNormalHead(NormalHead):
    """The head of a bounded Box space: tanh of D normal distributions, scaled to the space.

    The rollout stores the actions before tanh, because their log-probability is finite even where tanh saturates
    (Haarnoja et al. 2018, appendix C).

    Args:
      space: The action space.

    Raises:
      UsageError: If a bound of the space is infinite.
    """

    def __init__(self, space: gymnasium.spaces.Box):
        super().__init__(space)
        if not (np.isfinite(self.low).all() and np.isfinite(self.high).all()):
            raise UsageError(
                f"box_policy is squashed and the action space is {one_line(space)}; squashed needs finite bounds: set "
                "box_policy to normal"
            )

    def distribution(self, outputs: tf.Tensor, action_mask: tf.Tensor | None = None) -> SquashedNormal:
        """Makes a squashed normal distribution from means and log standard deviations."""
        return SquashedNormal(*super().distribution(outputs, action_mask))

    def to_environment(self, actions: tf.Tensor) -> tf.Tensor:
        """Applies tanh to the actions, and scales them to the space's bounds."""
        squashed = SquashedNormal.squash(tf.reshape(actions, [-1, *self.shape]))
        stretched = self.low * (0.5 - squashed / 2) + self.high * (0.5 + squashed / 2)
        return tf.clip_by_value(stretched, self.low, self.high)  # rounding may exceed the bounds slightly


class StateDependentNormalHead(NormalHead):
    """The head of a Box space with generalized state-dependent exploration (gSDE).

    The noise of an action is a linear function of the actor's features, and stays the same for several steps. This
    explores smoothly (Raffin et al. 2022, "Smooth exploration for robotic reinforcement learning").

    The actor returns means and log standard deviations [B, 2 D], and scales [B, L, D], where L is the number of
    features. With standard normal noise z [L, D], the action is mean + sum_l scale_l z_l. At a given state this is a
    normal distribution with standard deviation sqrt(sum_l scale_l^2); log-probabilities and entropies are those of this
    distribution.

    Args:
      space: The action space.
      num_features: L.
      interval: Steps after which new noise is drawn; 0 draws it once per rollout.
    """

    def __init__(self, space: gymnasium.spaces.Box, num_features: int, interval: int):
        super().__init__(space)
        self.num_features = num_features
        self.interval = interval

    def distribution(
        self, outputs: tuple[tf.Tensor, tf.Tensor], action_mask: tf.Tensor | None = None
    ) -> DiagonalNormal | SquashedNormal:
        """Makes a normal distribution from means and log standard deviations, the first of the two outputs."""
        return super().distribution(outputs[0], action_mask)

    def noise(self, rows: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
        """Draws noise `[*rows, L, D]`; with rows (T, B), each draw is repeated for `interval` steps."""
        width = [self.num_features, self.num_actions]
        if len(rows) == 1:
            return DiagonalNormal.noise([*rows, *width], seed)
        length, *others = rows
        interval = self.interval or length
        drawn = DiagonalNormal.noise([-(-length // interval), *others, *width], seed)
        return tf.repeat(drawn, interval, axis=0)[:length]

    def act(
        self, outputs: tuple[tf.Tensor, tf.Tensor], noise: tf.Tensor, action_mask: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, Distribution]:
        """Adds the noise, weighted by the scales, to the means."""
        distribution = self.distribution(outputs, action_mask)
        check_same_shape(scales=outputs[1], noise=noise)
        return distribution.mean + tf.reduce_sum(outputs[1] * noise, axis=-2), distribution


def make_head(
    space: gymnasium.Space, box_policy: str = "normal", num_features: int = 0, gsde_interval: int = 4
) -> ActionHead:
    """Makes the head of an action space.

    Args:
      space: The space of a single environment's actions.
      box_policy: The distribution for a Box: "normal", "squashed" or "gsde".
      num_features: Width of the actor's last hidden layer, for gSDE.
      gsde_interval: Steps after which gSDE draws new noise; 0 draws it once per rollout.

    Returns:
      The head.

    Raises:
      UsageError: If the space is not supported, has no action or too many, or does not fit box_policy.
    """
    _check_size(space)
    if isinstance(space, gymnasium.spaces.Discrete):
        return DiscreteHead(int(space.n), int(space.start))
    if isinstance(space, gymnasium.spaces.MultiDiscrete):
        return MultiDiscreteHead(space.nvec, space.start)
    if isinstance(space, gymnasium.spaces.MultiBinary):
        return MultiDiscreteHead(np.full(space.shape, 2))
    if isinstance(space, gymnasium.spaces.Box) and np.issubdtype(space.dtype, np.floating):
        if box_policy == "gsde":
            return StateDependentNormalHead(space, num_features, gsde_interval)
        return SquashedNormalHead(space) if box_policy == "squashed" else NormalHead(space)
    raise UsageError(
        f"action space {one_line(space)} is not supported; it must be Discrete, MultiDiscrete, MultiBinary or a Box of "
        "floats: use another environment, or convert its actions (gymnasium.wrappers.TransformAction)"
    )


def _check_size(space: gymnasium.Space) -> None:
    """Checks that an action space has actions, and not more than an actor can have outputs."""
    if isinstance(space, gymnasium.spaces.Discrete):
        size = int(space.n)
    elif isinstance(space, gymnasium.spaces.MultiDiscrete):
        size = int(space.nvec.sum(dtype=np.int64))
    else:
        size = math.prod(space.shape or ())
    if not 1 <= size <= LARGEST_ONE_HOT:
        raise UsageError(
            f"action space {one_line(space)[:100]} needs {size:,} outputs of the actor; they must be from 1 to "
            f"{LARGEST_ONE_HOT:,}: use another environment, or convert its actions (gymnasium.wrappers.TransformAction)"
        )


def _allowed(logits: tf.Tensor, action_mask: tf.Tensor | None) -> tf.Tensor:
    if action_mask is None:
        return logits
    if action_mask.shape[1:] != logits.shape[1:]:
        raise UsageError(
            f"action_mask has shape {tuple(action_mask.shape[1:])}; it must be ({logits.shape[-1]},), with one entry "
            "for each action: change the observation space"
        )
    return mask_logits(logits, action_mask)


def _inner_bounds(space: gymnasium.spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    """Returns the bounds of a Box in float32; bounds that float32 cannot represent are rounded inwards."""
    with np.errstate(over="ignore"):
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    low = np.where(low < space.low, np.nextafter(low, np.float32(np.inf)), low)
    return low, np.where(high > space.high, np.nextafter(high, np.float32(-np.inf)), high)


def _refuse_mask(action_mask: tf.Tensor | None) -> None:
    if action_mask is not None:
        raise UsageError(
            "the observations hold an action_mask and the action space is a Box; only discrete actions can be masked: "
            "remove action_mask from the observations"
        )
