"""Files of plain data: nested dicts, lists and tuples of arrays, numbers and strings.

A file is a NumPy archive without pickle, so that reading a file from an unknown source cannot run code. The arrays are
entries of the archive; one more entry holds the structure as JSON.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tfppo.errors import UsageError
from tfppo.execution.variables import digest

NEST = "nest"  # the entry that holds the JSON; the arrays are the entries "0", "1", ...


def write_archive(path: Path, data: Any) -> None:
    """Writes plain data to a file.

    Args:
      path: The file.
      data: A nest of dicts with str keys, lists and tuples of arrays, numbers, strings, booleans and None.

    Raises:
      TypeError: If the data contains anything else.
    """
    arrays: list[np.ndarray] = []
    entries: dict[str, Any] = {NEST: np.array(json.dumps(_packed(data, arrays)))}
    entries |= {str(k): x for k, x in enumerate(arrays)}
    with open(path, "wb") as file:
        np.savez(file, **entries)


def read_archive(path: Path) -> Any:
    """Reads a file from `write_archive`; the data has the same types as before.

    Raises:
      UsageError: If the file is damaged, or is not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return _unpacked(json.loads(arrays[NEST].item()), arrays)
    except Exception as error:  # NumPy, zipfile and json raise many kinds of errors for damaged files
        raise damaged(path, error) from None


def damaged(path: Path, error: Exception) -> UsageError:
    """Returns the error for an archive whose content is not as expected."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return UsageError(f"{path} is damaged ({reason}): delete it to continue with new episodes")


def fingerprint(data: Any) -> str:
    """Returns a digest of plain data; it differs if any bit of the data differs.

    Raises:
      TypeError: If the data is not plain, as for `write_archive`.
    """
    arrays: list[np.ndarray] = []
    packed = json.dumps(_packed(data, arrays))
    return digest(arrays, packed)


def is_plain(data: Any) -> bool:
    """Returns whether `write_archive` can write the data."""
    try:
        _packed(data, [])
    except (TypeError, RecursionError):
        return False
    return True


def expect_like(data: Any, example: Any) -> Any:
    """Returns the data if it has the same structure as an example.

    Args:
      data: A nest.
      example: A nest.

    Returns:
      The data.

    Raises:
      ValueError: If the nests differ, or if an array has another shape, or a dtype that cannot be cast to that of the
        example.
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
        raise ValueError(f"found {_kind(data)}, expected {_kind(example)}")
    for pair in pairs:
        expect_like(*pair)
    return data


def _packed(data: Any, arrays: list[np.ndarray]) -> Any:
    """Returns the structure for JSON, with each array replaced by its index in `arrays`, to which it is appended."""
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
    raise TypeError(
        f"{_kind(data)} is not plain data; allowed are dicts with str keys, lists, tuples, arrays, numbers, str, bool "
        "and None"
    )


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
