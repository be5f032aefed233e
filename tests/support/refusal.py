"""A check of the error messages for invalid input."""

from typing import Any

import pytest

from tfppo import cli
from tfppo.errors import UsageError


def refusal(function: Any, *arguments: Any, **named: Any) -> str:
    """Returns the text of the UsageError that a call raises. Checks that it is one line of reasonable length."""
    with pytest.raises(UsageError) as caught:
        function(*arguments, **named)
    assert isinstance(caught.value, ValueError)
    text = str(caught.value)
    assert text and len(text.splitlines()) == 1 and len(text) < 1000, text
    return text


def command_refusal(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Returns what a command prints that ends with exit code 2. Checks that it is one line."""
    assert cli.main(list(map(str, words))) == 2
    err = capsys.readouterr().err
    assert err.startswith("tfppo: ") and len(err.splitlines()) == 1, err
    return err
