"""Carries out what an error message advises, so that a test can show that it helps."""

import re
import shlex
import subprocess
from collections.abc import Mapping

import yaml

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


def advised_settings(text: str, settings: Mapping[str, object]) -> list[dict[str, object]]:
    """Reads the settings that an error message advises to change, from the words behind its last ": ".

    It understands "set NAME to VALUE", "for example NAME to VALUE", "leave NAME out", "use --NAME VALUE", and
    "raise NAME" or "lower NAME", which double or halve a number. The name "it" is the first word of the message.
    Pieces between "and" belong together, and pieces between "or" are alternatives. Pieces that tell something else are
    left out.

    Args:
      text: The message.
      settings: The settings that were refused, by name.

    Returns:
      The new settings of each alternative.
    """
    alternatives, verb = [], ""
    for piece in re.split(r",? or |, ", text.rpartition(": ")[2]):
        changed = dict(settings)
        for part in piece.split(" and "):
            part = part.replace("for example", "set")
            found = re.fullmatch(r"(?:(set|leave|use|raise|lower) )?(?:--)?(\w+)(?: (?:to )?(\w+))?(?: \(.*\))?", part)
            if found is None:
                break
            verb = found[1] or verb
            name = text.split()[0] if found[2] == "it" else found[2].replace("-", "_")
            if verb == "leave" and found[3] == "out":
                changed.pop(name)
            elif verb in ("set", "use") and found[3]:
                changed[name] = yaml.safe_load(found[3])
            elif verb in ("raise", "lower") and not found[3]:
                changed[name] = changed[name] * 2 or 1 if verb == "raise" else changed[name] // 2
            else:
                break
        else:
            alternatives.append(changed)
    return alternatives
