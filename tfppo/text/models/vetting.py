"""What the files of a preset may name: looked at before Keras makes objects of it.

Keras' safe mode runs no Python code that is stored in a file. But a name alone makes it import any module of a package
that is called keras, keras_hub, keras_nlp or keras_cv, wherever such a package is found, and make any layer, those that
load further files among them. Here only what language models are made of passes, found among what is already imported.
"""

import functools
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import keras_hub  # noqa: F401 (registers its classes)

from tfppo.errors import UsageError, one_line
from tfppo.text.models import lstm  # noqa: F401 (registers its class)

PACKAGES = ("keras_hub", "tfppo")  # whose models, preprocessors, tokenizers and layers a preset may name
PLAIN = (keras.DTypePolicy, keras.Initializer)  # what it may name of Keras itself
ARCHIVED = "config.json"  # of a .keras file


def vet_folder(folder: Path) -> None:
    """Raises UsageError if a JSON file of a KerasHub preset names what no language model is made of."""
    for path in sorted(folder.glob("*.json")):
        _vet(json.loads(path.read_text(encoding="utf-8")), path.name)


def vet_archive(path: Path) -> None:
    """Raises UsageError if a .keras file names what no language model is made of."""
    with zipfile.ZipFile(path) as archive:
        _vet(json.loads(archive.read(ARCHIVED)), path.name)


def _vet(plain: object, where: str) -> None:
    refused = sorted(set(_refused(plain)))
    if refused:
        raise UsageError(f"{where} names {one_line(', '.join(refused))}, which is no part of a language model")


def _refused(plain: object) -> Iterator[str]:
    """Every class or function in JSON that may not be made, by module and name, and what would be fetched for one."""
    if isinstance(plain, dict):
        if "class_name" in plain:
            if not _is_part(plain):
                yield ".".join(str(plain.get(key)) for key in ("module", "class_name") if plain.get(key) is not None)
            settings = plain.get("config")
            values = settings.values() if isinstance(settings, dict) else ()
            yield from (value for value in values if isinstance(value, str) and "://" in value)  # tokenizers take paths
        plain = list(plain.values())
    if isinstance(plain, list):
        for part in plain:
            yield from _refused(part)


def _is_part(config: dict[str, Any]) -> bool:
    """Whether whatever Keras could make of a serialised object belongs into a language model."""
    name, module, registered = (config.get(key) or "" for key in ("class_name", "module", "registered_name"))
    if not all(isinstance(text, str) for text in (name, module, registered)):
        return False
    if module.split(".")[0] not in ("", "keras", *PACKAGES):
        return False
    found = [keras.saving.get_registered_object(text) for text in (registered, name) if text]
    found.append(_public(f"{module}.{name}"))
    found = [thing for thing in found if thing is not None]
    return bool(found) and all(isinstance(thing, type) and _is_harmless(thing) for thing in found)


def _is_harmless(kind: type) -> bool:
    package = kind.__module__.split(".")[0]
    return issubclass(kind, keras.Layer) if package in PACKAGES else package == "keras" and issubclass(kind, PLAIN)


def _public(name: str) -> object:
    """What Keras calls by a public name, like keras.layers.Dense; None: nothing. Imports nothing."""
    package, *path = name.split(".")
    try:
        return functools.reduce(getattr, path, keras) if package == "keras" else None
    except AttributeError:
        return None
