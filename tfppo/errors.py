"""What is raised when the user can mend it."""

import reprlib
import textwrap
from typing import Any

LONGEST = 300  # characters of anything that such a line repeats


class UsageError(ValueError):
    """Something that was given cannot be used. Its text is one line: what was given, what is wanted, what to do.

    The command line prints the line and exits with code 2; every other exception is a defect, and keeps its trace.
    What cannot be printed, in a path or in what another library says, is written as an escape.
    """

    def __init__(self, text: str):
        super().__init__("".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text))


def one_line(thing: Any) -> str:
    """The text of something for such a line: a space with arrays in it prints several."""
    return textwrap.shorten(str(thing), LONGEST, placeholder=" ...")


def kind_and_text(error: BaseException) -> str:
    """What was raised, for such a line: RuntimeError: the motor is hot."""
    text = " ".join(str(error).split())[:LONGEST]  # of a long word, too, the beginning
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def shown(value: Any) -> str:
    """What was given, for such a line: its repr, cut short where it is long, deep or endless."""
    text = _SHORT.repr(value)
    return text if len(text) <= LONGEST else text[:LONGEST] + " ..."


class _Short(reprlib.Repr):
    def __init__(self):
        super().__init__()
        self.maxlevel = 3
        self.maxstring = self.maxother = 200

    def repr_int(self, x: int, level: int) -> str:
        large = x.bit_length() > 400  # Python refuses to write out very large ones
        return f"a whole number of {x.bit_length()} bits" if large else repr(x)


_SHORT = _Short()
