"""Writes and reads the file `metrics.csv` of a run, which has one row per recorded iteration."""

import csv
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO

SCORE, SCORE_STD, SCALED_SCORE = "text/score_mean", "text/score_std", "text/scaled_score_mean"


class CsvWriter:
    """Writes rows of metrics to a CSV file: a column `iteration`, then one column per metric.

    A metric that is not in the file yet gets a new column, with "nan" in the existing rows. In a file of version 0.2
    the columns of the normalized scores get their present name.

    Args:
      path: Path of the file.
      start: First iteration of a resumed run, 0 for a new run. Existing rows from this iteration on are dropped,
        because the resumed run computes them again.
    """

    def __init__(self, path: Path, start: int = 0):
        self._path = path
        kept: list[dict[str, str]] = []
        if start > 0 and path.exists():
            rows = [row for row in csv.DictReader(whole_lines(path)) if int(row["iteration"]) < start]
            kept = [_with_present_names(row) for row in rows]
        self._rewrite(list(kept[0]) if kept else [], kept)

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Appends a row, which other processes can read at once.

        Args:
          iteration: Number of the iteration, from 0.
          metrics: Values by metric name. A new name adds a column.
        """
        row = {"iteration": iteration, **{name: _plain(value) for name, value in metrics.items()}}
        columns = list(dict.fromkeys([*self._writer.fieldnames, *row]))
        if columns != self._writer.fieldnames:
            self._file.close()
            self._rewrite(columns, list(csv.DictReader(whole_lines(self._path))))
        self._writer.writerow(row)
        self._file.flush()

    def _rewrite(self, names: list[str], rows: list[dict[str, str]]) -> None:
        """Replaces the file with a header and rows, and opens it to append rows."""
        new = self._path.with_name(self._path.name + ".tmp")
        self._file: IO[str] = new.open("w", newline="")
        self._writer = csv.DictWriter(self._file, names, restval="nan")
        if names:
            self._writer.writeheader()
        self._writer.writerows(rows)
        self.flush()
        new.replace(self._path)

    def flush(self) -> None:
        """Writes buffered rows to the disk, so that they survive a power failure."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def whole_lines(path: Path) -> list[str]:
    """Returns the complete lines of a text file.

    A last line without a line break is left out: a process may have been killed while it wrote that line.
    """
    with path.open(encoding="utf-8", newline="\n") as file:  # samples may contain other characters that break lines
        return [line for line in file if line.endswith("\n")]


def has_normalized_scores(names: Collection[str]) -> bool:
    """Returns True if the columns of a text run are those of version 0.2, where `text/score_mean` was normalized."""
    return SCORE in names and SCALED_SCORE not in names


def _with_present_names(row: dict[str, str]) -> dict[str, str]:
    """Renames the normalized mean score of version 0.2, which did not record the raw scores."""
    if not has_normalized_scores(row):
        return row
    return row | {SCALED_SCORE: row[SCORE], SCORE: "nan", SCORE_STD: "nan"}


def _plain(value: float) -> str:
    """Formats a float with seven digits, the precision of float32, and a whole number with all its digits."""
    return str(int(value)) if float(value).is_integer() else f"{value:.7g}"
