"""Reads the records of supervised fine-tuning: texts, prompts with responses, and conversations."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tfppo.errors import UsageError, one_line, shown
from tfppo.text.data.prompt_files import is_in_share, read_rows
from tfppo.text.data.prompts import PROMPT, ROLES, Prompt, as_rows

TEXT, RESPONSE, MESSAGES = "text", "response", "messages"
COLUMNS = f"{TEXT}, or {PROMPT} and {RESPONSE}, or {MESSAGES}"
FORMS = f"a list of texts or of dictionaries with {COLUMNS}, or a tf.data.Dataset or a pandas DataFrame of these"
ASSISTANT = "assistant"


class Record(NamedTuple):
    """A text, or a prompt with a response to learn."""

    prompt: Prompt | None  # None: the record is a text
    answer: str  # the response, or the text
    origin: str  # such as "line 3 of data.jsonl", for errors

    def row(self) -> dict[str, Any]:
        """Returns the record as a row of a JSONL file, which `read_records` reads."""
        return {TEXT: self.answer} if self.prompt is None else self.prompt.row() | {RESPONSE: self.answer}

    def key(self) -> str:
        """Returns a text that two records share only if they are equal."""
        return json.dumps(self.row())


def read_records(path: Path) -> list[Record]:
    """Reads records from a file.

    - `.jsonl`: one JSON object a line, with `text`, or with `prompt` and `response`, or with `messages`. A prompt is a
      text or a list of messages.
    - `.csv`: a line with the names of the columns, then one row for each record.
    - `.txt`: one text a line.

    All other columns are ignored, and empty lines are left out. A conversation gives one record for each message of the
    assistant: the messages before it are the prompt.

    Args:
      path: Path of the file.

    Returns:
      The records, at least one.

    Raises:
      UsageError: If the file cannot be read or has no records, or a line is invalid. The error names the line.
    """
    records = [record for row, origin in read_rows(path, "examples", TEXT) for record in records_of_row(row, origin)]
    if not records:
        raise UsageError(f"{path} has no examples; it must have at least one")
    return records


def as_records(source: object, what: str) -> list[Record]:
    """Makes records from data that a user gives in Python, or reads them from a file.

    Args:
      source: A path, or data in one of FORMS.
      what: Name of the data for errors, such as "data".

    Returns:
      The records, at least one.

    Raises:
      UsageError: If it has another form, it cannot be read, or a row is invalid.
    """
    if isinstance(source, (str, Path)):
        return read_records(Path(source))
    records = []
    for number, row in enumerate(as_rows(source, what, FORMS)):
        origin = f"row {number} of {what}"
        if isinstance(row, str):
            row = {TEXT: row}
        if not isinstance(row, Mapping):
            raise UsageError(f"{origin} is {one_line(shown(row))} ({type(row).__name__}); {what} must be {FORMS}")
        records += records_of_row(row, origin)
    if not records:
        raise UsageError(f"{what} has no examples; it must have at least one")
    return records


def records_of_row(row: Mapping[Any, Any], origin: str) -> list[Record]:
    """Makes the records of a row.

    Args:
      row: Values by column.
      origin: Where the row is from, for errors.

    Raises:
      UsageError: If columns are missing, the row has two of the three forms, or a value is invalid.
    """
    has = [name for name in (TEXT, RESPONSE, MESSAGES) if name in row]
    if not has or (has == [RESPONSE] and PROMPT not in row):
        columns = one_line(", ".join(map(str, row))) or "no columns"
        missing = f"column {PROMPT}" if has else f"column {RESPONSE}" if PROMPT in row else "examples"
        raise UsageError(f"{origin} has no {missing} (it has {columns}); it must have {COLUMNS}: name the columns so")
    if len(has) > 1:
        raise UsageError(
            f"{origin} has the columns {' and '.join(has)}, which are two examples; it must have either {COLUMNS}: "
            "leave out or rename the other columns"
        )
    if has == [TEXT]:
        return [Record(None, _text_in(row, TEXT, origin), origin)]
    if has == [MESSAGES]:
        return _records_of_conversation(row[MESSAGES], origin)
    return [Record(Prompt(row[PROMPT], None, origin), _text_in(row, RESPONSE, origin), origin)]


def _text_in(row: Mapping[Any, Any], column: str, origin: str) -> str:
    value = row[column]
    if not isinstance(value, str):
        raise UsageError(
            f"{origin} has the {column} {one_line(shown(value))} ({type(value).__name__}); it must be a text: correct "
            "or remove the example"
        )
    if not value.strip():
        raise UsageError(f"{origin} has an empty {column}; it must have at least one word: fill or remove it")
    return value


def _records_of_conversation(messages: object, origin: str) -> list[Record]:
    if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)):
        raise UsageError(
            f"{origin} has the messages {one_line(shown(messages))} ({type(messages).__name__}); they must be a list "
            f"of messages with role ({ROLES}) and content"
        )
    roles = [message.get("role") if isinstance(message, Mapping) else None for message in messages]
    answers = [number for number, role in enumerate(roles) if role == ASSISTANT]
    if not answers or answers[0] == 0:
        problem = "no message of the assistant" if not answers else "a message of the assistant before any other"
        raise UsageError(f"{origin} has {problem}; a conversation must have a question and then an answer: correct it")
    records = []
    for number in answers:
        if roles[number - 1] == ASSISTANT:
            raise UsageError(f"{origin} has two messages of the assistant in a row: join them into one")
        prompt = Prompt(list(messages[:number]), None, origin)
        records.append(Record(prompt, _text_in(messages[number], "content", origin), origin))
    return records


def split_records(records: Sequence[Record], share: float) -> tuple[list[Record], list[Record]]:
    """Divides records into training and validation by a checksum of the prompt, or of the text without a prompt.

    Records with equal prompts are always in the same part, and other records do not change the part of a record.

    Args:
      records: The records.
      share: Expected share of the validation records.

    Returns:
      The two parts.
    """
    held = [is_in_share(record.answer if record.prompt is None else record.prompt.row(), share) for record in records]
    train = [record for record, is_held in zip(records, held, strict=True) if not is_held]
    return train, [record for record, is_held in zip(records, held, strict=True) if is_held]


def overlap(train: Iterable[Record], validation: Sequence[Record]) -> int:
    """Returns the number of validation records that are also training records."""
    keys = {record.key() for record in train}
    return sum(record.key() in keys for record in validation)


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Writes records as JSON lines. Characters that UTF-8 cannot encode are written as escape sequences of JSON."""
    lines = [json.dumps(record.row(), ensure_ascii=False) + "\n" for record in records]
    path.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")
