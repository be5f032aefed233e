"""Manages a run's folder: its name, its settings in `config.yaml`, and its evaluation."""

import dataclasses
import errno
import fnmatch
import itertools
import json
import os
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from tfppo.errors import UsageError, one_line, shown
from tfppo.reporting.csv_writer import whole_lines
from tfppo.reporting.tensorboard import EVENTS
from tfppo.settings import Config, from_yaml, to_yaml
from tfppo.training.config import RunConfig
from tfppo.training.files import write_text
from tfppo.training.lock import LOCK, locked

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

CONFIG = "config.yaml"
METRICS = "metrics.csv"
EVALUATION = "evaluation.json"
CHECKPOINTS = "checkpoints"
CURVE = "curve.png"
VIDEO = "video.gif"  # control only
FRONTIER = "frontier.png"  # text only: score against KL
SAMPLES = "samples.jsonl"  # text only
EXPORT = "export"
IMPORTED = {"control": "env", "text": "reward"}
"""Setting that may name a module to import, by kind of run. It is in the section of `config.yaml` of the same name."""


@contextmanager
def new_run_folder(
    run: RunConfig, name: str, config: "DataclassInstance", tell: Callable[[str], object]
) -> Iterator[Path]:
    """Creates the folder of a new run as `create_run_folder` does, and locks it during the `with` block.

    The folder is locked before it gets its name. Otherwise another process could take it for one of a failed run.

    Args:
      run: As for `create_run_folder`.
      name: As for `create_run_folder`.
      config: As for `create_run_folder`.
      tell: As for `create_run_folder`.

    Yields:
      The new folder.

    Raises:
      UsageError: If `run.name` is taken, or the folder cannot be created or written to.
    """
    with ExitStack() as held:
        yield _create(run, name, config, tell, lambda new: held.enter_context(locked(new)))


def create_run_folder(
    run: RunConfig,
    name: str,
    config: "DataclassInstance | None" = None,
    tell: Callable[[str], object] = lambda line: None,
) -> Path:
    """Creates the folder of a new run, which contains the config from the start.

    The folder is named `run.name` if that is set. Otherwise it is named `<name>-seed<seed>`, with -2, -3, ... appended
    if the name is taken. The folder of a run that failed before its first iteration is replaced, see `failed_run`.

    Args:
      run: Settings with the name, the seed and the folder of all runs.
      name: First part of the default name.
      config: All settings, which are written to `config.yaml`. None writes no file.
      tell: Called with a line if a folder is replaced.

    Returns:
      The new folder.

    Raises:
      UsageError: If `run.name` is taken, or the folder cannot be created or written to.
    """
    return _create(run, name, config, tell, lambda new: None)


