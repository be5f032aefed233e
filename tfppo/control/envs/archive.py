"""Plain data in a file: nests of arrays, numbers and text, which can be read whoever wrote them.

NumPy's archives do it without pickle: arrays as they are, and what ties them as a text of JSON among them.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tfppo.errors import UsageError
from tfppo.execution.variables import digest

NEST = "nest"  # the archive's entry that holds the JSON; the arrays are "0", "1", ...


def write_archive(path: Path, data: Any) -> None:
    """Writes a nest of dicts (keys are text), lists and tuples of arrays, numbers, text, booleans and None.

    Raises:
      TypeError: on anything else.
    """
    arrays: list[np.ndarray] = []
    entries: dict[str, Any] = {NEST: np.array(json.dumps(_packed(data, arrays)))}
    entries |= {str(k): x for k, x in enumerate(arrays)}
    with open(path, "wb") as file:
        np.savez(file, **entries)


def read_archive(path: Path) -> Any:
    """What `write_archive` wrote, of the same types.

    Raises:
      UsageError: if the file is damaged, or something else.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return _unpacked(json.loads(arrays[NEST].item()), arrays)
    except Exception as error:  # NumPy, zipfile and json answer damage with whatever they stumble over
        raise damaged(path, error) from None


def damaged(path: Path, error: Exception) -> UsageError:
    """The error of an archive that does not hold what it should."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return UsageError(f"{path} is damaged ({reason}): delete it to go on with new episodes")


def fingerprint(data: Any) -> str:
    """A text that two nests share only if all their bits are the same.

    Raises:
      TypeError: as `write_archive`.
    """
    arrays: list[np.ndarray] = []
    packed = json.dumps(_packed(data, arrays))
    return digest(arrays, packed)


def is_plain(data: Any) -> bool:
    """Whether it can be written."""
    try:
        _packed(data, [])
    except (TypeError, RecursionError):
        return False
    return True


def expect_like(data: Any, example: Any) -> Any:
    """The data.

    Raises:
      ValueError: unless it is such a nest as the example, its arrays of the same shapes and of such numbers.
    """
    if isinstance(example, dict):
        fits = isinstance(data, dict) and data.keys() == example.keys()
        pairs = [(data[key], example[key]) for key in example] if fits else []
    elif isinstance(example, list | tuple):
        fits = type(data) is type(example) and len(data) == len(example)
        pairs = list(zip(data, example, strict=True)) if fits else []
    else:
        x, y = np.asarray(data), np.asarray(example)
        fits, pairs = x.shape == y.shape and np.can_cast(x.dtype, y.dtype, "same_kind"), []
    if not fits:
        raise ValueError(f"{_kind(data)} where {_kind(example)} is wanted")
    for pair in pairs:
        expect_like(*pair)
    return data


def _packed(data: Any, arrays: list[np.ndarray]) -> Any:
    """The nest as JSON has it, whose arrays are numbers of places in `arrays`."""
    if data is None or type(data) in (bool, int, float, str):
        return data
    if isinstance(data, dict) and all(type(key) is str for key in data):
        return {"dict": {key: _packed(x, arrays) for key, x in data.items()}}
    if type(data) in (list, tuple):
        return {type(data).__name__: [_packed(x, arrays) for x in data]}
    if type(data) is np.ndarray or isinstance(data, np.generic):
        x = np.asarray(data)
        if not x.dtype.hasobject:
            arrays.append(x)
            return {"array" if type(data) is np.ndarray else "scalar": len(arrays) - 1}
    raise TypeError(f"{_kind(data)} is not plain data")


def _unpacked(packed: Any, arrays: Any) -> Any:
    if not isinstance(packed, dict):
        return packed
    ((kind, content),) = packed.items()
    if kind == "dict":
        return {key: _unpacked(x, arrays) for key, x in content.items()}
    if kind in ("list", "tuple"):
        rows = [_unpacked(x, arrays) for x in content]
        return rows if kind == "list" else tuple(rows)
    x = arrays[str(content)]
    return x if kind == "array" else x[()]


def _kind(data: Any) -> str:
    shape = f"{data.dtype} {list(data.shape)}" if isinstance(data, np.ndarray) else ""
    return f"{type(data).__name__} {shape}".rstrip()
