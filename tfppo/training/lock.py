"""Locks a run's folder, so that only one process at a time writes to it."""

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
    """Locks a folder during the `with` block.

    The operating system releases the lock when the process ends, even after `kill -9`. The lock uses `lockf`, because
    forked environment processes do not inherit it. They would inherit a lock of `flock`, and keep it.

    Args:
      folder: Folder to lock.

    Raises:
      UsageError: If another process holds the lock, or the folder cannot be written to.
    """
    path = folder / LOCK
    lock = InterProcessLock(path)
    try:
        path.touch()  # fails if the folder does not exist; acquire() would create it
        acquired = lock.acquire(blocking=False)
    except OSError as error:
        raise UsageError(
            f"cannot write to {folder} ({error.strerror}): check that the folder exists and its permissions"
        ) from None
    except ThreadError as error:  # the file system does not support locks
        raise UsageError(f"cannot lock {folder} ({error}): use a file system that supports file locks") from None
    if not acquired:
        lock.lockfile.close()
        holder = path.read_text().strip() or "of another user"
        raise UsageError(f"{folder} is in use by process {holder}: wait until that process ends, or stop it")
    try:
        lock.lockfile.truncate(0)  # use the locked file object: closing any other one would release the lock
        lock.lockfile.write(str(os.getpid()))
        lock.lockfile.flush()
        yield
    finally:
        lock.release()
