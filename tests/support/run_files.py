"""Reads the files of a run."""

import csv
import json
from pathlib import Path
from typing import Any


def rows_of(folder: Path) -> list[dict[str, str]]:
    """Returns the rows of metrics.csv."""
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def evaluation_of(folder: Path) -> dict[str, Any]:
    """Returns the content of evaluation.json."""
    return json.loads((folder / "evaluation.json").read_text())
