"""Parses a command line with tyro, and reports errors in one line."""

import dataclasses
import difflib
import functools
import inspect
import operator
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import tyro

# tyro has no public API for errors without boxes. This private hook gets them as data, so setup.cfg pins the version.
from tyro import _errors as errors
from tyro._arguments import ArgumentDefinition, generate_argument_helptext
from tyro.conf import FlagConversionOff, OmitArgPrefixes, OmitSubcommandPrefixes, Positional, subcommand
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from tfppo.errors import UsageError

Command = Callable[[], None]
SUBJECTS = ("--task", "--env")  # options that many people give without their name
SWITCH_VALUES = ("True", "False")
SWITCH_HELP = "An option with [{True,False}] may stand alone, which means True."


class Group(NamedTuple):
    """A group of commands that share the words before them, such as `tfppo train`."""

    description: str
    """Description of the group in the help."""
    commands: "Mapping[str, type[Command] | Group]"
    """Commands by name. A command is a dataclass with options as fields, and calling it runs it. A group can nest."""


def parse(group: Group, defaults: Mapping[type[Command], Command], arguments: Sequence[str]) -> Command:
    """Parses the arguments of a command line.

    Args:
      group: All commands. Its description is that of the program.
      defaults: Commands with other default values of their fields than their classes have, by class.
      arguments: Words after the name of the program.

    Returns:
      The command with its options. Calling it runs it.

    Raises:
      UsageError: If the arguments are invalid. It is one line, which ends with the command that shows the help.
      SystemExit: If the arguments contain --help, after printing the help.
    """

    def refuse(event: errors.ParseErrorEvent) -> None:
        words, reached = _reached(group, arguments)
        line = _one_line(event, reached)
        if line is not None:
            raise UsageError(f"{line}; help: {' '.join(['tfppo', *words])} --help")

    with errors.on_parse_error(refuse):
        command: Command = tyro.cli(
            _union(group, defaults, _reached(group, arguments)[1]),
            prog="tfppo",
            description=group.description,
            args=_with_switch_values(group, arguments),
            config=(OmitArgPrefixes, OmitSubcommandPrefixes, FlagConversionOff),
            registry=_REGISTRY,
        )
    return command


def last_value(arguments: Sequence[str], option: str) -> str | None:
    """Returns the last value of an option, given as `--option value` or `--option=value`.

    Args:
      arguments: Words of the command line.
      option: Name of the option, with its dashes. On the command line _ may stand for each - in the name.

    Returns:
      The value, or None if the option is not given.
    """
    found = None
    for word, following in zip(arguments, [*arguments[1:], None], strict=False):
        name, equals, value = word.partition("=")
        if name.startswith("--") and name.replace("_", "-") == option:
            found = value if equals else following
    return found


def _union(group: Group, defaults: Mapping[type[Command], Command], reached: type[Command] | Group) -> Any:
    """Returns a union type, from which tyro makes subcommands. The help of the reached command explains switches."""
    parts: list[Any] = []
    for name, command in group.commands.items():
        if isinstance(command, Group):
            below = _union(command, defaults, reached)
            parts.append(Annotated[below, subcommand(name, description=command.description)])
        else:
            default = defaults.get(command, tyro.MISSING_NONPROP)
            has_switch = command is reached and any(map(_is_switch, _fields(command).values()))
            description = f"{inspect.getdoc(command)}\n\n{SWITCH_HELP}" if has_switch else None
            parts.append(Annotated[command, subcommand(name, default=default, description=description)])
    return functools.reduce(operator.or_, parts)


_REGISTRY = ConstructorRegistry()


@_REGISTRY.primitive_rule
def _switch(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[bool] | None:
    """Parses a switch like tyro does. The help marks its value as optional."""
    if info.type is not bool:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="[{True,False}]",
        instance_from_str=lambda words: words[0] == "True",
        is_instance=lambda value: isinstance(value, bool),
        str_from_instance=lambda value: [str(value)],
        choices=SWITCH_VALUES,
    )


@_REGISTRY.primitive_rule
def _integer(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[int] | None:
    """Parses a whole number, also in the form 1e6."""
    if info.type is not int:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda words: whole_number(words[0]),
        is_instance=lambda value: isinstance(value, int) and not isinstance(value, bool),
        str_from_instance=lambda value: [str(value)],
    )


def whole_number(word: str) -> int:
    """Parses a whole number, also in the form 1e6.

    Raises:
      ValueError: If the word is no whole number.
    """
    try:
        return int(word)
    except ValueError:
        number = float(word)  # raises ValueError for what is no number
        if not number.is_integer():
            raise ValueError(f"{word} is not a whole number") from None
        return int(number)


def _split_tuples(arguments: Sequence[str], fields: Mapping[str, Any]) -> list[str]:
    """Splits the value of an option with several values at its commas: 64,64 becomes 64 and 64."""
    tuples = {_option(name) for name, hint in fields.items() if _is_numbers(hint)}
    split: list[str] = []
    for number, word in enumerate(arguments):
        option, equals, value = word.partition("=")
        if option.replace("_", "-") in tuples and "," in value:
            split += [option, *filter(None, value.split(","))]
        elif "," in word and not equals and _option_before(arguments, number) in tuples:
            split += filter(None, word.split(","))
        else:
            split.append(word)
    return split


def _option_before(arguments: Sequence[str], number: int) -> str | None:
    """Returns the last option in front of a word."""
    options = [word for word in arguments[:number] if word.startswith("--")]
    return options[-1].replace("_", "-") if options else None


