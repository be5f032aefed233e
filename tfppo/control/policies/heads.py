"""Action spaces: what a network's outputs mean, and what an environment gets.

A head stands between the two: it makes the distribution of an actor's outputs, draws from it, and turns what was drawn
(which the rollout keeps) into what the environment takes.
"""

import abc
import math
from collections.abc import Sequence
from typing import TypeAlias

import gymnasium
import numpy as np
import tensorflow as tf

from tfppo.errors import UsageError, one_line
from tfppo.ops.distributions import Categorical, Distribution, MultiCategorical, mask_logits
from tfppo.ops.masking import check_same_shape
from tfppo.ops.normals import DiagonalNormal, SquashedNormal

Outputs: TypeAlias = tf.Tensor | tuple[tf.Tensor, tf.Tensor]  # of an actor; a pair for gSDE


class ActionHead(abc.ABC):
    """How actions of a space are drawn."""

    num_outputs: int  # last axis of the actor's outputs

    @abc.abstractmethod
    def distribution(self, outputs: Outputs, action_mask: tf.Tensor | None = None) -> Distribution:
        """The distribution that an actor's outputs [..., num_outputs] stand for; forbidden actions have no part in
        it."""

    @abc.abstractmethod
    def noise(self, rows: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
        """Random numbers for `act` [*rows, ...], rows = (T, B) or (B,): many steps' worth in one draw."""

    @abc.abstractmethod
    def to_environment(self, actions: tf.Tensor) -> tf.Tensor:
        """What the environment gets for actions [B, ...]."""

    def act(
        self, outputs: Outputs, noise: tf.Tensor, action_mask: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, Distribution]:
        """Actions [B, ...] drawn with noise [B, ...], and their distribution."""
        distribution = self.distribution(outputs, action_mask)
        return distribution.reparameterize(noise), distribution


class DiscreteHead(ActionHead):
    """A Discrete space: one of A actions, by its logits [B, A]."""

    def __init__(self, num_actions: int, start: int = 0):
        self.num_outputs = num_actions
        self.start = start

    def distribution(self, outputs: tf.Tensor, action_mask: tf.Tensor | None = None) -> Categorical:
        return Categorical(_allowed(outputs, action_mask))

    def noise(self, rows: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
        return Categorical.noise([*rows, self.num_outputs], seed)

    def to_environment(self, actions: tf.Tensor) -> tf.Tensor:
        return actions + self.start if self.start else actions


class MultiDiscreteHead(ActionHead):
    """A MultiDiscrete or MultiBinary space: K choices, of A_1, ..., A_K actions, by logits [B, A_1 + ... + A_K].

    An action mask has the same last axis.
    """

    def __init__(self, sizes: np.ndarray, start: np.ndarray | int = 0):
        self.shape = sizes.shape
        self.sizes = [int(size) for size in sizes.reshape(-1)]
        self.num_outputs = sum(self.sizes)
        self.start = np.broadcast_to(start, sizes.shape).reshape(-1).astype(np.int32)

    def distribution(self, outputs: tf.Tensor, action_mask: tf.Tensor | None = None) -> MultiCategorical:
        return MultiCategorical(tuple(tf.split(_allowed(outputs, action_mask), self.sizes, axis=-1)))

    def noise(self, rows: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
        return MultiCategorical.noise([*rows, self.num_outputs], seed)

    def to_environment(self, actions: tf.Tensor) -> tf.Tensor:
        return tf.reshape(actions + self.start, [-1, *self.shape])


class NormalHead(ActionHead):
    """A Box space: D normals by their means and log standard deviations [B, 2 D]; the environment gets what was drawn,
    clipped to the space, while the rollout keeps it as it was [Huang et al. 2022, details of continuous actions]."""

    def __init__(self, space: gymnasium.spaces.Box):
        self.shape = space.shape
        self.num_actions = math.prod(space.shape)
        self.num_outputs = 2 * self.num_actions
        self.low, self.high = _inner_bounds(space)

    def distribution(self, outputs: tf.Tensor, action_mask: tf.Tensor | None = None) -> DiagonalNormal | SquashedNormal:
        _refuse_mask(action_mask)
        return DiagonalNormal(*tf.split(outputs, 2, axis=-1))

    def noise(self, rows: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
        return DiagonalNormal.noise([*rows, self.num_actions], seed)

    def to_environment(self, actions: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value(tf.reshape(actions, [-1, *self.shape]), self.low, self.high)


class SquashedNormalHead(NormalHead):
    """A bounded Box space: tanh of D normals, stretched to the space. The rollout keeps what was drawn BEFORE tanh,
    whose probability is finite even where tanh saturates [Haarnoja et al. 2018, appendix C]."""

    def __init__(self, space: gymnasium.spaces.Box):
        super().__init__(space)
        if not (np.isfinite(self.low).all() and np.isfinite(self.high).all()):
            raise UsageError(
                f"box_policy squashed wants finite bounds, but the action space is {one_line(space)}: use normal"
            )

    def distribution(self, outputs: tf.Tensor, action_mask: tf.Tensor | None = None) -> SquashedNormal:
        return SquashedNormal(*super().distribution(outputs, action_mask))

    def to_environment(self, actions: tf.Tensor) -> tf.Tensor:
        squashed = SquashedNormal.squash(tf.reshape(actions, [-1, *self.shape]))
        stretched = self.low * (0.5 - squashed / 2) + self.high * (0.5 + squashed / 2)
        return tf.clip_by_value(stretched, self.low, self.high)  # which rounding may just have left


class StateDependentNormalHead(NormalHead):
    """A Box space explored by a noise that is a linear function of the actor's features, drawn anew every few steps:
    smooth exploration, gSDE [Raffin et al. 2022, "Smooth exploration for robotic reinforcement learning"].

    The actor gives (means and log standard deviations [B, 2 D], scales [B, L, D]), L features long: with noise z, L x D
    standard normals, the action is mean + sum_l scale_l z_l, which at a given state is a normal with the standard
    deviation sqrt(sum_l scale_l^2). That normal is the distribution that counts.

    Args:
      space: of actions.
      num_features: L.
      interval: steps after which z is drawn anew; 0: once for a rollout.
    """

    def __init__(self, space: gymnasium.spaces.Box, num_features: int, interval: int):
        super().__init__(space)
        self.num_features = num_features
        self.interval = interval

    def distribution(
        self, outputs: tuple[tf.Tensor, tf.Tensor], action_mask: tf.Tensor | None = None
    ) -> DiagonalNormal | SquashedNormal:
        return super().distribution(outputs[0], action_mask)

    def noise(self, rows: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
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
        distribution = self.distribution(outputs, action_mask)
        check_same_shape(scales=outputs[1], noise=noise)
        return distribution.mean + tf.reduce_sum(outputs[1] * noise, axis=-2), distribution


def make_head(
    space: gymnasium.Space, box_policy: str = "normal", num_features: int = 0, gsde_interval: int = 4
) -> ActionHead:
    """The head of an action space.

    Args:
      space: of one environment's actions.
      box_policy: for a Box: "normal", "squashed" or "gsde".
      num_features: of the actor's last hidden layer, for gSDE.
      gsde_interval: steps after which gSDE's noise is drawn anew; 0: once for a rollout.

    Raises:
      UsageError: on a space of another kind, or one that box_policy does not fit.
    """
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
        f"action space {one_line(space)} is not supported: use an environment whose actions are Discrete, "
        "MultiDiscrete, MultiBinary or a Box of floats"
    )


def _allowed(logits: tf.Tensor, action_mask: tf.Tensor | None) -> tf.Tensor:
    if action_mask is None:
        return logits
    if action_mask.shape[1:] != logits.shape[1:]:
        raise UsageError(
            f"the action_mask of an observation has shape {tuple(action_mask.shape[1:])}, but the action space has "
            f"{logits.shape[-1]} actions: give it one entry an action, in one axis"
        )
    return mask_logits(logits, action_mask)


def _inner_bounds(space: gymnasium.spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    """The bounds of a Box in float32; those that float32 does not have, rounded inwards."""
    with np.errstate(over="ignore"):
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    low = np.where(low < space.low, np.nextafter(low, np.float32(np.inf)), low)
    return low, np.where(high > space.high, np.nextafter(high, np.float32(-np.inf)), high)


def _refuse_mask(action_mask: tf.Tensor | None) -> None:
    if action_mask is not None:
        raise UsageError("the observations hold an action_mask, but a Box has no actions to forbid: leave it out")
