"""A run's folder: its name, its config, its results."""

import dataclasses
import itertools
import json
import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from tfppo.errors import UsageError, one_line, shown
from tfppo.settings import Config, from_yaml, to_yaml
from tfppo.training.config import RunConfig
from tfppo.training.files import write_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

CONFIG = "config.yaml"
METRICS = "metrics.csv"
EVALUATION = "evaluation.json"
CHECKPOINTS = "checkpoints"
CURVE = "curve.png"
VIDEO = "video.gif"  # control
FRONTIER = "frontier.png"  # text: score against KL
SAMPLES = "samples.jsonl"  # text
EXPORT = "export"
IMPORTED = {"control": "env", "text": "reward"}
"""For each kind of run, the setting of its own section that may name a module to be imported."""


def create_run_folder(run: RunConfig, name: str, config: "DataclassInstance | None" = None) -> Path:
    """Makes the folder of a new run: the name that was given, or `<name>-seed<seed>`, with -2, -3 ... where taken. A
    config is in it from its first moment, so that the run can be resumed whenever it stops.

    Raises:
      UsageError: if the folder exists under a name that was given, or cannot be made or written to.
    """
    names = numbered(run.name or f"{name}-seed{run.seed}")
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


def write_config(folder: Path, config: "DataclassInstance") -> None:
    """Keeps the settings of a run."""
    write_text(folder / CONFIG, to_yaml(config))


def read_config(folder: Path, config_class: type[Config]) -> Config:
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


def read_confirmed(folder: Path, config_class: type[Config], option: str, given: str | None) -> Config:
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
    assert named is None or isinstance(named, str)
    if given is not None and given != named:
        has = f"no {option} of its own" if named is None else f"the {option} {shown(named)}"
        raise UsageError(f"{folder} has {has}, not {shown(given)}: leave --{option} out, or give that of the run")
    if given is None and named is not None and ":" in named:
        raise UsageError(
            f"{folder / CONFIG} names the {option} {shown(named)}, for which a module would be imported: if you trust "
            f"it, name it too, with --{option} {shlex.quote(named)}"
        )
    return config


def confirmed(folder: Path, option: str, named: str | None) -> str:
    """A run's folder as an argument of the command line, with what `read_confirmed` wants to be given."""
    return quoted(folder) + (f" --{option} {shlex.quote(named)}" if named is not None and ":" in named else "")


def quoted(path: Path) -> str:
    """A path as a word of a command that can be copied into a shell."""
    return shlex.quote(str(path))


def resume_command(folder: Path | None) -> str:
    """The command that goes on with a run, whatever is left of its settings; None: of one whose folder others know."""
    if folder is None:
        return "tfppo resume RUN"
    try:
        settings = yaml.safe_load((folder / CONFIG).read_text())
        named = [(option, settings[part][option]) for part, option in IMPORTED.items() if part in settings]
    except Exception:  # who reads them to go on with the run says what is wrong with them
        named = []
    return "tfppo resume " + (confirmed(folder, *named[0]) if named else quoted(folder))


def kind_of(folder: Path) -> str:
    """What a run trains: the section of its settings that only such runs have, "control" or "text".

    Raises:
      UsageError: if the folder is no run, or its settings are damaged.
    """
    path = folder / CONFIG
    try:
        settings = yaml.safe_load(path.read_text(errors="replace"))
    except OSError as error:
        raise UsageError(f"{folder} is not the folder of a run: {path} cannot be read ({error.strerror})") from None
    except Exception as error:  # what a scalar cannot be, or too deep a nest, is no YAMLError
        raise UsageError(f"{path}: not a YAML text: {one_line(error)}") from None
    kinds = [kind for kind in IMPORTED if isinstance(settings, dict) and kind in settings]
    if not kinds:
        raise UsageError(f"{path} has no section {' or '.join(IMPORTED)}: give the folder of a run of tfppo train")
    return kinds[0]


def flat_settings(config: "DataclassInstance") -> dict[str, object]:
    """The settings of a run by field name, without those that only say where it is kept."""
    settings = {name: value for part in dataclasses.asdict(config).values() for name, value in part.items()}
    return {name: value for name, value in settings.items() if name not in ("name", "runs_dir")}


def shared_settings(config: "DataclassInstance") -> str:
    """The settings that all processes of a run must have in common: all but where things are."""
    settings = flat_settings(config)
    return json.dumps({k: v for k, v in settings.items() if k not in ("device", "preset", "threads")}, default=str)


def read_evaluation(folder: Path) -> dict[str, object] | None:
    """Reads the evaluation of a run; None: it was not evaluated."""
    path = folder / EVALUATION
    return json.loads(path.read_text()) if path.exists() else None


def write_evaluation(folder: Path, evaluation: dict[str, object]) -> None:
    """Keeps the evaluation of a run."""
    write_text(folder / EVALUATION, json.dumps(evaluation, indent=2) + "\n")
