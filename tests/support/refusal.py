"""A check of the error messages for invalid input."""

from typing import Any

import pytest

from tfppo.errors import UsageError


def refusal(function: Any, *arguments: Any, **named: Any) -> str:
    """Returns the text of the UsageError that a call raises. Checks that it is one line of reasonable length."""
    with pytest.raises(UsageError) as caught:
        function(*arguments, **named)
    assert isinstance(caught.value, ValueError)
    text = str(caught.value)
    assert text and len(text.splitlines()) == 1 and len(text) < 1000, text
    return text
