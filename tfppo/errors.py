"""What is raised when the user can mend it."""

import textwrap
from typing import Any


class UsageError(ValueError):
    """Something that was given cannot be used. Its text is one line: what was given, what is wanted, what to do.

    The command line prints the line and exits with code 2; every other exception is a defect, and keeps its trace.
    """


def one_line(thing: Any) -> str:
    """The text of something for such a line: a space with arrays in it prints several."""
    return textwrap.shorten(str(thing), 300, placeholder=" ...")
