"""One process at a time writes to a run's folder."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from tfppo.errors import UsageError

LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Inside, no other process gets in for the same folder. The lock dies with the process, however that ends.

    Raises:
      UsageError: if another process is in, or the folder cannot be written to.
    """
    try:
        file = (folder / LOCK).open("a+")
    except OSError as error:
        raise UsageError(f"cannot write to {folder} ({error.strerror})") from None
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock, which forked environments would hold on to
        except OSError:
            file.seek(0)
            raise UsageError(
                f"{folder} is in use by process {file.read().strip() or 'of another user'}: wait until it ends, or "
                "stop it"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
