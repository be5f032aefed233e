"""A run's folder: its name, its config, its results."""

import dataclasses
import itertools
import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tfppo.errors import UsageError, one_line, shown
from tfppo.settings import from_yaml, to_yaml
from tfppo.training.config import RunConfig

CONFIG = "config.yaml"
METRICS = "metrics.csv"
EVALUATION = "evaluation.json"
CHECKPOINTS = "checkpoints"
CURVE = "curve.png"
VIDEO = "video.gif"  # control
FRONTIER = "frontier.png"  # text: score against KL
SAMPLES = "samples.jsonl"  # text
EXPORT = "export"
MODULES = {"control": "env", "text": "reward"}  # part and name of the settings that may name a module to be imported


def create_run_folder(run: RunConfig, task: str, config: Any = None) -> Path:
    """Makes the folder of a new run: the name that was given, or `<task>-seed<seed>`, with -2, -3 ... where taken. A
    config is in it from its first moment, so that the run can be resumed whenever it stops.

    Raises:
      UsageError: if the folder exists under a name that was given, or cannot be made or written to.
    """
    names = numbered(run.name or f"{task}-seed{run.seed}")
    while True:
        folder = run.runs_dir / next(names)
        try:
            if os.path.lexists(folder):
                raise FileExistsError
            run.runs_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=run.runs_dir) as stage:
                new = Path(stage) / folder.name
                new.mkdir()
                if config is not None:
                    write_config(new, config)
                new.rename(folder)
            return folder
        except OSError as error:
            if os.path.lexists(run.runs_dir) and not run.runs_dir.is_dir():
                raise UsageError(f"{run.runs_dir} is not a folder: choose another --runs-dir") from None
            if os.path.lexists(folder):
                if not run.name:
                    continue  # with the next number
                raise _taken(folder) from None
            raise UsageError(f"cannot make run folder {folder} ({error.strerror}): choose another --runs-dir") from None


def folder_name(text: str) -> str:
    """A text as it can stand in the name of a folder: what cannot (the / of an environment's id) becomes -."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)


def numbered(name: str) -> Iterator[str]:
    """The name, then with -2, -3 ... behind it: for what must not take another's place."""
    yield name
    yield from (f"{name}-{number}" for number in itertools.count(2))


def refuse_taken_name(run: RunConfig) -> None:
    """Raises UsageError if a name was given to the run, and there is a folder of that name already."""
    if run.name and os.path.lexists(folder := run.runs_dir / run.name):
        raise _taken(folder)


def is_finished(folder: Path) -> bool:
    """Whether a run came to its end: only then is its curve drawn."""
    return (folder / CURVE).exists()


def _taken(folder: Path) -> UsageError:
    go_on = f", or go on with it: {resume_command(folder)}" if (folder / CHECKPOINTS).is_dir() else ""
    return UsageError(f"{folder} exists: choose another --name or delete it{go_on}")


def write_config(folder: Path, config: Any) -> None:
    """Keeps the settings of a run."""
    write_text(folder / CONFIG, to_yaml(config))


def read_config(folder: Path, config_class: type) -> Any:
    """The settings of a run. Raises UsageError if the folder is no run, they are damaged, or the folder holds a link:
    what is written or removed there would be somebody's who has nothing to do with the run."""
    path = folder / CONFIG
    try:
        text = path.read_text()
        linked = sorted(entry.name for entry in os.scandir(folder) if entry.is_symlink())
    except OSError as error:
        raise UsageError(f"{folder} is not the folder of a run: {path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is damaged: it is no text") from None
    if linked:
        raise UsageError(f"{folder / linked[0]} is a link to something else: put the thing itself in its place")
    try:
        return from_yaml(config_class, text)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path}: {error}") from None


def read_confirmed(folder: Path, config_class: type, option: str, given: str | None) -> Any:
    """The settings of a run, for whoever imports the module that one of them may name, as "module:name".

    Importing a module runs it, and the settings may be a stranger's: the user must have named it, too.

    Args:
      folder: of the run.
      config_class: of its settings.
      option: the setting, and the command line's option of the same name.
      given: what the user gave for it; None: nothing.

    Raises:
      UsageError: as `read_config`, or if a module was not named, or something else was than the settings have.
    """
    config = read_config(folder, config_class)
    named = flat_settings(config)[option]
    if given is not None and given != named:
        has = f"no {option} of its own" if named is None else f"the {option} {shown(named)}"
        raise UsageError(f"{folder} has {has}, not {shown(given)}: leave --{option} out, or give that of the run")
    if given is None and ":" in (named or ""):
        raise UsageError(
            f"{folder / CONFIG} names the {option} {shown(named)}, for which a module would be imported: if you trust "
            f"it, name it too, with --{option} {shlex.quote(named)}"
        )
    return config


def confirmed(folder: Path, option: str, named: str | None) -> str:
    """A run's folder as an argument of the command line, with what `read_confirmed` wants to be given."""
    return quoted(folder) + (f" --{option} {shlex.quote(named)}" if ":" in (named or "") else "")


def quoted(path: Path) -> str:
    """A path as a word of a command that can be copied into a shell."""
    return shlex.quote(str(path))


def resume_command(folder: Path | None) -> str:
    """The command that goes on with a run, whatever is left of its settings; None: of one whose folder others know."""
    if folder is None:
        return "tfppo resume RUN"
    try:
        settings = yaml.safe_load((folder / CONFIG).read_text())
        named = [(option, settings[part][option]) for part, option in MODULES.items() if part in settings]
    except Exception:  # who reads them to go on with the run says what is wrong with them
        named = []
    return "tfppo resume " + (confirmed(folder, *named[0]) if named else quoted(folder))


def is_text(folder: Path) -> bool:
    """Whether a run tunes a language model. Raises UsageError if the folder is no run."""
    path = folder / CONFIG
    try:
        return any(line.startswith("text:") for line in path.read_text(errors="replace").splitlines())
    except OSError as error:
        raise UsageError(f"{folder} is not the folder of a run: {path} cannot be read ({error.strerror})") from None


def flat_settings(config: Any) -> dict[str, Any]:
    """The settings of a run by field name, without those that only say where it is kept."""
    settings = {k: v for part in dataclasses.asdict(config).values() for k, v in part.items()}
    return {k: v for k, v in settings.items() if k not in ("name", "runs_dir")}


def shared_settings(config: Any) -> str:
    """The settings of a run that processes which train it together must have in common: all but where things are."""
    settings = flat_settings(config)
    return json.dumps({k: v for k, v in settings.items() if k not in ("device", "preset", "threads")}, default=str)


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """The evaluation of a run; None: it was not evaluated."""
    path = folder / EVALUATION
    return json.loads(path.read_text()) if path.exists() else None


def write_evaluation(folder: Path, evaluation: dict[str, Any]) -> None:
    """Keeps the evaluation of a run."""
    write_text(folder / EVALUATION, json.dumps(evaluation, indent=2) + "\n")


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
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as stage:
            check_room(folder, Path(stage), size)
            new, old = Path(stage) / "new", Path(stage) / "old"
            yield new
            if os.path.lexists(folder):
                folder.rename(old)
            new.rename(folder)
    except (OSError, *failures) as error:
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
