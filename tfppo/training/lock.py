"""Locks a run's folder, so that only one process at a time writes to it."""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from threading import ThreadError

from fasteners import InterProcessLock

from tfppo.errors import UsageError

LOCK = ".lock"
_HELD: set[tuple[int, int]] = set()  # device and inode of the lock files that this process holds
_CHANGING = threading.Lock()  # held while a thread takes or releases a lock


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Locks a folder during the `with` block.

    The operating system releases the lock when the process ends, even after `kill -9`. The lock uses `lockf`, because
    forked environment processes do not inherit it. They would inherit a lock of `flock`, and keep it.

    The folder may be renamed during the block. A second lock of the same process is refused, too, although the
    operating system would allow it.

    Args:
      folder: Folder to lock.

    Raises:
      UsageError: If the lock is held already, or the folder cannot be written to.
    """
    lock = InterProcessLock(folder / LOCK)
    try:
        with _CHANGING:
            held = _acquire(folder, lock)
    except OSError as error:
        raise UsageError(
            f"cannot write to {folder} ({error.strerror}): check that the folder exists and its permissions"
        ) from None
    except ThreadError as error:  # the file system does not support locks
        raise UsageError(f"cannot lock {folder} ({error}): use a file system that supports file locks") from None
    try:
        lock.lockfile.truncate(0)  # use the locked file object: closing any other one would release the lock
        lock.lockfile.write(str(os.getpid()))
        lock.lockfile.flush()
        yield
    finally:
        with _CHANGING:
            _HELD.discard(held)
            lock.release()


def _acquire(folder: Path, lock: InterProcessLock) -> tuple[int, int]:
    """Takes the lock of a folder, and returns the device and inode of its file.

    Raises:
      UsageError: If the lock is held already.
      OSError: If the file cannot be opened.
      ThreadError: If the file system does not support locks.
    """
    path = folder / LOCK
    if path.exists() and _identity(path.stat()) in _HELD:  # opening and closing the file would release the lock
        raise UsageError(f"{folder} is in use by another run of this process: wait until that run ends")
    path.touch()  # fails if the folder does not exist; acquire() would create it
    if not lock.acquire(blocking=False):
        lock.lockfile.close()
        holder = path.read_text().strip() or "of another user"
        raise UsageError(f"{folder} is in use by process {holder}: wait until that process ends, or stop it")
    held = _identity(os.fstat(lock.lockfile.fileno()))
    if not path.exists() or _identity(path.stat()) != held:
        lock.release()
        raise UsageError(f"another process has replaced {folder} at this moment: start again")
    _HELD.add(held)
    return held


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