def _is_numbers(hint: Any) -> bool:
    """Returns whether an annotation is a tuple of numbers, with or without constraints."""
    plain = hint.__origin__ if typing.get_origin(hint) is Annotated else hint
    return typing.get_origin(plain) is tuple and typing.get_args(plain)[0] in (int, float)


def _with_switch_values(group: Group, arguments: Sequence[str]) -> list[str]:
    """Inserts the value True after each switch, which is a boolean option, that stands alone.

    tyro allows either switches with a value or switches without one, but not both.
    """
    words, reached = _reached(group, arguments)
    if isinstance(reached, Group):
        return list(arguments)
    fields = _fields(reached)
    arguments = _split_tuples(arguments, fields)
    switches = {_option(name) for name, hint in fields.items() if _is_switch(hint)}
    has_positionals = any(map(_is_positional, fields.values()))
    complete: list[str] = []
    for number, word in enumerate(arguments):
        if word == "--":  # all later words are positional
            return [*complete, *arguments[number:]]
        complete.append(word)
        following = arguments[number + 1] if number + 1 < len(arguments) else "-"
        # Without positional arguments, a word behind a switch can only be its value, right or wrong.
        is_value = following.title() in (*SWITCH_VALUES, "None")
        has_value = is_value or not (has_positionals or following.startswith("-"))
        if word.replace("_", "-") in switches and not has_value:
            complete.append("True")
    return complete


def _one_line(event: errors.ParseErrorEvent, reached: type[Command] | Group) -> str | None:
    """Returns an error in one line, or None for the rare kinds of errors that tyro prints itself."""
    match event:
        case errors.UnrecognizedArgs():
            return _unrecognized(event.tokens, reached)
        case errors.MissingSubcommand():
            return f"a command is missing: give one of {', '.join(event.subcommand_spec.parser_from_name)}"
        case errors.MissingArgs():
            missing = ", ".join(_explained(context.arg) for context in event.missing_arguments)
            return f"a required argument is missing: {missing}"
        case errors.InvalidChoice():
            name = event.argument.display_name()
            return f"{name} is {event.value!r}; it must be one of {', '.join(map(str, event.choices))}"
        case errors.BadValue(reason="too_few_values"):
            name = event.argument.display_name()
            return f"{name} has too few values; it needs {event.argument.lowered.nargs}"
        case errors.InstantiationFailure(argument=ArgumentDefinition() as argument):
            message = re.sub(r"\s*\n\s*", " ", event.message)
            return f"invalid value of {argument.display_name()}: {message}; usage: {_explained(argument)}"
        case errors.InstantiationFailure():
            return event.message
    return None


def _explained(argument: ArgumentDefinition) -> str:
    """Returns the usage of an argument and its help in one line."""
    _, invocation = argument.get_invocation_text()
    text = generate_argument_helptext(argument, argument.lowered).as_str_no_ansi()
    return re.sub(r"\s+", " ", f"{invocation.as_str_no_ansi()} {text}")


def _reached(group: Group, arguments: Sequence[str]) -> tuple[list[str], type[Command] | Group]:
    """Returns the first arguments that name commands, and the command or group that they name."""
    words: list[str] = []
    reached: type[Command] | Group = group
    for word in arguments:
        if not isinstance(reached, Group) or word not in reached.commands:
            break
        words.append(word)
        reached = reached.commands[word]
    return words, reached


def _unrecognized(tokens: Sequence[str], reached: type[Command] | Group) -> str:
    text = f"unrecognized arguments: {', '.join(tokens)}"
    if isinstance(reached, Group):
        return f"{text}; the commands are {', '.join(reached.commands)}"
    options = _options(reached)
    subject = next((option for option in SUBJECTS if option in options), None)
    if subject is not None and len(tokens) == 1 and not tokens[0].startswith("-"):
        return f"{text}; perhaps you meant {subject} {tokens[0]}"
    similar = [name for token in tokens if token.startswith("--") for name in _similar(token, options)]
    return f"{text}; perhaps you meant {' or '.join(dict.fromkeys(similar))}" if similar else text


def _fields(command: type) -> dict[str, Any]:
    """Returns the annotations of the fields of a command's dataclass and of nested dataclasses, by name."""
    fields: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(command, include_extras=True).items():
        nested = dataclasses.is_dataclass(hint) and isinstance(hint, type)
        fields |= _fields(hint) if nested else {name: hint}
    return fields


def _options(command: type) -> list[str]:
    """Returns the options of a command, which are its fields without the positional arguments."""
    return [_option(name) for name, hint in _fields(command).items() if not _is_positional(hint)]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _is_positional(hint: Any) -> bool:
    return typing.get_origin(hint) is Annotated and Positional in hint.__metadata__


def _is_switch(hint: Any) -> bool:
    """Returns whether an annotation is `bool` or a union with it, with or without constraints."""
    plain = hint.__origin__ if typing.get_origin(hint) is Annotated else hint
    return bool in (plain, *typing.get_args(plain))


def _similar(token: str, options: Sequence[str]) -> list[str]:
    """Returns the options with a similar spelling, then the options that contain the word."""
    name = token.partition("=")[0].replace("_", "-")
    longer = sorted(option for option in options if len(name) > 3 and name.removeprefix("--") in option)
    return [*difflib.get_close_matches(name, options, n=3, cutoff=0.8), *longer][:10]
