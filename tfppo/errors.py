"""Errors caused by user input."""

import reprlib
import textwrap

LONGEST = 300  # characters of anything that an error repeats


class UsageError(ValueError):
    """Invalid input. Its text is one line: what was given, what is allowed, what to do.

    The command line prints the line and exits with code 2; every other exception is a defect, and keeps its trace.
    Characters that cannot be printed, in a path or in another library's message, are written as escapes.
    """

    def __init__(self, text: str) -> None:
        super().__init__("".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text))


def one_line(thing: object) -> str:
    """Returns the text of an object as one line, cut short: a gymnasium space with arrays prints several."""
    return textwrap.shorten(str(thing), LONGEST, placeholder=" ...")


def kind_and_text(error: BaseException) -> str:
    """Returns an exception as one line: `RuntimeError: the motor is hot`."""
    text = " ".join(str(error).split())[:LONGEST]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def shown(value: object) -> str:
    """Returns the repr of a value, cut short where it is long, deep or endless."""
    text = _SHORT.repr(value)
    return text if len(text) <= LONGEST else text[:LONGEST] + " ..."


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxstring = self.maxother = 200

    def repr_int(self, x: int, level: int) -> str:
        large = x.bit_length() > 400  # Python refuses to write out very large ones
        return f"a whole number of {x.bit_length()} bits" if large else repr(x)


_SHORT = _Short()


def see(anchor: str) -> str:
    """Returns a pointer to a section of the page about troubleshooting, for the end of a message."""
    return f"(docs/troubleshooting.md#{anchor})"
