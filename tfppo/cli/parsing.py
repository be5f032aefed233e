"""Reading a command line with tyro; what is wrong with it becomes one line."""

import contextlib
import io
import os
import re
from collections.abc import Iterator
from typing import Any

import tyro
from tyro.conf import FlagConversionOff, OmitArgPrefixes, OmitSubcommandPrefixes

from tfppo.errors import UsageError


def parse(commands: Any, arguments: list[str]) -> Any:
    """The command that the arguments spell, an instance of one of `commands`. Prints help where it is asked for.

    Raises:
      UsageError: in one line, if they spell none.
    """
    held = io.StringIO()
    try:
        with _drawn_plainly(held):
            return _read(commands, arguments)
    except SystemExit as end:
        if end.code in (0, None):
            return _read(commands, arguments)  # help was asked for: again, drawn for the terminal
        raise UsageError(_one_line(held.getvalue(), arguments)) from None


def _read(commands: Any, arguments: list[str]) -> Any:
    return tyro.cli(
        commands,
        prog="tfppo",
        description="PPO for control and for language models in TensorFlow 2 and Keras 3.",
        args=arguments,
        config=(OmitArgPrefixes, OmitSubcommandPrefixes, FlagConversionOff),
    )


@contextlib.contextmanager
def _drawn_plainly(held: io.StringIO) -> Iterator[None]:
    """What is printed goes into `held`, without colours and in lines too long to be broken."""
    columns = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100000"
    try:
        with contextlib.redirect_stderr(held), contextlib.redirect_stdout(held):
            yield
    finally:
        if columns is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = columns


def _one_line(box: str, arguments: list[str]) -> str:
    """The sentences inside the box that tyro draws around an error: its title, rules and edges are left out, and of
    options that are similar to what was given all but their names."""
    lines = [line.strip().strip("│|").strip() for line in box.splitlines()[1:]]
    text = "\n".join(line for line in lines if line.strip("╰╯─+-"))
    text, _, ending = text.partition("\nFor full helptext, ")  # "see" or "run:", and the command
    text, _, similar = text.partition("\nPerhaps you meant:\n")
    text = text.partition("\nArguments are applied to the directly preceding subcommand")[0]
    text = re.sub(r"Error parsing (job|__tyro-dummy-inner__\S*): ", "", text)
    text = re.sub(r" \(applied to [^)]*\)", "", text)
    text = re.sub(r"\n(Available subcommands|Argument helptext)", r"; \1", text).replace("\n", " ")
    names = _similar(similar.splitlines(), arguments)
    text += f"; perhaps you meant {' or '.join(names)}" if names else ""
    return f"{text}; help: {' '.join(ending.split()[1:])}"


def _similar(lines: list[str], arguments: list[str]) -> list[str]:
    """The options that tyro names, in its order: those that the given command has."""
    names, option = {}, ""
    for line in lines:
        if line.startswith("--"):
            option = line.split()[0]
        elif line.startswith("in tfppo "):
            command = line.split()[2:-1]
            if option and arguments[: len(command)] == command:
                names[option] = None
    return list(names)