def _create(
    run: RunConfig,
    name: str,
    config: "DataclassInstance | None",
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
            if config is not None:
                write_config(new, config)
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
        kind_of(folder)
        rows = whole_lines(folder / METRICS) if METRICS in entries else []
        samples = whole_lines(folder / SAMPLES) if SAMPLES in entries else []
        return (
            {CONFIG, LOCK} <= set(entries)
            and all(map(_is_written_first, entries.values()))
            and len(rows) <= 1  # the names of the columns
            and all(json.loads(line)["iteration"] == 0 for line in samples)
        )
    except (OSError, ValueError, TypeError, KeyError):  # no folder, or damaged files
        return False


def _is_written_first(entry: "os.DirEntry[str]") -> bool:
    if entry.name == CHECKPOINTS:
        return entry.is_dir(follow_symlinks=False) and not os.listdir(entry)
    is_known = entry.name in (CONFIG, LOCK, METRICS, SAMPLES) or fnmatch.fnmatchcase(entry.name, EVENTS)
    return is_known and entry.is_file(follow_symlinks=False)


def folder_name(text: str) -> str:
    """Returns a text as part of a folder name. Invalid characters, such as the / of `ALE/Pong-v5`, become -."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)


def numbered(name: str) -> Iterator[str]:
    """Yields the name, then the name with -2, -3, ... appended, in order to find one that is not taken."""
    yield name
    yield from (f"{name}-{number}" for number in itertools.count(2))


def refuse_taken_name(run: RunConfig) -> None:
    """Checks that the name of a run, if it is set, is not taken.

    Raises:
      UsageError: If a folder with the name exists, unless `create_run_folder` would replace it.
    """
    if run.name and os.path.lexists(folder := run.runs_dir / run.name):
        with failed_run(folder) as is_failed:
            if not is_failed:
                raise _taken(folder)


def is_finished(folder: Path) -> bool:
    """Returns True if a run is finished."""
    return (folder / CURVE).exists()  # only a finished run draws its curve


def _taken(folder: Path) -> UsageError:
    try:
        kind_of(folder)
    except UsageError:  # there is no run to resume
        return UsageError(f"{folder} exists: choose another --name")
    return UsageError(f"{folder} exists: choose another --name, or resume its run with: {resume_command(folder)}")


def write_config(folder: Path, config: "DataclassInstance") -> None:
    """Writes the settings of a run to `config.yaml`."""
    write_text(folder / CONFIG, to_yaml(config))


def read_config(folder: Path, config_class: type[Config]) -> Config:
    """Reads the settings of a run from `config.yaml`.

    A folder with a symbolic link is refused: tfppo would overwrite or delete the file that the link points to, which
    need not belong to the run.

    Args:
      folder: Folder of the run.
      config_class: Class of the settings.

    Returns:
      The settings.

    Raises:
      UsageError: If the folder is not a run or contains a symbolic link, or its settings are damaged or invalid.
    """
    path = folder / CONFIG
    try:
        text = path.read_text()
        linked = sorted(entry.name for entry in os.scandir(folder) if entry.is_symlink())
    except OSError as error:
        raise UsageError(
            f"{folder} is not the folder of a run ({path} cannot be read: {error.strerror}): give the folder of one"
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is damaged; it must be a UTF-8 text: restore it from a copy") from None
    if linked:
        raise UsageError(
            f"{folder / linked[0]} is a symbolic link, which is not allowed in a run's folder: replace it by the file "
            "or folder that it points to"
        )
    try:
        return from_yaml(config_class, text)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path}: {error}") from None


def read_confirmed(folder: Path, config_class: type[Config], option: str, given: str | None) -> Config:
    """Reads the settings of a run, and checks that the user allows the import of a module that they name.

    A setting such as `env` can name a module, as "module:name". Importing a module runs its code, and the run's folder
    may come from somebody else. So the user must repeat the name on the command line.

    Args:
      folder: Folder of the run.
      config_class: Class of the settings.
      option: Name of the setting, and of the command line's option: "env" or "reward".
      given: The user's value of the option. None: the user did not give it.

    Returns:
      The settings.

    Raises:
      UsageError: If `read_config` raises it, the settings name a module and `given` is None, or `given` differs from
        the settings.
    """
    config = read_config(folder, config_class)
    named = flat_settings(config)[option]
    assert named is None or isinstance(named, str)
    if given is not None and given != named:
        has = f"no {option} of its own" if named is None else f"the {option} {shown(named)}"
        raise UsageError(
            f"--{option} is {shown(given)}, but {folder} has {has}: leave --{option} out, or give the {option} of the "
            "run"
        )
    if given is None and named is not None and ":" in named:
        raise UsageError(
            f"{folder / CONFIG} names the {option} {shown(named)}, which imports a module and runs its code: if you "
            f"trust the module, add --{option} {shlex.quote(named)}"
        )
    return config


def confirmed(folder: Path, option: str, named: str | None) -> str:
    """Returns a run's folder for use in a shell command, with the option that `read_confirmed` needs.

    Args:
      folder: Folder of the run.
      option: Name of the setting that may name a module, "env" or "reward".
      named: Value of the setting. None: it is not set.

    Returns:
      The words after `tfppo resume` or another command, quoted for a shell.
    """
    return quoted(folder) + (f" --{option} {shlex.quote(named)}" if named is not None and ":" in named else "")


def quoted(path: Path) -> str:
    """Returns a path quoted for a shell."""
    return shlex.quote(str(path))


def resume_command(folder: Path | None) -> str:
    """Returns the shell command that resumes a run. It does not fail if the settings are damaged.

    Args:
      folder: Folder of the run. None: this worker does not know it, and the command contains RUN instead.
    """
    if folder is None:
        return "tfppo resume RUN"
    try:
        settings = yaml.safe_load((folder / CONFIG).read_text())
        named = [(option, settings[part][option]) for part, option in IMPORTED.items() if part in settings]
    except Exception:  # damaged settings: `tfppo resume` explains what is wrong
        named = []
    return "tfppo resume " + (confirmed(folder, *named[0]) if named else quoted(folder))


def kind_of(folder: Path) -> str:
    """Returns the kind of a run, "control" or "text", which is the name of a section in `config.yaml`.

    Args:
      folder: Folder of the run.

    Raises:
      UsageError: If the folder is not a run, or its settings are damaged.
    """
    path = folder / CONFIG
    try:
        settings = yaml.safe_load(path.read_text(errors="replace"))
    except OSError as error:
        raise UsageError(
            f"{folder} is not the folder of a run ({path} cannot be read: {error.strerror}): give the folder of one"
        ) from None
    except Exception as error:  # an invalid scalar or too deep nesting does not raise a YAMLError
        raise UsageError(f"{path} is not valid YAML ({one_line(error)}): restore it from a copy") from None
    kinds = [kind for kind in IMPORTED if isinstance(settings, dict) and kind in settings]
    if not kinds:
        raise UsageError(f"{path} has no section {' or '.join(IMPORTED)}: give the folder of a run of tfppo train")
    return kinds[0]


def flat_settings(config: "DataclassInstance") -> dict[str, object]:
    """Returns the settings of a run by field name, without `name` and `runs_dir`, which do not affect training."""
    settings = {name: value for part in dataclasses.asdict(config).values() for name, value in part.items()}
    return {name: value for name, value in settings.items() if name not in ("name", "runs_dir")}


def shared_settings(config: "DataclassInstance") -> str:
    """Returns the settings that must be equal in all processes of a run, as JSON.

    The settings that may differ between machines are left out: `name`, `runs_dir`, `device`, `preset` and `threads`.
    """
    settings = flat_settings(config)
    return json.dumps({k: v for k, v in settings.items() if k not in ("device", "preset", "threads")}, default=str)


def read_evaluation(folder: Path) -> dict[str, object] | None:
    """Reads the evaluation of a run. Returns None if the run was not evaluated."""
    path = folder / EVALUATION
    return json.loads(path.read_text()) if path.exists() else None


def write_evaluation(folder: Path, evaluation: dict[str, object]) -> None:
    """Writes the evaluation of a run to `evaluation.json`."""
    write_text(folder / EVALUATION, json.dumps(evaluation, indent=2) + "\n")
