"""Carries out what an error message advises, so that a test can show that it helps."""

import shlex
import subprocess

from tfppo import cli


def carry_out(text: str) -> None:
    """Runs the command at the end of an error message, behind "with: ". Checks that it succeeds."""
    words = shlex.split(text.rpartition(" with: ")[2])
    if words[0] == "tfppo":
        assert cli.main(words[1:]) == 0, text
    else:
        assert words[0] == "mv", text  # no message may advise to delete anything
        subprocess.run(words, check=True)


def advised(text: str, option: str) -> list[str]:
    """Returns an option and its value, as an error message advises to give them."""
    assert f" {option} " in text, text
    return [option, shlex.split(text.rpartition(f" {option} ")[2])[0]]
