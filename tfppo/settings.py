"""What config dataclasses are made with: checks of their fields, and YAML in and out."""

import dataclasses
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from tfppo.errors import UsageError, one_line, shown

INT64_MAX = 2**63 - 1
FLOAT32_MAX = (2 - 2**-23) * 2.0**127  # what is computed with is float32
C = TypeVar("C")


def exact_div(dividend: int, divisor: int, dividend_name: str, divisor_name: str) -> int:
    """The quotient of two whole numbers, or a UsageError that names both when there is a remainder."""
    if dividend % divisor:
        raise UsageError(f"{dividend_name} = {dividend} is not a multiple of {divisor_name} = {divisor}: change one")
    return dividend // divisor


def to_yaml(config: Any) -> str:
    """The YAML text of a config dataclass; `from_yaml` reads it back equal."""
    return yaml.safe_dump(_to_plain(config), sort_keys=False)


def from_yaml(config_class: type[C], text: str) -> C:
    """A config dataclass from its YAML text. Raises UsageError on text that is no such config, naming the field."""
    try:
        plain = yaml.safe_load(text)
    except Exception as error:  # what a scalar cannot be, or too deep a nest, is no YAMLError
        raise UsageError(f"not a YAML text: {one_line(error)}") from None
    return _with_settings(config_class(), plain, config_class.__name__)


def _to_plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_to_plain(v) for v in value]
    if isinstance(value, float):  # NumPy's are of a kind that YAML does not know
        return float(value)
    return str(value) if isinstance(value, Path | str) else value


def _with_settings(config: Any, plain: Any, where: str) -> Any:
    """A config with the settings of a mapping in place of its own."""
    if not isinstance(plain, dict):
        raise UsageError(f"{where} must be a mapping of settings, not {type(plain).__name__}")
    hints = typing.get_type_hints(type(config))
    unknown = [shown(name) for name in plain if name not in hints]
    if unknown:
        raise UsageError(f"{where} has no setting {one_line(', '.join(unknown))}; its settings are {', '.join(hints)}")
    arguments = {}
    for name, value in plain.items():
        if dataclasses.is_dataclass(hints[name]):
            arguments[name] = _with_settings(getattr(config, name), value, name)
        elif isinstance(value, str) and Path in (hints[name], *typing.get_args(hints[name])):
            arguments[name] = Path(value)
        else:
            is_tuple = isinstance(value, list) and typing.get_origin(hints[name]) is tuple
            arguments[name] = tuple(value) if is_tuple else value
    return dataclasses.replace(config, **arguments)


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


def with_part(config: C, part: str, **changes: object) -> C:
    """The settings with some fields of one of their parts replaced."""
    return dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **changes)})  # type: ignore


def sections(config: object) -> dict[str, dict[str, object]]:
    """The fields of each part of a config dataclass, by the part's name."""
    return dataclasses.asdict(config)  # type: ignore[call-overload]


def check(config: Any, name: str, wanted: str, holds: Callable[[Any], bool]) -> None:
    """Raises UsageError unless the field is None or as wanted."""
    if getattr(config, name) is not None:
        check_value(name, getattr(config, name), wanted, holds)


def check_value(name: str, value: Any, wanted: str, holds: Callable[[Any], bool]) -> None:
    """Raises UsageError unless what was given under a name is as wanted."""
    if not holds(value):
        raise UsageError(f"{name} must be {wanted}, not {shown(value)}")


def check_seed(config: Any) -> None:
    """Raises UsageError unless the field `seed` is None or one that TensorFlow, NumPy and gymnasium all take."""
    check(config, "seed", "between 0 and 2**31 - 1", lambda v: 0 <= v < 2**31)


def check_types(config: Any) -> None:
    """Raises UsageError unless every field of a config dataclass is of the type that it is annotated with, and can be
    computed with, written and printed: numbers are finite and not too large, texts can be encoded, paths be printed."""
    for name, hint in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if not _is_a(value, hint):
            wanted = getattr(hint, "__name__", str(hint)) if not typing.get_args(hint) else _wanted(hint)
            raise UsageError(f"{name} must be {wanted}, not {shown(value)}")
        for part in value if isinstance(value, tuple) else (value,):
            wanted = _usable(part)
            if wanted is not None:
                raise UsageError(f"{name} must be {wanted}, not {shown(value)}")


def is_printable(text: str) -> bool:
    """Whether a text is one that stands well in a line: not empty, and every character of it can be seen."""
    return text != "" and text.isprintable()


def _usable(value: Any) -> str | None:
    """What a value of the right type must be and is not; None: nothing."""
    if isinstance(value, int) and abs(value) > INT64_MAX:
        return "a number of at most 64 bits"
    if isinstance(value, float) and not abs(value) <= FLOAT32_MAX:
        return "a finite number (of float32)"
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        return "a text that UTF-8 can hold"
    if isinstance(value, Path) and not is_printable(str(value)):
        return "a path whose characters can be printed"
    return None


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
