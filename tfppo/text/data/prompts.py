"""Prompts with labels, and the forms in which a user gives them."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from tfppo.errors import UsageError, one_line, shown

PROMPT = "prompt"  # column of the prompts; all other columns are labels
INFINITE = -1  # tf.data.INFINITE_CARDINALITY; this module does not import TensorFlow
TEXTS = ("prompts", "responses")  # arguments of rewards, so no labels
ROLES = "system, user or assistant"
FORMS = (
    "a list of texts, of messages or of dictionaries with the key prompt, a tf.data.Dataset or a pandas DataFrame of "
    "these, or the path of a file"
)
Message = dict[str, Any]


class Prompt(str):
    """A prompt: a text, with the labels that the reward gets, and the messages of a conversation.

    Args:
      text: The prompt, or a conversation as a list of messages, each a dictionary with `role` and `content`. The text
        of a conversation is the content of its last message.
      labels: Values by name.
      origin: Where the prompt is from, for messages, such as "line 3 of prompts.jsonl".

    Raises:
      UsageError: If the text is empty, is not a text or a conversation, or a label cannot be written as JSON.
    """

    labels: Mapping[str, Any]
    messages: Sequence[Message] | None  # None: the prompt is not a conversation
    origin: str

    def __new__(cls, text: object, labels: Mapping[str, Any] | None = None, origin: str = "the prompt") -> Self:
        """Makes a prompt from a text or from the messages of a conversation."""
        messages = None if isinstance(text, str) else _checked_messages(text, origin)
        text = text if messages is None else messages[-1]["content"]
        assert isinstance(text, str)
        if not text.strip():
            raise UsageError(f"{origin} is an empty prompt; a prompt must have at least one word: fill or remove it")
        prompt = super().__new__(cls, text)
        prompt.labels = {name: _checked_label(value, name, origin) for name, value in (labels or {}).items()}
        prompt.messages = messages
        prompt.origin = origin
        return prompt

    def row(self) -> dict[str, Any]:
        """Returns the prompt with its labels as a row of a JSONL file."""
        return {PROMPT: str(self) if self.messages is None else list(self.messages), **self.labels}


def labels_of(prompts: Sequence[str]) -> dict[str, list[Any]]:
    """Returns the labels of prompts as columns.

    Args:
      prompts: N prompts. Plain texts have no labels.

    Returns:
      The N values of each label by its name. A prompt without the label has None.
    """
    rows = [prompt.labels if isinstance(prompt, Prompt) else {} for prompt in prompts]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def as_prompts(source: object, what: str) -> list[Prompt]:
    """Makes prompts from any form in which a user may give them in Python.

    Args:
      source: A list of texts, of conversations (lists of messages) or of dictionaries. A dictionary has the key
        `prompt`; its other keys are labels. A tf.data.Dataset or a pandas DataFrame of these, too.
      what: Name of the prompts for errors, such as "prompts".

    Returns:
      The prompts.

    Raises:
      UsageError: If it has another form, a prompt is empty, or the column `prompt` is missing.
    """
    return [_as_prompt(row, f"row {number} of {what}") for number, row in enumerate(_rows(source, what))]


def prompt_of_row(row: Mapping[Any, Any], origin: str) -> Prompt:
    """Makes a prompt from a row of a table.

    Args:
      row: Values by column. The column `prompt` is the prompt, all others are labels.
      origin: Where the row is from, for errors.

    Raises:
      UsageError: If the row has no column `prompt`, a column has no name, or the prompt is invalid.
    """
    if PROMPT not in row:
        columns = ", ".join(map(str, row)) or "no columns"
        raise UsageError(
            f"{origin} has no column prompt (it has {one_line(columns)}): name the column of the prompts {PROMPT}"
        )
    for name in row:
        if not isinstance(name, str) or name in TEXTS:
            raise UsageError(
                f"{origin} has a column {shown(name)}; a label must have a name that is a text, and not "
                f"{' or '.join(TEXTS)}: rename it"
            )
    return Prompt(row[PROMPT], {name: value for name, value in row.items() if name != PROMPT}, origin)


def _rows(source: object, what: str) -> Iterable[object]:
    if hasattr(source, "to_dict") and hasattr(source, "columns"):  # a DataFrame of pandas
        return list(source.to_dict("records"))
    if hasattr(source, "as_numpy_iterator"):  # a tf.data.Dataset
        return _finite_rows(source, what)
    if hasattr(source, "tolist"):  # an array of NumPy, or a Series of pandas
        source = source.tolist()
    if isinstance(source, (str, bytes, Mapping)) or not isinstance(source, Iterable):
        raise UsageError(f"{what} is {one_line(shown(source))} ({type(source).__name__}); it must be {FORMS}")
    return source


def _finite_rows(dataset: Any, what: str) -> list[object]:
    if int(dataset.cardinality()) == INFINITE:
        raise UsageError(f"{what} is an infinite tf.data.Dataset; it must end: leave out repeat(), or add take(n)")
    return list(dataset.as_numpy_iterator())


def _as_prompt(row: object, origin: str) -> Prompt:
    if isinstance(row, Prompt):
        return row
    row = _decoded(row)
    if isinstance(row, Mapping):
        return prompt_of_row({_decoded(name): _decoded(value) for name, value in row.items()}, origin)
    return Prompt(row, None, origin)


def _decoded(value: object) -> object:
    """Converts the values of TensorFlow, NumPy and pandas to plain ones."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if hasattr(value, "tolist"):
        value = value.tolist()
        return _decoded(value) if isinstance(value, bytes) else value
    return value


def _checked_messages(given: object, origin: str) -> list[Message]:
    def is_message(message: object) -> bool:
        return isinstance(message, Mapping) and all(isinstance(message.get(key), str) for key in ("role", "content"))

    if not isinstance(given, Sequence) or isinstance(given, bytes) or not all(map(is_message, given)) or not given:
        raise UsageError(
            f"{origin} has the prompt {one_line(shown(given))} ({type(given).__name__}); a prompt must be a text, or a "
            f"list of messages with role ({ROLES}) and content"
        )
    if given[-1]["role"] == "assistant":
        raise UsageError(
            f"{origin} ends with a message of the assistant; the last message must be one to answer: leave it out"
        )
    return [dict(message) for message in given]


def _checked_label(value: object, name: str, origin: str) -> Any:
    value = _decoded(value)
    if isinstance(value, float) and math.isnan(value):  # a missing value of pandas
        return None
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        raise UsageError(
            f"{origin} has the label {name} {one_line(shown(value))} ({type(value).__name__}); a label must be a "
            "number, a text, True, False or None, or a list or dictionary of these"
        ) from None
    return value
