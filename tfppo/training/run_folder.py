"""Manages a run's folder: its name, its settings in `config.yaml`, and its evaluation."""

import dataclasses
import itertools
import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from tfppo.errors import UsageError, one_line, shown
from tfppo.settings import Config, from_yaml, to_yaml, with_settings
from tfppo.training.files import write_text
from tfppo.training.user_modules import is_importable, same_name

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
ROLLOUTS = "rollouts/responses.jsonl.gz"  # text only
EXPORT = "export"
OWN_MODEL = "model"  # text only: preset of the language model that the run starts from, if no other folder holds it
OWN_REFERENCE = "reference"  # text only: preset of the reference policy, if it is another model
PROMPTS = "prompts"  # text only: folder with the prompts that the user gave
DATA = "examples"  # the examples of supervised training, or the pretraining data of a text run
PRESET = "preset"  # supervised fine-tuning and pretraining only: the trained model
REWARD_MODEL = "reward-model"  # reward models only: the reward model
RELIABILITY = "reliability.png"  # reward models only
TEMPLATE = "chat_template.jinja"  # text only: the chat template, if the user gave a file
START = "start.npz"  # text only: weights that the run starts from and that no preset holds
IMPORTED: Mapping[str, tuple[str, ...]] = {
    "control": ("env", "wrappers"),
    "text": ("task", "reward"),
    "sft": (),
    "pretrain": (),
    "reward_model": (),
}
"""Settings that may name a module to import, by kind of run. They are in the section of `config.yaml` of that name."""
USE_PRESET = "to generate, evaluate or export, start a run from its model with: tfppo train text --preset"
WITHOUT_POLICY: Mapping[str, tuple[str, str]] = {
    "sft": (USE_PRESET, PRESET),
    "pretrain": (USE_PRESET, PRESET),
    "reward_model": ("use it as the reward of a run with: tfppo train text --reward-model", REWARD_MODEL),
}
"""Kinds of run without a policy of PPO: what to do with their result, and the name of its folder."""
TRUSTED = ("minigrid.wrappers:", "tfppo:MaskFromInfo")
FINGERPRINTS = "parts"  # section of config.yaml that records what a run was made of


