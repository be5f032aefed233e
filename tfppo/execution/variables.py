"""The state of a run: the variables that it is made of, and whether two states are the same to the last bit."""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np


def named_variables(state: dict[str, Any]) -> dict[str, Any]:
    """The variables of a state in a fixed order: those of its part `actor` are "actor/0", "actor/1", ...

    Seeds of a model's dropout, which is off, are left out: they are others in every process.

    Args:
      state: models and optimizers of Keras, variables, and lists of them, by name; their order counts.
    """
    return {
        f"{name}/{index}": variable for name, part in state.items() for index, variable in enumerate(_variables(part))
    }


def _variables(part: Any) -> list[Any]:
    if isinstance(part, list):
        return part
    return getattr(part, "weights", None) or getattr(part, "variables", [part])


def digest(arrays: Iterable[np.ndarray], text: str = "") -> str:
    """The SHA-256 of a text and of arrays' types, shapes and bits, in their order: equal only where all of them are."""
    sha = hashlib.sha256(text.encode())
    for x in arrays:
        sha.update(f"{x.dtype.str}{x.shape}".encode())
        sha.update(x.tobytes())
    return sha.hexdigest()


def weights_hash(variables: Iterable[Any]) -> str:
    """The `digest` of variables."""
    return digest(np.asarray(variable.numpy()) for variable in variables)
