"""Creates the folder of a new run, and replaces the folder of a run that failed before its first iteration."""

import errno
import fnmatch
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from tfppo.errors import UsageError
from tfppo.reporting.csv_writer import whole_lines
from tfppo.reporting.tensorboard import EVENTS
from tfppo.training.config import RunConfig
from tfppo.training.lock import LOCK, locked
from tfppo.training.run_folder import (
    CHECKPOINTS,
    CONFIG,
    DATA,
    METRICS,
    OWN_MODEL,
    OWN_REFERENCE,
    PROMPTS,
    ROLLOUTS,
    SAMPLES,
    START,
    TEMPLATE,
    kind_of,
    numbered,
    resume_command,
    write_config,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

KERAS_EVENTS = ("train", "validation")  # folders of the callback `keras.callbacks.TensorBoard`


@contextmanager
def new_run_folder(
    run: RunConfig,
    name: str,
    config: "DataclassInstance",
    tell: Callable[[str], object],
    fill: Callable[[Path], None] = lambda folder: None,
) -> Iterator[Path]:
    """Creates the folder of a new run, which contains the config from the start, and locks it during the `with` block.

    The folder is named `run.name` if that is set. Otherwise it is named `<name>-seed<seed>`, with -2, -3, ... appended
    if the name is taken. The folder of a run that failed before its first iteration is replaced, see `failed_run`.
    A new folder is locked before it gets its name. Otherwise another process could take it for one of a failed run.

    Args:
      run: Settings with the name, the seed and the folder of all runs.
      name: First part of the default name.
      config: All settings, which are written to `config.yaml`.
      tell: Called with a line if a folder is replaced.
      fill: Writes more files into the new folder, before the folder gets its name.

    Yields:
      The new folder.

    Raises:
      UsageError: If `run.name` is taken, or the folder cannot be created or written to.
    """
    with ExitStack() as held:

        def prepare(new: Path) -> None:
            write_config(new, config)
            held.enter_context(locked(new))
            fill(new)

        yield _create(run, name, tell, prepare)


def _create(
    run: RunConfig,
    name: str,
    tell: Callable[[str], object],
    prepare: Callable[[Path], object],
) -> Path:
    """Creates a folder, calls `prepare` with it, and then gives it its name."""
    refuse_taken_name(run)
    folders = (run.runs_dir / each for each in numbered(run.name or f"{name}-seed{run.seed}"))
    folder = next(folders)
    try:
        run.runs_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=run.runs_dir) as stage:
            new, old = Path(stage) / "new", Path(stage) / "old"
            new.mkdir()
            prepare(new)
            while not _move(new, folder, old, tell):
                if run.name:
                    raise _taken(folder)
                folder = next(folders)
        return folder
    except OSError as error:
        if os.path.lexists(run.runs_dir) and not run.runs_dir.is_dir():
            raise UsageError(f"{run.runs_dir} is not a folder: choose another folder with --runs-dir") from None
        raise UsageError(
            f"cannot create the run folder {folder} ({error.strerror}): choose another --name or another folder with "
            "--runs-dir"
        ) from None


def _move(new: Path, folder: Path, old: Path, tell: Callable[[str], object]) -> bool:
    """Moves a new folder to its place, and the folder of a failed run that is there to `old`.

    Returns:
      False if the name is taken. Then nothing has changed.
    """
    with failed_run(folder) as is_failed:
        if not is_failed and os.path.lexists(folder):
            return False
        if is_failed:
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError as error:
            if is_failed:
                with suppress(OSError):  # another process may have taken the name
                    old.rename(folder)
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                return False
            raise
    if is_failed:
        tell(f"{folder} is replaced: its run ended without a checkpoint and without a row of metrics")
    return True


@contextmanager
def failed_run(folder: Path) -> Iterator[bool]:
    """Checks whether a folder holds only a run that failed before its first iteration, and locks it then.

    Such a folder holds `config.yaml`, a lock that no process holds, and further files of a run, but no checkpoint and
    no row of metrics. A folder with any other file, such as one of the user, or with a symbolic link is something else.

    Args:
      folder: Folder to check. It need not exist.

    Yields:
      True for the folder of such a run, which is locked during the `with` block.
    """
    is_failed = _has_no_iteration(folder)
    with ExitStack() as held:
        if is_failed:
            try:
                held.enter_context(locked(folder))
            except UsageError:  # a living process uses it, or it cannot be written to
                is_failed = False
            else:
                is_failed = _has_no_iteration(folder)  # again, because now no other process writes to it
        yield is_failed


def _has_no_iteration(folder: Path) -> bool:
    """Returns True if a folder holds only files that a run writes before its first iteration is done."""
    try:
        if folder.is_symlink():
            return False
        entries = {entry.name: entry for entry in os.scandir(folder)}
        settings = yaml.safe_load((folder / CONFIG).read_text())
        rows = whole_lines(folder / METRICS) if METRICS in entries else []
        samples = whole_lines(folder / SAMPLES) if SAMPLES in entries else []
        return (
            isinstance(settings, dict)
            and {CONFIG, LOCK} <= set(entries)
            and all(map(_is_written_first, entries.values()))
            and len(rows) <= 1  # the names of the columns
            and all(json.loads(line)["iteration"] == 0 for line in samples)
        )
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):  # no folder, or damaged files
        return False


def _is_written_first(entry: "os.DirEntry[str]") -> bool:
    if entry.name in (CHECKPOINTS, Path(ROLLOUTS).parent.name):
        return entry.is_dir(follow_symlinks=False) and not os.listdir(entry)
    if entry.name in KERAS_EVENTS:
        return entry.is_dir(follow_symlinks=False) and all(map(_is_events, os.scandir(entry)))
    if entry.name in (OWN_MODEL, OWN_REFERENCE, PROMPTS, DATA):
        return entry.is_dir(follow_symlinks=False)
    is_first = entry.name in (CONFIG, LOCK, METRICS, SAMPLES, START, TEMPLATE) and entry.is_file(follow_symlinks=False)
    return is_first or _is_events(entry)


def _is_events(entry: "os.DirEntry[str]") -> bool:
    return fnmatch.fnmatchcase(entry.name, EVENTS) and entry.is_file(follow_symlinks=False)


def refuse_taken_name(run: RunConfig) -> None:
    """Checks that the name of a run, if it is set, is not taken.

    Raises:
      UsageError: If a folder with the name exists, unless `new_run_folder` would replace it.
    """
    if run.name and os.path.lexists(folder := run.runs_dir / run.name):
        with failed_run(folder) as is_failed:
            if not is_failed:
                raise _taken(folder)


def _taken(folder: Path) -> UsageError:
    try:
        kind_of(folder)
    except UsageError:  # there is no run to resume
        return UsageError(f"{folder} exists: choose another --name")
    return UsageError(f"{folder} exists: choose another --name, or resume its run with: {resume_command(folder)}")
