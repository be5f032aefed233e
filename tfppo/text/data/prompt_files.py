"""Files of prompts: JSON lines, CSV, and plain text."""

import codecs
import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfppo.errors import UsageError, one_line, shown
from tfppo.text.data.prompts import PROMPT, Prompt, prompt_of_row

UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
BUCKETS = 10_000
Row = tuple[dict[str, Any], str]
"""The values of a row by column, and where it is from."""


def read_prompts(path: Path) -> list[Prompt]:
    """Reads prompts with their labels from a file in UTF-8. A byte-order mark is allowed.

    - `.jsonl`: one JSON object a line. Its key `prompt` is a text or a list of messages; all other keys are labels.
    - `.csv`: a line with the names of the columns, then one row for each prompt. All labels are texts.
    - `.txt`: one prompt a line, without labels.

    Empty lines are left out.

    Args:
      path: Path of the file.

    Returns:
      The prompts, at least one.

    Raises:
      UsageError: If the file cannot be read or has no prompts, or a line is invalid. The error names the line.
    """
    prompts = [prompt_of_row(row, origin) for row, origin in read_rows(path, "prompts", PROMPT)]
    if not prompts:
        raise UsageError(f"{path} has no prompts; it must have at least one")
    return prompts


def read_rows(path: Path, what: str, column: str) -> Iterator[Row]:
    """Reads the rows of a file in UTF-8, see `read_prompts`.

    Args:
      path: Path of the file.
      what: Name of what the rows are, for errors, such as "prompts".
      column: Name of the only column of a `.txt` file. Errors also name it as an example.

    Yields:
      The values of a row by column, and where the row is from, such as "line 3 of prompts.jsonl".

    Raises:
      UsageError: If the file cannot be read, or a line is invalid. The error names the line.
    """
    readers: dict[str, Callable[[str, Path, str], Iterator[Row]]] = {".jsonl": _jsonl, ".csv": _csv, ".txt": _txt}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UsageError(
            f"{path} ends with {path.suffix or 'no extension'}; a file of {what} must end with "
            f"{', '.join(readers)}: convert or rename it"
        )
    yield from reader(_text_of(path, what), path, column)


def text_in(row: Mapping[Any, Any], column: str, origin: str) -> str:
    """Returns the text in a column.

    Args:
      row: Values by column, with this one.
      column: Name of the column.
      origin: Where the row is from, for errors.

    Raises:
      UsageError: If it is not a text or has no word.
    """
    value = row.get(column)
    if not isinstance(value, str):
        raise UsageError(
            f"{origin} has the {column} {one_line(shown(value))} ({type(value).__name__}); it must be a text: correct "
            "or remove the example"
        )
    if not value.strip():
        raise UsageError(f"{origin} has an empty {column}; it must have at least one word: fill or remove it")
    return value


def write_prompts(path: Path, prompts: Sequence[Prompt]) -> None:
    """Writes prompts with their labels as JSON lines, which `read_prompts` reads."""
    write_rows(path, (prompt.row() for prompt in prompts))


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes rows as JSON lines, which `read_rows` reads.

    Characters that UTF-8 cannot encode (surrogates) are written as escape sequences of JSON.
    """
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")


def split_share(prompts: Sequence[Prompt], share: float) -> tuple[list[Prompt], list[Prompt]]:
    """Divides prompts into two parts by a checksum of their texts, or of the beginnings of their conversations.

    Equal prompts are always in the same part, on every machine, and other prompts do not change the part of a prompt.
    Supervised fine-tuning and reward models hold out the same prompts.

    Args:
      prompts: The prompts.
      share: Expected share of the second part, above 0 and below 1.

    Returns:
      The two parts.
    """

    def is_second(prompt: Prompt) -> bool:
        return is_in_share(prompt.topic(), share)

    return [prompt for prompt in prompts if not is_second(prompt)], [p for p in prompts if is_second(p)]


def is_in_share(value: object, share: float) -> bool:
    """Returns True for a share of all values, chosen by a checksum of their JSON text.

    Args:
      value: A value that can be written as JSON.
      share: The share, from 0 to 1.
    """
    return int(hashlib.sha256(json.dumps(value).encode()).hexdigest(), 16) % BUCKETS < share * BUCKETS


def _text_of(path: Path, what: str) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): give the path of a file of {what}") from None
    if data.startswith(UTF16):
        raise UsageError(f"{path} is encoded in UTF-16; it must be UTF-8: save it in UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"line {line} of {path} is not UTF-8; the file must be: save it in UTF-8") from None


def _jsonl(text: str, path: Path, column: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        origin = f"line {number} of {path}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(
                f"{origin} is not JSON ({one_line(error)}); each line must be one JSON object: correct it"
            ) from None
        if not isinstance(row, dict):
            raise UsageError(
                f'{origin} is a JSON {type(row).__name__}; it must be an object, such as {{"{column}": "..."}}'
            )
        yield row, origin


def _csv(text: str, path: Path, column: str) -> Iterator[Row]:
    del column
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        names = list(reader.fieldnames or [])
        doubled = [name for name in names if names.count(name) > 1]
        if doubled:
            raise UsageError(f"line 1 of {path} names the column {doubled[0]!r} twice: rename one of them")
        for row in reader:
            origin = f"line {reader.line_num} of {path}"
            if None in row or None in row.values():
                count = len(names) + len(row.get(None) or []) - sum(value is None for value in row.values())
                raise UsageError(f"{origin} has {count} values; line 1 names {len(names)} columns: correct the line")
            yield row, origin
    except csv.Error as error:
        raise UsageError(
            f"line {reader.reader.line_num} of {path} is not CSV ({one_line(error)}): correct it"
        ) from None


def _txt(text: str, path: Path, column: str) -> Iterator[Row]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield {column: line}, f"line {number} of {path}"