def folder_name(text: str) -> str:
    """Returns a text as part of a folder name. Invalid characters, such as the / of `ALE/Pong-v5`, become -."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)


def numbered(name: str) -> Iterator[str]:
    """Yields the name, then the name with -2, -3, ... appended, in order to find one that is not taken."""
    yield name
    yield from (f"{name}-{number}" for number in itertools.count(2))


def is_finished(folder: Path) -> bool:
    """Returns True if a run is finished."""
    return (folder / CURVE).exists()  # only a finished run draws its curve


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
        entries = [*folder.iterdir(), folder / ROLLOUTS]
        linked = sorted(entry for entry in entries if entry.is_symlink())
    except OSError as error:
        raise UsageError(
            f"{folder} is not the folder of a run ({path} cannot be read: {error.strerror}): give the folder of one"
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is damaged; it must be a UTF-8 text: restore it from a copy") from None
    if linked:
        raise UsageError(
            f"{linked[0]} is a symbolic link, which is not allowed in a run's folder: replace it by the file "
            "or folder that it points to"
        )
    try:
        return from_yaml(config_class, text)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path}: {error}") from None


def read_confirmed(
    folder: Path, config_class: type[Config], given: Mapping[str, object], imported: Sequence[str] | None = None
) -> Config:
    """Reads the settings of a run, and checks that the user allows the import of the modules that they name.

    A setting such as `env` can name a module, as "module:name". Importing a module runs its code, and the run's folder
    may come from somebody else. So the user must repeat the name on the command line, or give the object in Python.

    Args:
      folder: Folder of the run.
      config_class: Class of the settings.
      given: The user's values of the settings in `IMPORTED`. None: not given. Other names are ignored. An object that
        is not a text stands for itself, and is not compared here.
      imported: The settings whose modules will be imported. None: all settings in `IMPORTED`.

    Returns:
      The settings. Where the user's name differs from the name in the settings only in the package of the module, it
      replaces that name.

    Raises:
      UsageError: If `read_config` raises it, the settings name a module and the user did not give it, or gave another.
    """
    config = read_config(folder, config_class)
    settings = flat_settings(config)
    named = {option: _own_names(settings[option]) for option in IMPORTED[kind_of(folder)]}
    confirmed_names = {}
    for option, value in given.items():
        value = _own_names(value)
        if option in named and isinstance(value, str):
            if not isinstance(named[option], str) or not same_name(value, str(named[option])):
                has = f"no {option} of its own" if named[option] is None else f"the {option} {shown(named[option])}"
                raise UsageError(
                    f"--{option} is {shown(value)}, but {folder} has {has}: leave --{option} out, or give the {option} "
                    "of the run"
                )
            if isinstance(settings[option], str):
                confirmed_names[option] = value
    for option, name in named.items():
        needed = _own_names(given.get(option)) is None and (imported is None or option in imported)
        if needed and isinstance(name, str) and (":" in name or "<" in name):
            how = _how_to_give(folder, option, name)
            raise UsageError(f"{folder / CONFIG} names the {option} {shown(name)}, {how}")
    return with_settings(config, confirmed_names)


def _own_names(value: object) -> object:
    """Returns the value of a setting in `IMPORTED`.

    Of several names it returns those that name a module, with commas between. The packages of tfppo's extras may be
    imported without being named.
    """
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        return value
    names = [name for name in value if ":" in name.partition("(")[0]]
    return ", ".join(name for name in names if not name.startswith(TRUSTED)) or None


def _how_to_give(folder: Path, option: str, name: str) -> str:
    """Explains why and how the user must give a part of a run again."""
    if not is_importable(name):
        return (
            f"which was given in Python and cannot be imported: give it again in Python, as in "
            f"tfppo.resume({str(folder)!r}, {option}=...)"
        )
    return (
        f"which imports a module and runs its code: if you trust the module, add --{option} {shlex.quote(name)}, or "
        f"{option}={name!r} in Python"
    )


def confirmed(folder: Path, named: Mapping[str, object]) -> str:
    """Returns a run's folder for use in a shell command, with the options that `read_confirmed` needs.

    Args:
      folder: Folder of the run.
      named: Values of the settings that may name a module, by name of the setting. None: it is not set.

    Returns:
      The words after `tfppo resume` or another command, quoted for a shell.
    """
    names = {option: _own_names(value) for option, value in named.items()}
    options = [f"--{option} {shlex.quote(str(name))}" for option, name in names.items() if name and ":" in str(name)]
    return " ".join([quoted(folder), *options])


def quoted(path: Path) -> str:
    """Returns a path quoted for a shell."""
    return shlex.quote(str(path))


def resume_command(folder: Path | None) -> str:
    """Returns the command that resumes a run. It does not fail if the settings are damaged.

    Args:
      folder: Folder of the run. None: this worker does not know it, and the command contains RUN instead.

    Returns:
      A shell command, or a call in Python if a part of the run cannot be imported.
    """
    if folder is None:
        return "tfppo resume RUN"
    try:
        settings = yaml.safe_load((folder / CONFIG).read_text())
        named = {
            name: settings[kind].get(name) for kind, names in IMPORTED.items() if kind in settings for name in names
        }
        lost = [option for option, name in named.items() if name and not is_importable(str(_own_names(name)))]
    except Exception:  # damaged settings: `tfppo resume` explains what is wrong
        named, lost = {}, []
    if lost:
        return f"tfppo.resume({str(folder)!r}, {', '.join(f'{option}=...' for option in lost)}) in Python"
    return "tfppo resume " + confirmed(folder, named)


def kind_of(folder: Path) -> str:
    """Returns the kind of a run, which is the name of a section in `config.yaml`: a key of `IMPORTED`.

    Args:
      folder: Folder of the run.

    Raises:
      UsageError: If the folder is not a run, or its settings are damaged.
    """
    settings, path = _settings_of(folder), folder / CONFIG
    kinds = [kind for kind in IMPORTED if kind in settings]
    if not kinds:
        raise UsageError(
            f"{path} has no section {' or '.join(IMPORTED)}: give the folder of a run of tfppo train, tfppo sft or "
            "tfppo reward-model"
        )
    return kinds[0]


def onednn_of(folder: Path) -> bool | None:
    """Returns the setting `onednn` of a run, before TensorFlow is imported. None: `config.yaml` does not say.

    Args:
      folder: Folder of the run.

    Raises:
      UsageError: If the folder is not a run, or its settings are damaged.
    """
    run = _settings_of(folder).get("run")
    found = run.get("onednn") if isinstance(run, dict) else None
    return found if isinstance(found, bool) else None


def _settings_of(folder: Path) -> dict[str, object]:
    """Returns the settings in `config.yaml`, unchecked."""
    path = folder / CONFIG
    try:
        settings = yaml.safe_load(path.read_text(errors="replace"))
    except OSError as error:
        raise UsageError(
            f"{folder} is not the folder of a run ({path} cannot be read: {error.strerror}): give the folder of one"
        ) from None
    except Exception as error:  # an invalid scalar or too deep nesting does not raise a YAMLError
        raise UsageError(f"{path} is not valid YAML ({one_line(error)}): restore it from a copy") from None
    return settings if isinstance(settings, dict) else {}


def refuse_without_policy(folder: Path) -> str:
    """Checks that a folder is that of a run that trains a policy.

    Args:
      folder: Folder of a run.

    Returns:
      The kind of the run, "control" or "text".

    Raises:
      UsageError: If it is a run of another kind, or not the folder of a run.
    """
    kind = kind_of(folder)
    if kind in WITHOUT_POLICY:
        use, result = WITHOUT_POLICY[kind]
        raise UsageError(
            f"{folder} is a run of tfppo {command_of(kind)}, which trains no policy; its results are in {EVALUATION}: "
            f"{use} {quoted(folder / result)}"
        )
    return kind


def command_of(kind: str) -> str:
    """Returns the command of a kind of run that trains no policy. It is also the name of the kind in messages."""
    return kind.replace("_", "-")


def flat_settings(config: "DataclassInstance") -> dict[str, object]:
    """Returns the settings of a run by field name, without `name` and `runs_dir`, which do not affect training.

    The checksums of the run's parts are no settings, and are left out, too.
    """
    parts = {name: part for name, part in dataclasses.asdict(config).items() if name != FINGERPRINTS}
    settings = {name: value for part in parts.values() for name, value in part.items()}
    return {name: value for name, value in settings.items() if name not in ("name", "runs_dir")}


def shared_settings(config: "DataclassInstance") -> str:
    """Returns the settings that must be equal in all processes of a run, as JSON.

    The settings that may differ between machines are left out: `name`, `runs_dir`, `device`, `preset`, `init_from`,
    `reward_model`, `threads` and `onednn`.
    """
    own = ("device", "preset", "init_from", "reward_model", "threads", "onednn")
    settings = {k: v for k, v in flat_settings(config).items() if k not in own}
    return json.dumps(settings | dataclasses.asdict(config).get(FINGERPRINTS, {}), default=str)


def read_evaluation(folder: Path) -> dict[str, object] | None:
    """Reads the evaluation of a run. Returns None if the run was not evaluated."""
    path = folder / EVALUATION
    return json.loads(path.read_text()) if path.exists() else None


def write_evaluation(folder: Path, evaluation: dict[str, object]) -> None:
    """Writes the evaluation of a run to `evaluation.json`. Numbers that are not finite become null."""
    write_text(folder / EVALUATION, json.dumps(_finite(evaluation), indent=2, allow_nan=False) + "\n")


def _finite(value: object) -> object:
    """Returns a nest of dictionaries and lists, with None instead of numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
