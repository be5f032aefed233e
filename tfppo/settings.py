"""Tools for config dataclasses: constraints of fields, validation, and conversion to and from YAML.

A field states its constraints in its annotation, for example `num_envs: Annotated[int, Ge(1)]`, and `check_fields`
checks them. This module does not import TensorFlow, so that the command line starts fast.
"""

import bisect
import dataclasses
import math
import operator
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import yaml
from annotated_types import Ge, Gt, Interval, Le, Lt, Predicate

from tfppo.deprecated import SETTINGS, with_new_names
from tfppo.errors import UsageError, one_line, shown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")
T = TypeVar("T")

INT64_MAX = 2**63 - 1
FLOAT32_MAX = (2 - 2**-23) * 2.0**127  # all computations use float32
BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {  # the words of the error, and the comparison
    "gt": ("above", operator.gt),
    "ge": ("at least", operator.ge),
    "lt": ("below", operator.lt),
    "le": ("at most", operator.le),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Must(Predicate):
    """A constraint that describes itself, for example `Annotated[str, Must(str.isalpha, "letters")]`."""

    wanted: str
    """The allowed values in words. They complete the error `name is ...; it must be ...`."""


Constraint = Ge | Gt | Le | Lt | Interval | Must
Count = Annotated[int, Ge(1)]
CountOrNone = Annotated[int | None, Ge(1)]
AtLeastZero = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
PositiveOrNone = Annotated[float | None, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Interval(ge=0, le=1)]
_IS_SEED = Must(lambda seed: 0 <= seed < 2**31, "between 0 and 2**31 - 1")
Seed = Annotated[int, _IS_SEED]
"""A seed that TensorFlow, NumPy and Gymnasium all accept."""
SeedOrNone = Annotated[int | None, _IS_SEED]


def exact_div(dividend: int, divisor: int, dividend_name: str, divisor_name: str) -> int:
    """Divides two integers that must divide without a remainder.

    Args:
      dividend: The number to divide.
      divisor: The number to divide by.
      dividend_name: Name of the dividend in the error message.
      divisor_name: Name of the divisor in the error message.

    Returns:
      The quotient.

    Raises:
      UsageError: If there is a remainder. The message names both numbers, and the next divisors below and above.
    """
    if dividend % divisor:
        raise UsageError(
            f"{dividend_name} = {dividend} is not a multiple of {divisor_name} = {divisor}: change one of them, for "
            f"example {divisor_name} to {' or '.join(map(str, _nearest_divisors(dividend, divisor)))}"
        )
    return dividend // divisor


def _nearest_divisors(number: int, wanted: int) -> list[int]:
    """Returns the divisors of a number that are next to a wanted one, below and above it."""
    tried = range(1, min(math.isqrt(number), 10**4) + 1)  # the limit keeps it fast; 1 and the number are always found
    divisors = sorted({divisor for small in tried if number % small == 0 for divisor in (small, number // small)})
    place = bisect.bisect(divisors, wanted)
    return divisors[max(0, place - 1) : place + 1]


def to_yaml(config: "DataclassInstance") -> str:
    """Converts a config dataclass to YAML text. `from_yaml` converts the text back to an equal config."""
    return yaml.safe_dump(_to_plain(config), sort_keys=False)


def from_yaml(config_class: type[Config], text: str) -> Config:
    """Reads a config dataclass from YAML text.

    Args:
      config_class: The class of the config.
      text: The YAML text. Omitted settings keep their defaults. The setting names of version 0.1 are accepted too.

    Returns:
      The config.

    Raises:
      UsageError: If the text is not valid YAML, has an unknown setting or has an invalid value.
    """
    try:
        plain = yaml.safe_load(text)
    except Exception as error:  # an invalid date or very deep nesting does not raise a YAMLError
        raise UsageError(f"the text is not valid YAML ({one_line(error)}): correct it") from None
    return _from_plain(config_class(), plain, config_class.__name__)


def _to_plain(value: object) -> object:
    if dataclasses.is_dataclass(value):
        return {f.name: _to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_to_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _from_plain(config: Config, plain: object, where: str) -> Config:
    """Returns a copy of a config with the settings of a mapping."""
    if not isinstance(plain, dict):
        raise UsageError(f"{where} is of type {type(plain).__name__}; it must be a mapping of settings")
    hints = typing.get_type_hints(type(config))
    given: dict[Any, Any] = {SETTINGS.get(name, name): value for name, value in plain.items()}
    unknown = [shown(name) for name in given if name not in hints]
    if unknown:
        raise UsageError(f"{where} has no setting {one_line(', '.join(unknown))}; its settings are {', '.join(hints)}")
    arguments: dict[str, object] = {}
    for name, value in given.items():
        if dataclasses.is_dataclass(hints[name]):
            arguments[name] = _from_plain(getattr(config, name), value, name)
        else:
            is_tuple = isinstance(value, list) and typing.get_origin(hints[name]) is tuple
            arguments[name] = tuple(value) if is_tuple else value
    return dataclasses.replace(config, **arguments)


def with_settings(config: Config, settings: Mapping[str, object]) -> Config:
    """Returns a copy of a run's config in which some settings are replaced.

    Args:
      config: A dataclass with config dataclasses as fields, its parts. No two parts have a field of the same name.
      settings: The new values by field name, for any of the parts.

    Returns:
      The new config.

    Raises:
      UsageError: If no part has a setting of that name, or if a value is invalid.
    """
    settings = with_new_names(settings)
    parts = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    known = {field.name: part for part, config in parts.items() for field in dataclasses.fields(config)}
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise UsageError(f"there is no setting {', '.join(unknown)}; the settings are {', '.join(known)}")
    of_part = {part: {name: value for name, value in settings.items() if known[name] == part} for part in parts}
    return dataclasses.replace(config, **{part: dataclasses.replace(parts[part], **of_part[part]) for part in parts})


def check_value(name: str, value: T, wanted: str, holds: Callable[[T], bool]) -> None:
    """Checks one value.

    Args:
      name: Name of the value in the error message.
      value: The value to check.
      wanted: The allowed values in words. They complete the error `name is ...; it must be ...`.
      holds: Returns true for an allowed value.

    Raises:
      UsageError: If the value is not allowed.
    """
    if not holds(value):
        raise UsageError(f"{name} is {shown(value)}; it must be {wanted}")


def check_unused(config: "DataclassInstance", names: Collection[str], reason: str, remedy: str = "") -> None:
    """Checks that settings that can have no effect have their default values.

    Args:
      config: The settings.
      names: Names of the settings without an effect.
      reason: Why they have none, to follow "... is VALUE and".
      remedy: What else to do than to leave them out, to be followed by "or".

    Raises:
      UsageError: If one has another value than its default.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name in names:
        if getattr(config, name) != defaults[name]:
            choice = f"{remedy}, or " if remedy else ""
            raise UsageError(f"{name} is {shown(getattr(config, name))} and {reason}: {choice}leave {name} out")


def check_fields(config: "DataclassInstance") -> None:
    """Checks that every field of a config dataclass has a valid value, and converts it to the type of the field.

    The fields are converted in place: NumPy's scalars to Python's, strings to paths, and integers to floats, each where
    the field has that type. A string with "://" remains a string where the field allows strings, too, because a path
    would lose one of the slashes.

    A value must have the type of the field's annotation and meet its constraints: `Ge`, `Gt`, `Le`, `Lt`, `Interval` or
    `Must`, for example `Annotated[int, Ge(1)]`. Constraints do not apply to None where the type allows None. In
    addition, floats must be finite in float32, integers must fit in 64 bits, strings must be encodable as UTF-8, and
    paths must have printable characters only.

    Args:
      config: The dataclass instance to check. It may be frozen.

    Raises:
      UsageError: If a value is invalid. The message names the first such field.
    """
    plain = typing.get_type_hints(type(config))
    for name, hint in typing.get_type_hints(type(config), include_extras=True).items():
        given = getattr(config, name)
        value = _plain_scalars(given)
        if isinstance(value, str) and _allows(plain[name], Path) and not ("://" in value and _allows(plain[name], str)):
            value = Path(value)
        for wanted in _unmet(value, plain[name], hint):
            raise UsageError(f"{name} is {shown(given)}; it must be {wanted}")
        if type(value) is int and _allows(plain[name], float):
            value = float(value)
        if value is not given:
            object.__setattr__(config, name, value)  # the class is frozen


def is_printable(text: str) -> bool:
    """Returns whether a text is not empty and has printable characters only."""
    return text != "" and text.isprintable()


def _plain_scalars(value: object) -> object:
    """Converts a scalar of NumPy, or those in a tuple, to Python's. Returns anything else unchanged."""
    if type(value) is tuple:
        return tuple(map(_plain_scalars, value))
    numpy = sys.modules.get("numpy")  # if it was not imported, the value is not NumPy's
    if numpy is None or not isinstance(value, (numpy.bool_, numpy.number, numpy.str_)):
        return value
    if isinstance(value, numpy.timedelta64):  # NumPy counts it among the integers
        return value
    return float(value) if isinstance(value, numpy.floating) else value.item()  # a longdouble stays one in item()


def _allows(hint: Any, kind: type) -> bool:
    """Returns whether an annotation is a type, or a union with that type."""
    return kind in (hint, *typing.get_args(hint))


def _unmet(value: object, plain: Any, hint: Any) -> Iterator[str]:
    """Yields descriptions of what a value must be but is not.

    Args:
      value: The value of a field.
      plain: The annotation of the field without constraints.
      hint: The annotation of the field with constraints.
    """
    if not _is_a(value, plain):
        yield getattr(plain, "__name__", str(plain)) if not typing.get_args(plain) else _wanted(plain)
    parts = value if isinstance(value, tuple) else (value,)
    for part in parts:
        unusable = _usable(part)
        if unusable is not None:
            yield unusable
    for constraint in _constraints(hint) if value is not None else ():
        if isinstance(constraint, Must):
            if not constraint.func(value):
                yield constraint.wanted
        else:
            yield from _out_of_bounds(value, dataclasses.asdict(constraint))
    for part in parts:
        if isinstance(part, int) and abs(part) > INT64_MAX:  # comes last, because the error of a bound is more specific
            yield "a number of at most 64 bits"


def _constraints(hint: Any) -> Iterator[Constraint]:
    """Yields the constraints of an annotation, also those inside `Annotated[...] | None`."""
    if typing.get_origin(hint) is Annotated:
        yield from (data for data in hint.__metadata__ if isinstance(data, Constraint))
    elif typing.get_origin(hint) in (typing.Union, types.UnionType):
        for part in typing.get_args(hint):
            yield from _constraints(part)


def _out_of_bounds(value: object, constraint: dict[str, float | None]) -> Iterator[str]:
    bounds = {kind: bound for kind, bound in constraint.items() if bound is not None}
    if all(BOUNDS[kind][1](value, bound) for kind, bound in bounds.items()):
        return
    if bounds == {"gt": 0}:
        yield "positive"
    elif list(bounds) == ["ge", "le"]:
        yield f"between {bounds['ge']} and {bounds['le']}"
    else:
        yield " and ".join(f"{BOUNDS[kind][0]} {bound}" for kind, bound in bounds.items())


def _usable(value: object) -> str | None:
    """Returns what a value of the right type must be but is not, or None if the value is usable."""
    if isinstance(value, float) and not abs(value) <= FLOAT32_MAX:
        return "a finite float32 number"
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        return "a text that can be encoded as UTF-8"
    if isinstance(value, Path) and not is_printable(str(value)):
        return "a path with printable characters only"
    return None


def _wanted(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    return str(hint).replace("typing.", "")


def _is_a(value: object, hint: Any) -> bool:
    if typing.get_origin(hint) is Literal:
        return value in typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(_is_a(value, h) for h in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_is_a(v, typing.get_args(hint)[0]) for v in value)
    if hint in (int, float):
        return isinstance(value, (int,) if hint is int else (int, float)) and not isinstance(value, bool)
    return isinstance(value, hint)
