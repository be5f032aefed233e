"""Presets that lie elsewhere: names of KerasHub's presets, and handles of Kaggle and of the Hugging Face Hub.

Only this module fetches files, and only a name or handle that the user wrote. What a cache holds is not fetched again,
so that a run is resumed without a network. What was fetched is checked and loaded like any other folder.
"""

import difflib
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import huggingface_hub
import kagglehub
import keras_hub
import requests
from huggingface_hub.errors import LocalEntryNotFoundError
from kagglehub.cache import Cache
from kagglehub.handle import parse_model_handle

from tfppo.errors import UsageError, kind_and_text, one_line

HUGGING_FACE, KAGGLE = "hf://", "kaggle://"
FORMS = "give a folder, a name such as gpt2_base_en, or a handle such as hf://USER/MODEL"
FILES = (  # of a repository, all others are left there; none of them can contain code
    *("config.json", "generation_config.json", "README.md", "LICENSE*"),
    *("model.safetensors", "model-*.safetensors", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "tekken.json", "chat_template.jinja", "chat_template.json"),
    *("metadata.json", "task.json", "preprocessor.json", "layers.json", "lstm.keras"),  # of KerasHub and of tfppo
    *("model.weights.h5", "model.weights.json", "model_*.weights.h5", "assets/tokenizer/*"),
)
INDICES = ("model.safetensors.index.json", "model.weights.json")  # their weight_map names the files of the weights
WEIGHTS = ("model.safetensors", "model.weights.h5", "lstm.keras")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
NO_NETWORK = (ConnectionError, TimeoutError, requests.ConnectionError, requests.Timeout, LocalEntryNotFoundError)


def folder_of(preset: Path | str, fetches: bool = True) -> Path:
    """Returns the folder of a preset. A preset that lies elsewhere is fetched, if no cache holds it.

    Args:
      preset: A folder, the name of a KerasHub preset, or a handle. A name of a folder that exists is the folder.
      fetches: False refuses a preset that no cache holds. Then the name is from the settings of a run, which may be
        somebody else's, and not from the user.

    Returns:
      The absolute path of the folder.

    Raises:
      UsageError: If there is neither such a folder nor such a name, or the files cannot be fetched.
    """
    name = str(preset)
    if "://" not in name and Path(name).is_dir():
        return Path(name).absolute()
    handle = _handle_of(name)
    try:
        find = _from_hugging_face if handle.startswith(HUGGING_FACE) else _from_kaggle
        found = find(handle, fetches)
    except Exception as error:  # the errors of both libraries are of many types
        if any(isinstance(cause, NO_NETWORK) for cause in _causes(error)):
            raise UsageError(
                f"cannot fetch {name}: no network ({one_line(_root(error))}); give a folder, or connect to the network"
            ) from error
        raise UsageError(
            f"cannot fetch {name} ({kind_and_text(error)}); it must exist and be open to you: check its name, accept "
            "its terms and log in if it has terms, or give a folder"
        ) from error
    if found is None:
        raise UsageError(
            f"the run started from the preset {name}, which no cache holds; what only the settings of a run name is "
            f"not fetched: fetch it with tfppo.load_preset({name!r})"
        )
    return found


def recorded_name(preset: Path | str) -> Path | str:
    """Returns how the settings of a run name a preset: the absolute path of a folder, and anything else as written."""
    is_folder = "://" not in str(preset) and Path(preset).is_dir()
    return Path(preset).resolve() if is_folder else preset


def label_of(preset: Path | str) -> str:
    """Returns a short name of a preset, for the name of a folder: the last part of its path or handle."""
    return str(preset).rstrip("/").split("/")[-1] if "://" in str(preset) else Path(preset).resolve().name


def _handle_of(name: str) -> str:
    """Returns the handle of a preset that is not a folder."""
    if name.startswith((HUGGING_FACE, KAGGLE)):
        return name
    presets = keras_hub.models.CausalLM.presets
    if name in presets:
        return presets[name]["kaggle_handle"]
    if "://" in name:
        raise UsageError(f"preset is {name}; a handle must begin with {HUGGING_FACE} or {KAGGLE}: {FORMS}")
    known = list(presets.keys() - keras_hub.models.Seq2SeqLM.presets.keys())
    with suppress(OSError, ValueError):
        known += [str(Path(name).with_name(path.name)) for path in Path(name).absolute().parent.iterdir()]
    similar = difflib.get_close_matches(name, [other for other in known if other in presets or Path(other).is_dir()])
    meant = f"perhaps you meant {' or '.join(similar)}, or " if similar else ""
    raise UsageError(f"{name} is neither the folder of a preset nor the name of a known one: {meant}{FORMS}")


def _from_hugging_face(handle: str, fetches: bool) -> Path | None:
    repository = handle.removeprefix(HUGGING_FACE)

    def fetch(is_offline: bool) -> Path:
        files = huggingface_hub.snapshot_download(repository, allow_patterns=list(FILES), local_files_only=is_offline)
        return Path(files)

    with suppress(LocalEntryNotFoundError):
        folder = fetch(is_offline=True)
        if _is_complete(folder):  # an interrupted download leaves some of the files
            return folder
    return fetch(is_offline=False) if fetches else None


def _is_complete(folder: Path) -> bool:
    """Returns True if a folder has a tokenizer, and all files of the weights."""
    weights = [
        {file for names in json.loads((folder / index).read_text())["weight_map"].values() for file in _listed(names)}
        for index in INDICES
        if (folder / index).is_file()
    ] + [{name} for name in WEIGHTS]
    has_weights = any(all((folder / name).is_file() for name in files) for files in weights)
    return has_weights and any((folder / name).is_file() for name in TOKENIZERS)


def _listed(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else names  # KerasHub may list several files for a layer


def _from_kaggle(handle: str, fetches: bool) -> Path | None:
    model = parse_model_handle(handle.removeprefix(KAGGLE))
    if not model.is_versioned():  # kagglehub would ask for the newest version
        variation = Path(Cache().get_path(model)).parent
        versions = [int(path.name) for path in variation.glob("*") if path.name.isdecimal()]
        for version in sorted(versions, reverse=True):
            if Cache().load_from_cache(model.with_version(version)):
                model = model.with_version(version)
                break
    if not (fetches or (model.is_versioned() and Cache().load_from_cache(model))):
        return None
    return Path(kagglehub.model_download(str(model)))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _root(error: BaseException) -> BaseException:
    """Returns the first cause of an error, which says more than the errors that it led to."""
    return list(_causes(error))[-1]
