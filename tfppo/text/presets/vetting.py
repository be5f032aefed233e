"""Checks which classes the files of a preset name, before Keras creates objects from them.

Keras' safe mode does not run Python code that a file contains. But a class name in a file makes Keras import any module
of a package called keras, keras_hub, keras_nlp or keras_cv, from anywhere on the path, and create any layer, also
layers that load other files. This module accepts only classes that language models consist of, and only if they are
already imported.
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

PACKAGES = ("keras_hub", "tfppo")  # a preset may name models, preprocessors, tokenizers and layers of these packages
PLAIN = (keras.DTypePolicy, keras.Initializer)  # of Keras itself a preset may name only subclasses of these
ARCHIVED = "config.json"  # name of the config in a .keras file


def vet_folder(folder: Path) -> None:
    """Checks the JSON files of a KerasHub preset.

    Args:
      folder: Folder of the preset.

    Raises:
      UsageError: If a file names a class or function that is not part of a language model.
    """
    for path in sorted(folder.glob("*.json")):
        _vet(json.loads(path.read_text(encoding="utf-8")), path.name)


def vet_archive(path: Path) -> None:
    """Checks a `.keras` file.

    Args:
      path: Path of the file.

    Raises:
      UsageError: If the file names a class or function that is not part of a language model.
    """
    with zipfile.ZipFile(path) as archive:
        _vet(json.loads(archive.read(ARCHIVED)), path.name)


def _vet(plain: object, where: str) -> None:
    refused = sorted(set(_refused(plain)))
    if refused:
        raise UsageError(f"{where} names {one_line(', '.join(refused))}, which is not part of a language model")


def _refused(plain: object) -> Iterator[str]:
    """Yields the names of all refused classes and functions in a JSON value, and all URLs in their settings."""
    if isinstance(plain, dict):
        if "class_name" in plain:
            if not _is_part(plain):
                yield ".".join(str(plain.get(key)) for key in ("module", "class_name") if plain.get(key) is not None)
            settings = plain.get("config")
            values = settings.values() if isinstance(settings, dict) else ()
            yield from (value for value in values if isinstance(value, str) and "://" in value)  # a tokenizer loads it
        plain = list(plain.values())
    if isinstance(plain, list):
        for part in plain:
            yield from _refused(part)


def _is_part(config: dict[str, Any]) -> bool:
    """Returns True if every object that Keras could create from a serialized config is part of a language model."""
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
    """Returns the object with a public name of Keras, such as `keras.layers.Dense`, or None. Imports nothing."""
    package, *path = name.split(".")
    try:
        return functools.reduce(getattr, path, keras) if package == "keras" else None
    except AttributeError:
        return None
