"""The variables that the state of a run consists of, and a hash that is equal where two states are, bit by bit."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import keras
import numpy as np
import tensorflow as tf

Variable: TypeAlias = "keras.Variable | tf.Variable"
StatePart: TypeAlias = "keras.Layer | keras.optimizers.Optimizer | Variable | list[Variable]"


def as_tensorflow_variable(variable: Variable) -> tf.Variable:
    """Returns the TensorFlow variable of a Keras variable; one of TensorFlow's is returned as it is."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def named_variables(state: Mapping[str, StatePart]) -> dict[str, Variable]:
    """Names the variables of a state, in a fixed order: those of its part `actor` are "actor/0", "actor/1", ...

    The seeds of a model's dropout, which is off, are left out: they differ between processes.

    Args:
      state: models and optimizers of Keras, variables, and lists of variables, by name; their order counts.
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
    """Computes the SHA-256 of a text and of the types, shapes and bits of arrays, in their order."""
    sha = hashlib.sha256(text.encode())
    for x in arrays:
        sha.update(f"{x.dtype.str}{x.shape}".encode())
        sha.update(x.tobytes())
    return sha.hexdigest()


def weights_hash(variables: Iterable[Variable]) -> str:
    """Computes the `digest` of the values of variables."""
    return digest(np.asarray(variable.numpy()) for variable in variables)
