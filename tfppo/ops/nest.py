"""Nests of tensors: tuples, lists and dictionaries, whose parts may be missing."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def map_tensors(function: Callable[[tf.Tensor], tf.Tensor], structure: Any) -> Any:
    """`function` of every tensor of a structure; what is None stays None."""
    return tf.nest.map_structure(lambda x: None if x is None else function(x), structure)
