"""What takes a row of metrics after an iteration."""

from collections.abc import Mapping
from typing import Protocol


class Writer(Protocol):
    """Takes a row of metrics after an iteration."""

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None: ...

    def flush(self) -> None: ...  # to the disk

    def close(self) -> None: ...
