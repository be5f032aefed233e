"""Gymnasium's spaces as plain values, which a file can hold."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from tfppo.errors import UsageError, one_line


def record_of(space: gymnasium.Space) -> dict[str, Any]:
    """Returns a space as a dictionary of plain values.

    Args:
      space: A Box, Discrete, MultiDiscrete, MultiBinary, or a Dict of them.

    Raises:
      UsageError: If the space is of another kind.
    """
    if isinstance(space, spaces.Dict):
        return {"kind": "Dict", "spaces": {key: record_of(part) for key, part in space.items()}}
    if isinstance(space, spaces.Discrete):
        return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"kind": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, spaces.MultiBinary):
        return {
            "kind": "MultiBinary",
            "n": space.n if isinstance(space.n, int) else [int(size) for size in space.shape],
        }
    if isinstance(space, spaces.Box):
        bounds = {"low": _short(space.low), "high": _short(space.high)}
        return {"kind": "Box", **bounds, "shape": list(space.shape), "dtype": str(space.dtype)}
    raise UsageError(
        f"space {one_line(space)} cannot be saved; it must be a Box, Discrete, MultiDiscrete or MultiBinary, or a Dict "
        "of them: convert it (gymnasium.wrappers.TransformObservation)"
    )


def space_of(record: dict[str, Any]) -> gymnasium.Space:
    """Returns the space that `record_of` described.

    Raises:
      KeyError, TypeError, ValueError: If the record is damaged.
    """
    kind = record["kind"]
    if kind == "Dict":
        return spaces.Dict({key: space_of(part) for key, part in record["spaces"].items()})
    if kind == "Discrete":
        return spaces.Discrete(record["n"], start=record["start"])
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(np.array(record["nvec"]), start=np.array(record["start"]))
    if kind == "MultiBinary":
        return spaces.MultiBinary(record["n"])
    if kind == "Box":
        dtype, shape = np.dtype(record["dtype"]), tuple(record["shape"])
        low, high = (np.broadcast_to(np.array(record[side], dtype), shape) for side in ("low", "high"))
        return spaces.Box(low, high, shape, dtype.type)
    raise ValueError(f"kind is {kind!r}")


def _short(bounds: np.ndarray) -> Any:
    """Returns bounds as one number if all are equal, else as nested lists."""
    flat = bounds.reshape(-1)
    return flat[0].item() if flat.size and (flat == flat[0]).all() else bounds.tolist()
