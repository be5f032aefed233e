"""What a user is told who gives something wrong."""

from typing import Any

import pytest

from tfppo.errors import UsageError


def refusal(function: Any, *arguments: Any) -> str:
    """The text of the UsageError that the call raises, which is one line of bearable length."""
    with pytest.raises(UsageError) as caught:
        function(*arguments)
    assert isinstance(caught.value, ValueError)
    text = str(caught.value)
    assert text and len(text.splitlines()) == 1 and len(text) < 1000, text
    return text
