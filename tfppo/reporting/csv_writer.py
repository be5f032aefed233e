"""metrics.csv: a row an iteration."""

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO


class CsvWriter:
    """metrics.csv: a column `iteration`, then one for each metric.

    Args:
      path: of the file.
      start: a resumed run's first iteration: rows from it on belong to what is redone, and are dropped. Rows of a
        version that had fewer metrics get "nan" for the others.
    """

    def __init__(self, path: Path, start: int = 0):
        self._path = path
        self._kept: list[dict[str, str]] = []
        if start > 0 and path.exists():
            self._kept = [row for row in csv.DictReader(whole_lines(path)) if int(row["iteration"]) < start]
        self._is_new = True  # nothing was written yet but what is kept
        self._rewrite(list(self._kept[0]) if self._kept else [])

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        row = {"iteration": iteration, **{name: _plain(value) for name, value in metrics.items()}}
        if self._is_new:
            columns = list(dict.fromkeys([*self._writer.fieldnames, *row]))
            if columns != self._writer.fieldnames:
                self._file.close()
                self._rewrite(columns)
            self._is_new = False
        self._writer.writerow(row)
        self._file.flush()

    def _rewrite(self, names: list[str]) -> None:
        """Writes the header, and below it the rows that are kept, in place of the file, and goes on behind them."""
        new = self._path.with_name(self._path.name + ".tmp")
        self._file: IO[str] = new.open("w", newline="")
        self._writer = csv.DictWriter(self._file, names, restval="nan")
        if names:
            self._writer.writeheader()
        self._writer.writerows(self._kept)
        self.flush()
        new.replace(self._path)

    def flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def whole_lines(path: Path) -> list[str]:
    """The lines of a text file, without one that a process was killed in the middle of."""
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _plain(value: float) -> str:
    """Seven digits, which is all that float32 has; counts in full."""
    return str(int(value)) if float(value).is_integer() else f"{value:.7g}"
