"""One process at a time writes to a run's folder."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from threading import ThreadError

from fasteners import InterProcessLock

from tfppo.errors import UsageError

LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a folder. The lock ends with the process, however that ends.

    The lock is one of `lockf`, which forked environments do not inherit; they would hold on to one of `flock`.

    Raises:
      UsageError: if another process has the lock, or the folder cannot be written to.
    """
    path = folder / LOCK
    lock = InterProcessLock(path)
    try:
        path.touch()  # fails if the folder is gone; acquire() would make it
        acquired = lock.acquire(blocking=False)
    except OSError as error:
        raise UsageError(f"cannot write to {folder} ({error.strerror})") from None
    except ThreadError as error:  # the file system has no locks
        raise UsageError(f"cannot lock {folder} ({error})") from None
    if not acquired:
        lock.lockfile.close()
        holder = path.read_text().strip() or "of another user"
        raise UsageError(f"{folder} is in use by process {holder}: wait until it ends, or stop it")
    try:
        lock.lockfile.truncate(0)  # through the file that is locked: to close another one ends the lock
        lock.lockfile.write(str(os.getpid()))
        lock.lockfile.flush()
        yield
    finally:
        lock.release()
