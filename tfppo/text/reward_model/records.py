"""The records of reward models: comparisons of two responses, and ratings of single texts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from tfppo.errors import UsageError, one_line, shown
from tfppo.text.data.corpus import Domain, Split, sentences
from tfppo.text.data.prompt_files import text_in
from tfppo.text.data.prompts import PROMPT, Prompt
from tfppo.text.reward_model.config import RewardModelConfig
from tfppo.text.supervised.records import Form, Records, load_records, overlap

TEXT, RESPONSE, CHOSEN, REJECTED = "text", "response", "chosen", "rejected"
RATING, MARGIN = "rating", "margin"
COLUMNS = f"{PROMPT}, {CHOSEN} and {REJECTED}, or {TEXT} and {RATING}, or {PROMPT}, {RESPONSE} and {RATING}"
SHIPPED_DOMAIN: Domain = "movie"  # of the shipped ratings


class Comparison(NamedTuple):
    """Two responses to a prompt, of which one was preferred."""

    prompt: Prompt
    chosen: str
    rejected: str
    margin: float | None  # None: the setting
    origin: str  # such as "line 3 of data.jsonl", for errors

    def row(self) -> dict[str, Any]:
        """Returns the record as a row of a JSONL file, from which it can be read again."""
        row = self.prompt.row() | {CHOSEN: self.chosen, REJECTED: self.rejected}
        return row if self.margin is None else row | {MARGIN: self.margin}

    def topic(self) -> object:
        """Returns what decides whether the record is held out."""
        return self.prompt.topic()


class Rating(NamedTuple):
    """A text, or a response to a prompt, with its rating."""

    prompt: Prompt | None  # None: the record is a text
    text: str
    rating: float
    origin: str

    def row(self) -> dict[str, Any]:
        """Returns the record as a row of a JSONL file, from which it can be read again."""
        text = {TEXT: self.text} if self.prompt is None else self.prompt.row() | {RESPONSE: self.text}
        return text | {RATING: self.rating}

    def topic(self) -> object:
        """Returns what decides whether the record is held out."""
        return self.text if self.prompt is None else self.prompt.topic()


Record: TypeAlias = Comparison | Rating


@dataclass(frozen=True)
class ShippedRatings(Records[Record]):
    """The movie sentences of the training and the validation split, which have ratings from -4 to 4."""


def records_of_row(row: Mapping[Any, Any], origin: str) -> list[Record]:
    """Makes the record of a row.

    Args:
      row: Values by column.
      origin: Where the row is from, for errors.

    Raises:
      UsageError: If columns are missing, the row has two of the three forms, or a value is invalid.
    """
    forms = [name for name in (CHOSEN, REJECTED, RATING) if name in row]
    if CHOSEN in forms or REJECTED in forms:
        if RATING in forms:
            raise _ambiguous(row, origin, [forms[0], RATING])
        _check_columns(row, origin, (PROMPT, CHOSEN, REJECTED))
        margin = None if row.get(MARGIN) in (None, "") or _is_nan(row[MARGIN]) else _number(row, MARGIN, origin)
        if margin is not None and margin < 0:
            raise UsageError(f"{origin} has the margin {margin:g}; it must be at least 0: correct or remove it")
        asked = Prompt(row[PROMPT], None, origin)
        chosen, rejected = (text_in(row, name, origin) for name in (CHOSEN, REJECTED))
        return [Comparison(asked, chosen, rejected, margin, origin)]
    for other in (RESPONSE, PROMPT):
        if TEXT in row and other in row:
            raise _ambiguous(row, origin, [TEXT, other])
    _check_columns(row, origin, (PROMPT, RESPONSE, RATING) if RESPONSE in row else (TEXT, RATING))
    prompt = Prompt(row[PROMPT], None, origin) if RESPONSE in row else None
    text = text_in(row, TEXT if prompt is None else RESPONSE, origin)
    return [Rating(prompt, text, _number(row, RATING, origin), origin)]


FORM: Form[Record] = Form(
    records_of_row,
    TEXT,
    f"a list of dictionaries with {COLUMNS}, or a tf.data.Dataset or a pandas DataFrame of these",
)


def load(config: RewardModelConfig, data: object, validation: object) -> Records[Record]:
    """Loads the records of a new run.

    Args:
      config: Settings of the run.
      data: Training data that are given in Python; None: the file `config.data`, or else the shipped ratings.
      validation: Validation data that are given in Python; None: the file `config.validation_data`, or a share.

    Returns:
      The records. They are all of one kind.

    Raises:
      UsageError: If data are given twice, cannot be read, or have comparisons and ratings.
    """
    if data is None and config.data is None:
        if validation is not None or config.validation_data is not None:
            raise UsageError(
                "validation_data is given without data; the shipped ratings have validation sentences of their own: "
                "give --data FILE, too"
            )
        train, held_out = shipped("train"), shipped("validation")
        return ShippedRatings(train, held_out, overlap(train, held_out))
    records = load_records(config, data, validation, FORM)
    check_one_kind([*records.train, *records.validation])
    return records


def shipped(split: Split) -> list[Record]:
    """Returns the shipped ratings of a split."""
    return [Rating(None, s.text, s.rating, f"sentence {s.id}") for s in sentences(split, SHIPPED_DOMAIN)]


def check_one_kind(records: Sequence[Record]) -> None:
    """Checks that all records are comparisons, or all ratings of texts, or all ratings of responses.

    Raises:
      UsageError: If they are not.
    """
    first = records[0]
    for record in records:
        if set(record.row()) - {MARGIN} != set(first.row()) - {MARGIN}:
            kinds = [", ".join(name for name in one.row() if name != MARGIN) for one in (record, first)]
            raise UsageError(
                f"{record.origin} has {kinds[0]}, and {first.origin} has {kinds[1]}; all examples of a run must be of "
                "one kind: train one reward model for each"
            )


def _check_columns(row: Mapping[Any, Any], origin: str, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in row]
    if missing:
        columns = one_line(", ".join(map(str, row))) or "no columns"
        raise UsageError(
            f"{origin} has no column {missing[0]} (it has {columns}); it must have {COLUMNS}: name the columns so"
        )


def _ambiguous(row: Mapping[Any, Any], origin: str, names: Sequence[str]) -> UsageError:
    return UsageError(
        f"{origin} has the columns {' and '.join(names)}, which are of two kinds of examples; it must have either "
        f"{COLUMNS}: leave out or rename the other columns"
    )


def _number(row: Mapping[Any, Any], column: str, origin: str) -> float:
    """Returns the finite number in a column. All values of a CSV file are texts."""
    value = row[column]
    try:
        number = math.nan if isinstance(value, bool) or value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= 1e30:
        kind = type(value).__name__
        raise UsageError(
            f"{origin} has the {column} {one_line(shown(value))} ({kind}); it must be a finite number: correct or "
            "remove the example"
        )
    return number


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
