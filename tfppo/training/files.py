"""Files and folders that are written whole or not at all."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tfppo.errors import UsageError, one_line


@contextmanager
def replacing(folder: Path, mark: str, size: int, *failures: type[Exception]) -> Iterator[Path]:
    """Gives the path of a folder that is to be written; once it is whole, it takes the place of `folder`.

    If writing fails, everything stays as it was.

    Args:
      folder: that is to be there; it is replaced if it is empty, or holds a file called `mark`.
      mark: a file that such a folder has.
      size: bytes that the new one takes at least: where there is no room for them, nothing is begun.
      *failures: what a library raises, besides OSError, where it cannot write.

    Raises:
      UsageError: if there is something else in its place, or it cannot be written.
    """
    if os.path.lexists(folder) and not (folder / mark).exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(
            f"{folder} exists and holds no {mark}: it is not replaced; move it away, or choose another folder"
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
            f"cannot write {folder} ({why_not_written(error)}): see that you may write to {folder.parent} and that its "
            "disk has room, or choose another folder; what was there before is as it was"
        ) from None


def check_room(folder: Path, place: Path, size: int) -> None:
    """Raises UsageError unless there are so many free bytes at a place, for what will be `folder`: before libraries run
    into it, of which some print traces that nobody can catch."""
    free = shutil.disk_usage(place).free
    if free < size:
        raise UsageError(
            f"cannot write {folder}: it takes more than {size:,} bytes, and its disk has room for {free:,}: make room, "
            "or choose another folder"
        )


def why_not_written(error: Exception) -> str:
    """What a file system says, or a library for it, in a few words."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else one_line(re.sub(r"{{.*?}} |\[Op:.*?\]", "", str(error)))  # TensorFlow's


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
