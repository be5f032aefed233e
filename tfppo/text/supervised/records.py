"""Reads the records of a training: their files and forms, the split into two parts, and their copies in a run."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from tfppo.errors import UsageError, one_line, shown
from tfppo.text.data.prompt_files import is_in_share, read_rows, write_rows
from tfppo.text.data.prompts import as_rows
from tfppo.text.supervised.config import TuningConfig, no_data
from tfppo.training import run_folder

TRAIN_FILE, VALIDATION_FILE = "train.jsonl", "validation.jsonl"


class Record(Protocol):
    """A record of a file, from which an example is made."""

    def row(self) -> dict[str, Any]:
        """Returns the record as a row of a JSONL file, from which it can be read again."""

    def topic(self) -> object:
        """Returns the prompt or text that decides in which part of the data the record is."""


R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Form(Generic[R]):
    """The form of the records of a method."""

    of_row: Callable[[Mapping[Any, Any], str], list[R]]
    """Makes the records of a row. The second argument says where the row is from, for errors."""
    column: str
    """The only column of a `.txt` file, and of a row that is a text."""
    forms: str
    """The allowed forms of data in Python, for errors."""


@dataclass(frozen=True)
class Records(Generic[R]):
    """The records of a run."""

    train: list[R]
    validation: list[R]
    overlap: int = 0
    """Number of validation records that are also training records."""


def read_records(path: Path, form: Form[R]) -> list[R]:
    """Reads records from a file, see `read_rows`. Columns that the form does not name are ignored.

    Args:
      path: Path of the file.
      form: Form of the records.

    Returns:
      The records, at least one.

    Raises:
      UsageError: If the file cannot be read or has no records, or a line is invalid. The error names the line.
    """
    rows = read_rows(path, "examples", form.column)
    records = [record for row, origin in rows for record in form.of_row(row, origin)]
    if not records:
        raise UsageError(f"{path} has no examples; it must have at least one")
    return records


def as_records(source: object, what: str, form: Form[R]) -> list[R]:
    """Makes records from data that a user gives in Python, or reads them from a file.

    Args:
      source: A path, or data in one of `form.forms`.
      what: Name of the data for errors, such as "data".
      form: Form of the records.

    Returns:
      The records, at least one.

    Raises:
      UsageError: If it has another form, it cannot be read, or a row is invalid.
    """
    if isinstance(source, (str, Path)):
        return read_records(Path(source), form)
    records: list[R] = []
    for number, row in enumerate(as_rows(source, what, form.forms)):
        origin = f"row {number} of {what}"
        if isinstance(row, str):
            row = {form.column: row}
        if not isinstance(row, Mapping):
            raise UsageError(f"{origin} is {one_line(shown(row))} ({type(row).__name__}); {what} must be {form.forms}")
        records += form.of_row(row, origin)
    if not records:
        raise UsageError(f"{what} has no examples; it must have at least one")
    return records


def split_records(records: Sequence[R], share: float) -> tuple[list[R], list[R]]:
    """Divides records into training and validation by a checksum of the prompt, or of the text without a prompt.

    Records with equal prompts are always in the same part, and other records do not change the part of a record.

    Args:
      records: The records.
      share: Expected share of the validation records.

    Returns:
      The two parts.
    """
    held = [is_in_share(record.topic(), share) for record in records]
    train = [record for record, is_held in zip(records, held, strict=True) if not is_held]
    return train, [record for record, is_held in zip(records, held, strict=True) if is_held]


def key(record: Record) -> str:
    """Returns a text that two records share only if they are equal."""
    return json.dumps(record.row())


def overlap(train: Iterable[Record], validation: Sequence[Record]) -> int:
    """Returns the number of validation records that are also training records."""
    keys = {key(record) for record in train}
    return sum(key(record) in keys for record in validation)


def load_records(config: TuningConfig, data: object, validation: object, form: Form[R]) -> Records[R]:
    """Loads the records of a new run.

    Args:
      config: Settings of the run.
      data: Training data that are given in Python; None: the file `config.data`.
      validation: Validation data that are given in Python; None: the file `config.validation_data`, or a share.
      form: Form of the records.

    Returns:
      The records.

    Raises:
      UsageError: If data are missing or given twice, or they cannot be read.
    """
    for name, given, path in (("data", data, config.data), ("validation_data", validation, config.validation_data)):
        if given is not None and path is not None:
            raise UsageError(f"{name} is {path}, and {name} is given in Python, too: leave one out")
    if data is None and config.data is None:
        raise no_data()
    train = as_records(config.data if data is None else data, "data", form)
    held = config.validation_data if validation is None else validation
    if held is not None:
        held_out = as_records(held, "validation_data", form)
        return Records(train, held_out, overlap(train, held_out))
    kept, held_out = split_records(train, config.validation_share)
    return Records(kept, held_out) if kept and held_out else Records(train, [])


def keep_records(folder: Path, records: Records[R]) -> None:
    """Writes the records of a new run into its folder, from where `kept_records` reads them."""
    data = folder / run_folder.DATA
    data.mkdir()
    write_rows(data / TRAIN_FILE, (record.row() for record in records.train))
    if records.validation:
        write_rows(data / VALIDATION_FILE, (record.row() for record in records.validation))


def kept_records(folder: Path, form: Form[R]) -> Records[R]:
    """Reads the records that the folder of a run keeps.

    Raises:
      UsageError: If the file of the training records is missing, or a file is damaged.
    """
    data = folder / run_folder.DATA
    train = as_records(data / TRAIN_FILE, "data", form)
    held_out = as_records(data / VALIDATION_FILE, "data", form) if (data / VALIDATION_FILE).is_file() else []
    return Records(train, held_out, overlap(train, held_out))
