"""The variables of the state of a run, and hashes of their values."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import keras
import numpy as np
import tensorflow as tf

Variable: TypeAlias = "keras.Variable | tf.Variable"
StatePart: TypeAlias = "keras.Layer | keras.optimizers.Optimizer | Variable | list[Variable]"


def as_tensorflow_variable(variable: Variable) -> tf.Variable:
    """Returns the TensorFlow variable inside a Keras variable. A TensorFlow variable is returned unchanged."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def named_variables(state: Mapping[str, StatePart]) -> dict[str, Variable]:
    """Names the variables of a state, in a fixed order. Those of the part `actor` are "actor/0", "actor/1" and so on.

    The seeds of dropout layers are left out. They differ between processes, and dropout is off.

    Args:
      state: Keras models and optimizers, variables, and lists of variables, by name. Their order matters.

    Returns:
      The variables by name.
    """
    return {
        f"{name}/{index}": variable for name, part in state.items() for index, variable in enumerate(_variables(part))
    }


def _variables(part: StatePart) -> Sequence[Variable]:
    if isinstance(part, list):
        return part
    if isinstance(part, keras.Layer):
        return part.weights
    return part.variables if isinstance(part, keras.optimizers.Optimizer) else [part]


def digest(arrays: Iterable[np.ndarray], text: str = "") -> str:
    """Computes the SHA-256 hash of a text and of arrays.

    The hash depends on the types, shapes, bits and order of the arrays.

    Args:
      arrays: The arrays.
      text: The text.

    Returns:
      The hash as hexadecimal digits.
    """
    sha = hashlib.sha256(text.encode())
    for x in arrays:
        sha.update(f"{x.dtype.str}{x.shape}".encode())
        sha.update(x.tobytes())
    return sha.hexdigest()


def weights_hash(variables: Iterable[Variable]) -> str:
    """Computes the `digest` of the values of variables."""
    return digest(np.asarray(variable.numpy()) for variable in variables)
