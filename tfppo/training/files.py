"""Writes files and folders atomically: either completely or not at all. Truncates files that a run appends to."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tfppo.errors import UsageError, one_line


@contextmanager
def replacing(folder: Path, marks: Sequence[str], size: int, *failures: type[Exception]) -> Iterator[Path]:
    """Replaces a folder atomically: the caller writes a temporary folder, which then takes the place of `folder`.

    If writing fails, the existing folder stays unchanged.

    Args:
      folder: Folder to create or replace. An existing folder is replaced if it is empty or holds one of `marks`.
      marks: Names of files, one of which every folder of this kind holds.
      size: Minimum size of the new folder, in bytes. If the disk has less free space, nothing is written.
      *failures: Exceptions, besides `OSError`, that a library raises if it cannot write.

    Yields:
      The path of the temporary folder, which the caller creates and fills.

    Raises:
      UsageError: If `folder` exists, is not empty and holds none of `marks`, or the new folder cannot be written.
    """
    is_empty = folder.is_dir() and not any(folder.iterdir())
    if os.path.lexists(folder) and not any((folder / mark).exists() for mark in marks) and not is_empty:
        raise UsageError(
            f"{folder} exists and holds no {' or '.join(marks)}, so it is not replaced: move it away, or choose "
            "another folder"
        )
    unwritten: tuple[type[Exception], ...] = (OSError, *failures)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as stage:
            check_room(folder, Path(stage), size)
            new, old = Path(stage) / "new", Path(stage) / "old"
            yield new
            if os.path.lexists(folder):
                folder.rename(old)
            new.rename(folder)
    except unwritten as error:
        raise UsageError(
            f"cannot write {folder} ({why_not_written(error)}): check the permissions of {folder.parent} and the free "
            "disk space, or choose another folder; an existing folder is unchanged"
        ) from None


def check_room(folder: Path, place: Path, size: int) -> None:
    """Checks the free disk space before a folder is written.

    Some libraries print tracebacks that cannot be caught if the disk becomes full while they write.

    Args:
      folder: Folder that will be written. It is named in the error.
      place: Existing folder on the same disk.
      size: Minimum size of the new folder, in bytes.

    Raises:
      UsageError: If there is less free space.
    """
    free = shutil.disk_usage(place).free
    if free < size:
        raise UsageError(
            f"cannot write {folder} (its disk has {free:,} bytes free, but more than {size:,} bytes are needed): free "
            "disk space, or choose another folder"
        )


def why_not_written(error: Exception) -> str:
    """Returns the reason of a failure to write, in a few words, from an `OSError` or a TensorFlow error."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else one_line(re.sub(r"{{.*?}} |\[Op:.*?\]", "", str(error)))  # TensorFlow's


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically: a reader sees either the old or the new content."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def sizes_of(folder: Path, patterns: Sequence[str]) -> dict[str, int]:
    """Returns the sizes of files that a run appends to, once their contents are on the disk.

    Args:
      folder: Folder of the run.
      patterns: The files, as patterns of `Path.glob` relative to the folder.

    Returns:
      Sizes in bytes by the path of the file relative to the folder.
    """
    sizes = {}
    for path in _matching(folder, patterns):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            sizes[path.relative_to(folder).as_posix()] = os.fstat(file.fileno()).st_size
    return sizes


def cut_back(folder: Path, patterns: Sequence[str], sizes: Mapping[str, int]) -> None:
    """Truncates files to earlier sizes, because a resumed run writes the later contents again.

    Args:
      folder: Folder of the run.
      patterns: The files, as for `sizes_of`.
      sizes: Sizes from `sizes_of`. Files that are not listed are deleted.
    """
    for path in _matching(folder, patterns):
        size = sizes.get(path.relative_to(folder).as_posix(), 0)
        if size <= 0:
            path.unlink()
        elif path.stat().st_size > size:
            os.truncate(path, size)


def _matching(folder: Path, patterns: Sequence[str]) -> list[Path]:
    return sorted(path for pattern in patterns for path in folder.glob(pattern))
