"""Defines the interface of metric writers."""

from collections.abc import Mapping
from typing import Protocol


class Writer(Protocol):
    """Records a row of metrics after an iteration."""

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Records the metrics of an iteration.

        Args:
          iteration: Number of the iteration, from 0.
          metrics: Values by metric name.
        """

    def flush(self) -> None:
        """Writes buffered rows to the disk."""

    def close(self) -> None:
        """Ends writing and releases resources."""
