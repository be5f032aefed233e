"""Stops a supervised training in the middle, as Ctrl-C does."""

import contextlib
import itertools
from collections.abc import Iterator

import pytest

from tfppo.text.supervised import training


@contextlib.contextmanager
def stopped_after(steps: int) -> Iterator[None]:
    """Stops a training within the block after a number of gradient steps."""
    count = itertools.count(1)

    @contextlib.contextmanager
    def signals():
        yield lambda: next(count) == steps

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "stop_signals", signals)
        yield
