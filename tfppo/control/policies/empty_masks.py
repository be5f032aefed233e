"""Finds action masks that allow nothing, where a policy would draw one of the forbidden actions."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import tensorflow as tf

from tfppo.control.envs.wrappers import ACTION_MASK
from tfppo.errors import UsageError


def has_mask(space: gymnasium.Space) -> bool:
    """Returns whether observations of a space hold an action mask."""
    return isinstance(space, gymnasium.spaces.Dict) and ACTION_MASK in space.spaces


def rows_without_action(action_mask: tf.Tensor, sizes: Sequence[int]) -> tf.Tensor:
    """Returns where a mask allows no action.

    Args:
      action_mask: bool [..., A], True where an action is allowed.
      sizes: Number of actions of each choice; their sum is A.

    Returns:
      bool [...], True where all actions of one of the choices are forbidden.
    """
    parts = tf.split(tf.cast(action_mask, tf.bool), list(sizes), axis=-1)
    return tf.reduce_any(tf.stack([~tf.reduce_any(part, axis=-1) for part in parts]), axis=0)


def check_masks(
    env: object, action_mask: Any, sizes: Sequence[int], acts: np.ndarray, step: int, first: int = 0
) -> None:
    """Checks the action masks of one step.

    Args:
      env: The environment, for the message: its ID, or a vector environment that may have one.
      action_mask: [B, A].
      sizes: As for `rows_without_action`.
      acts: bool [B], False where the step only starts a new episode, whatever the action.
      step: Number of the step, for the message.
      first: Number of the first copy, for the message.

    Raises:
      UsageError: If a mask allows no action.
    """
    rows = np.flatnonzero(rows_without_action(action_mask, sizes).numpy() & acts)
    if rows.size:
        raise nothing_allowed(env, first + int(rows[0]), step)


def nothing_allowed(env: object, copy: int, step: int) -> UsageError:
    """Returns the error for a mask that allows no action, see `check_masks`."""
    name = getattr(getattr(env, "spec", None), "id", env)
    return UsageError(
        f"{ACTION_MASK} of {name} allows no action in step {step} of copy {copy}; it must allow at least one until the "
        "episode ends: change the environment"
    )
