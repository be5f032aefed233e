"""What config dataclasses are made with: checks of their fields, and YAML in and out."""

import dataclasses
import math
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import yaml

from tfppo.errors import UsageError


def exact_div(dividend: int, divisor: int, dividend_name: str, divisor_name: str) -> int:
    """The quotient of two whole numbers, or a UsageError that names both when there is a remainder."""
    if dividend % divisor:
        raise UsageError(f"{dividend_name} = {dividend} is not a multiple of {divisor_name} = {divisor}: change one")
    return dividend // divisor


def to_yaml(config: Any) -> str:
    """The YAML text of a config dataclass; `from_yaml` reads it back equal."""
    return yaml.safe_dump(_to_plain(config), sort_keys=False)


def from_yaml(config_class: type, text: str) -> Any:
    """A config dataclass from its YAML text. Raises UsageError on text that is no such config, naming the field."""
    try:
        plain = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"not a YAML text: {' '.join(str(error).split())}") from None
    return _from_plain(config_class, plain, config_class.__name__)


def _to_plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_to_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _from_plain(config_class: type, plain: Any, where: str) -> Any:
    if not isinstance(plain, dict):
        raise UsageError(f"{where} must be a mapping of settings, not {type(plain).__name__}")
    hints = typing.get_type_hints(config_class)
    unknown = [" ".join(str(name).split()) for name in plain if name not in hints]
    if unknown:
        raise UsageError(f"{where} has no setting {', '.join(unknown)}; its settings are {', '.join(hints)}")
    arguments = {}
    for name, value in plain.items():
        if dataclasses.is_dataclass(hints[name]):
            arguments[name] = _from_plain(hints[name], value, name)
        elif isinstance(value, str) and Path in (hints[name], *typing.get_args(hints[name])):
            arguments[name] = Path(value)
        else:
            arguments[name] = tuple(value) if isinstance(value, list) else value
    return config_class(**arguments)


def build(parts: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Config dataclasses, by name, with some of their fields replaced; `settings` names fields of any of them.

    Raises:
      UsageError: on a name that none of them has, or a value that is none.
    """
    known = {field.name: part for part, config in parts.items() for field in dataclasses.fields(config)}
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise UsageError(f"there is no setting {', '.join(unknown)}; the settings are {', '.join(known)}")
    return {
        part: dataclasses.replace(config, **{k: v for k, v in settings.items() if known[k] == part})
        for part, config in parts.items()
    }


def check(config: Any, name: str, wanted: str, holds: Callable[[Any], bool]) -> None:
    """Raises UsageError unless the field is None, or finite and as wanted."""
    value = getattr(config, name)
    if value is not None and ((isinstance(value, float) and not math.isfinite(value)) or not holds(value)):
        raise UsageError(f"{name} must be {wanted}, not {value!r}")


def check_types(config: Any) -> None:
    """Raises UsageError unless every field of a config dataclass is of the type that it is annotated with."""
    for name, hint in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if not _is_a(value, hint):
            wanted = getattr(hint, "__name__", str(hint)) if not typing.get_args(hint) else _wanted(hint)
            raise UsageError(f"{name} must be {wanted}, not {value!r}")


def _wanted(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    return str(hint).replace("typing.", "")


def _is_a(value: Any, hint: Any) -> bool:
    if typing.get_origin(hint) is Literal:
        return value in typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(_is_a(value, h) for h in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_is_a(v, typing.get_args(hint)[0]) for v in value)
    if hint in (int, float):
        return isinstance(value, (int,) if hint is int else (int, float)) and not isinstance(value, bool)
    return isinstance(value, hint)
