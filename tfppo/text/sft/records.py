"""The records of supervised fine-tuning: texts, prompts with responses, and conversations.

A file has one of these forms:

- `.jsonl`: one JSON object a line, with `text`, or with `prompt` and `response`, or with `messages`. A prompt is a text
  or a list of messages.
- `.csv`: a line with the names of the columns, then one row for each record.
- `.txt`: one text a line.

A conversation gives one record for each message of the assistant: the messages before it are the prompt.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tfppo.errors import UsageError, one_line, shown
from tfppo.text.data.prompt_files import text_in
from tfppo.text.data.prompts import ASSISTANT, PROMPT, ROLES, Prompt
from tfppo.text.supervised.records import Form

TEXT, RESPONSE, MESSAGES = "text", "response", "messages"
COLUMNS = f"{TEXT}, or {PROMPT} and {RESPONSE}, or {MESSAGES}"


class Record(NamedTuple):
    """A text, or a prompt with a response to learn."""

    prompt: Prompt | None  # None: the record is a text
    answer: str  # the response, or the text
    origin: str  # such as "line 3 of data.jsonl", for errors

    def row(self) -> dict[str, Any]:
        """Returns the record as a row of a JSONL file, from which it can be read again."""
        return {TEXT: self.answer} if self.prompt is None else self.prompt.row() | {RESPONSE: self.answer}

    def topic(self) -> object:
        """Returns what decides whether the record is held out: the beginning of the conversation, or the text."""
        return self.answer if self.prompt is None else self.prompt.topic()

    def continues(self, other: "Record") -> bool:
        """Returns True if the record is a later answer in the conversation of the other record."""
        messages = self.prompt.messages if self.prompt is not None else None
        before = other.prompt.messages if other.prompt is not None else None
        if not messages or not before or len(messages) <= len(before):
            return False
        answer = messages[len(before)]
        told = answer["role"] == ASSISTANT and answer["content"] == other.answer
        return told and [*messages[: len(before)]] == [*before]


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
    found = [*has, *([PROMPT] if PROMPT in row and has == [TEXT] else [])]
    if len(found) > 1:
        raise UsageError(
            f"{origin} has the columns {' and '.join(found)}, which are two examples; it must have either {COLUMNS}: "
            "leave out or rename the other columns"
        )
    if has == [TEXT]:
        return [Record(None, text_in(row, TEXT, origin), origin)]
    if has == [MESSAGES]:
        return _records_of_conversation(row[MESSAGES], origin)
    return [Record(Prompt(row[PROMPT], None, origin), text_in(row, RESPONSE, origin), origin)]


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
        records.append(Record(prompt, text_in(messages[number], "content", origin), origin))
    return records


FORM = Form(
    records_of_row,
    TEXT,
    f"a list of texts or of dictionaries with {COLUMNS}, or a tf.data.Dataset or a pandas DataFrame of these",
)
