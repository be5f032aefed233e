"""Errors caused by user input, and functions that describe values in one line."""

import reprlib
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST = 300  # the most characters of a value or of another message that an error quotes


class UsageError(ValueError):
    """An error caused by user input, for example an invalid setting.

    Its text is one line that says what was given, what is allowed and what to do. The command line prints this line and
    exits with code 2. Any other exception is a defect of tfppo and keeps its traceback.

    Args:
      text: The message. Characters that cannot be printed, for example in a path or in a message of another library,
        are replaced by escape sequences.
    """

    def __init__(self, text: str) -> None:
        super().__init__("".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text))


def one_line(thing: object) -> str:
    """Returns the text of an object as one line of at most 300 characters.

    The text of some objects has several lines, for example that of a Gymnasium space with arrays.
    """
    return textwrap.shorten(str(thing), LONGEST, placeholder=" ...")


def kind_and_text(error: BaseException) -> str:
    """Returns the type and the text of an exception as one line, for example `RuntimeError: the motor is hot`."""
    text = " ".join(str(error).split())[:LONGEST]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextmanager
def refusing_exits() -> Iterator[None]:
    """Turns `sys.exit` in code of the user, such as an environment, into a `UsageError` during the `with` block.

    It is also a decorator of functions that run such code.
    """
    try:
        yield
    except SystemExit as error:
        raise UsageError(
            f"code of this run (its environment, reward or task) raised {kind_and_text(error)}; it must not end the "
            "process: remove the call of sys.exit"
        ) from error


def shown(value: object) -> str:
    """Returns the `repr` of a value, shortened if it is long, deeply nested or recursive."""
    text = _SHORT.repr(value)
    return text if len(text) <= LONGEST else text[:LONGEST] + " ..."


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxstring = self.maxother = 200

    def repr_int(self, x: int, level: int) -> str:
        large = x.bit_length() > 400  # Python refuses to convert very large integers to text
        return f"a whole number of {x.bit_length()} bits" if large else repr(x)


_SHORT = _Short()


def see(anchor: str) -> str:
    """Returns a pointer to a section of the page about troubleshooting, for the end of a message."""
    return f"(docs/troubleshooting.md#{anchor})"
