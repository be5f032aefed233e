"""Functions for nests of tensors (tuples, lists and dictionaries, parts of which may be None) and for the time axis."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, TypeVar

import tensorflow as tf

Nest: TypeAlias = "tf.Tensor | None | Sequence[Nest] | Mapping[str, Nest]"  # a NamedTuple is a Sequence too
Structure = TypeVar("Structure")


def map_tensors(function: Callable[[tf.Tensor], tf.Tensor], structure: Structure) -> Structure:
    """Applies a function to every tensor of a nest. None stays None."""
    return tf.nest.map_structure(lambda x: None if x is None else function(x), structure)


def merge_time(x: tf.Tensor) -> tf.Tensor:
    """Reshapes [T, B, ...] to [T * B, ...]."""
    return tf.reshape(x, [-1, *x.shape[2:]])


def swap_time(x: tf.Tensor) -> tf.Tensor:
    """Transposes [N, T, ...] to [T, N, ...], or [T, N, ...] to [N, T, ...]."""
    if not x.dtype.is_floating:  # oneDNN logs a warning when it transposes these types
        return tf.stack(tf.unstack(x), axis=1)
    return tf.transpose(x, [1, 0, *range(2, x.shape.rank)])
