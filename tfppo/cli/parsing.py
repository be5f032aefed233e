"""Reads a command line with tyro. A mistake in it becomes one line."""

import dataclasses
import difflib
import functools
import operator
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import tyro

# tyro has no public way to errors that are not drawn. This hook gets them as data; setup.cfg pins the version for it.
from tyro import _errors as errors
from tyro._arguments import ArgumentDefinition, generate_argument_helptext
from tyro.conf import FlagConversionOff, OmitArgPrefixes, OmitSubcommandPrefixes, Positional, subcommand

from tfppo.errors import UsageError

Command = Callable[[], None]


class Group(NamedTuple):
    """Commands, by name, that one word stands before."""

    description: str
    """What help says about the word."""
    commands: "Mapping[str, type[Command] | Group]"
    """Dataclasses, whose fields are options and whose instances can be called; or groups again."""


def parse(group: Group, defaults: Mapping[type[Command], Command], arguments: Sequence[str]) -> Command:
    """Reads the command that the arguments spell. Prints help and raises SystemExit if they ask for it.

    Args:
      group: all commands; its description is the program's.
      defaults: by class, a command whose fields are the defaults, in place of the class's own.
      arguments: the words after the program's name.

    Raises:
      UsageError: in one line, if the arguments spell no command.
    """

    def refuse(event: errors.ParseErrorEvent) -> None:
        line = _one_line(event, group, arguments)
        if line is not None:
            program = _program(event) if isinstance(event, errors.MissingArgs) else event.prog
            raise UsageError(f"{line}; help: {program} --help")

    with errors.on_parse_error(refuse):
        command: Command = tyro.cli(
            _union(group, defaults),
            prog="tfppo",
            description=group.description,
            args=arguments,
            config=(OmitArgPrefixes, OmitSubcommandPrefixes, FlagConversionOff),
        )
    return command


def last_value(arguments: Sequence[str], option: str) -> str | None:
    """Returns the last value of an option, given as "--option value" or "--option=value"; None: it is not given."""
    values = [value for name, value in zip(arguments, arguments[1:], strict=False) if name == option]
    values += [argument.removeprefix(f"{option}=") for argument in arguments if argument.startswith(f"{option}=")]
    return values[-1] if values else None


def _union(group: Group, defaults: Mapping[type[Command], Command]) -> Any:
    """Returns the type of which tyro makes subcommands."""
    parts: list[Any] = []
    for name, command in group.commands.items():
        if isinstance(command, Group):
            parts.append(Annotated[_union(command, defaults), subcommand(name, description=command.description)])
        else:
            default = defaults.get(command, tyro.MISSING_NONPROP)
            parts.append(Annotated[command, subcommand(name, default=default)])
    return functools.reduce(operator.or_, parts)


def _one_line(event: errors.ParseErrorEvent, group: Group, arguments: Sequence[str]) -> str | None:
    """Returns what is wrong with the arguments; None: tyro draws it in its own way."""
    match event:
        case errors.UnrecognizedArgs():
            return _unrecognized(event.tokens, _reached(group, arguments))
        case errors.MissingSubcommand():
            return f"Expected one of {{{', '.join(event.subcommand_spec.parser_from_name)}}}."
        case errors.MissingArgs():
            missing = ", ".join(_explained(context.arg) for context in event.missing_arguments)
            return f"Missing from {_program(event)}: {missing}"
        case errors.InvalidChoice():
            name = event.argument.display_name()
            return f"invalid choice '{event.value}' for argument '{name}'. Expected one of {event.choices}."
        case errors.BadValue(reason="too_few_values"):
            name = event.argument.display_name()
            return f"Missing value for argument '{name}'. Expected {event.argument.lowered.nargs} values."
        case errors.InstantiationFailure(argument=ArgumentDefinition() as argument):
            message = re.sub(r"\s*\n\s*", " ", event.message)
            return f"Error parsing {argument.display_name()}: {message}; Argument helptext: {_explained(argument)}"
        case errors.InstantiationFailure():
            return event.message
    return None


def _program(event: errors.MissingArgs) -> str:
    return f"{event.prog} {event.missing_arguments[0].source_parser.prog_suffix}".rstrip()


def _explained(argument: ArgumentDefinition) -> str:
    _, invocation = argument.get_invocation_text()
    text = generate_argument_helptext(argument, argument.lowered).as_str_no_ansi()
    return re.sub(r"\s+", " ", f"{invocation.as_str_no_ansi()} {text}")


def _reached(group: Group, arguments: Sequence[str]) -> type[Command] | Group:
    """Returns the command, or the group, that the first arguments name."""
    reached: type[Command] | Group = group
    for word in arguments:
        if not isinstance(reached, Group) or word not in reached.commands:
            break
        reached = reached.commands[word]
    return reached


def _unrecognized(tokens: Sequence[str], reached: type[Command] | Group) -> str:
    text = f"Unrecognized options: {', '.join(tokens)}"
    if isinstance(reached, Group):
        return f"{text}; Available subcommands: {', '.join(reached.commands)}"
    options = list(_options(reached))
    similar = [name for token in tokens if token.startswith("--") for name in _similar(token, options)]
    return f"{text}; perhaps you meant {' or '.join(dict.fromkeys(similar))}" if similar else text


def _options(command: type) -> Iterator[str]:
    """Yields the options of a command: the fields of its dataclass and of those in it."""
    for name, hint in typing.get_type_hints(command, include_extras=True).items():
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from _options(hint)
        elif not (typing.get_origin(hint) is Annotated and Positional in hint.__metadata__):
            yield f"--{name.replace('_', '-')}"


def _similar(token: str, options: Sequence[str]) -> list[str]:
    """Returns the options that are spelt almost like a word, then those that contain it."""
    name = token.partition("=")[0].replace("_", "-")
    longer = sorted(option for option in options if len(name) > 3 and name.removeprefix("--") in option)
    return [*difflib.get_close_matches(name, options, n=3, cutoff=0.8), *longer][:10]
