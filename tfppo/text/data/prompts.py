"""Prompts with labels, and the forms in which a user gives them."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import PurePath
from typing import Any, Self

from tfppo.errors import UsageError, kind_and_text, one_line, shown

PROMPT = "prompt"  # column of the prompts; all other columns are labels
INFINITE = -1  # tf.data.INFINITE_CARDINALITY; this module does not import TensorFlow
TEXTS = ("prompts", "responses")  # arguments of rewards, so no labels
USER, ASSISTANT = "user", "assistant"
ROLES = "system, user or assistant"
FORMS = (
    "a list of texts, of conversations (lists of messages) or of dictionaries with the key prompt, or a "
    "tf.data.Dataset or a pandas DataFrame of these"
)
FILES = (".jsonl", ".csv", ".txt")  # endings of files of prompts
LABEL = "a number, a text, True, False or None, or a list or dictionary of these"
Message = dict[str, Any]


class Prompt(str):
    """A prompt: a text, with the labels that the reward gets, and the messages of a conversation.

    Args:
      text: The prompt, or a conversation as a list of messages, each a dictionary with `role` and `content`. The text
        of a conversation is the content of its last message.
      labels: Values by name. They are kept in the form that a JSON file gives back, so tuples become lists.
      origin: Where the prompt is from, for messages, such as "line 3 of prompts.jsonl".

    Raises:
      UsageError: If the text is empty, is not a text or a conversation, or a label or a message cannot be written as
        JSON.
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

    def topic(self) -> object:
        """Returns what decides whether the prompt is held out: its text, or the messages before the first answer.

        A conversation of one message of the user has the topic of its text, which a chat template renders alike.
        """
        messages = self.messages or [{"role": USER, "content": str(self)}]
        turns = [[message["role"], message["content"]] for message in messages]
        answers = [number for number, (role, _) in enumerate(turns) if role == ASSISTANT]
        turns = turns[: answers[0] if answers else None]
        return turns if len(turns) > 1 or turns[0][0] != USER else turns[0][1]

    def row(self) -> dict[str, Any]:
        """Returns the prompt with its labels as a row of a JSONL file."""
        return {PROMPT: str(self) if self.messages is None else list(self.messages), **self.labels}


def joined(prompts: Sequence[str], responses: Sequence[str], between: str = "") -> list[str]:
    """Joins N prompts and N responses to texts.

    Args:
      prompts: The prompts.
      responses: The responses.
      between: Put before each response that does not begin with white space, see `PromptCodec.between`.
    """
    pairs = zip(prompts, responses, strict=True)
    return [prompt + (between if response[:1].strip() else "") + response for prompt, response in pairs]


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
      UsageError: If it has another form, it cannot be read, a prompt is empty, or the column `prompt` is missing.
    """
    return [_as_prompt(row, f"row {number} of {what}") for number, row in enumerate(as_rows(source, what))]


def as_rows(source: object, what: str, forms: str = FORMS) -> list[object]:
    """Returns the rows of data that a user gives in Python, with the plain values of Python.

    Args:
      source: A list, a tf.data.Dataset or a pandas DataFrame.
      what: Name of the data for errors, such as "prompts".
      forms: The allowed forms, for errors.

    Raises:
      UsageError: If it has another form or cannot be read.
    """
    try:
        return [row if isinstance(row, Prompt) else _decoded(row) for row in _rows(source, what, forms)]
    except UsageError:
        raise
    except Exception as error:  # a generator or a dataset of the user may raise anything; its traceback is kept
        raise UsageError(f"{what} cannot be read ({kind_and_text(error)}): fix the code that gives them") from error


def prompt_of_row(row: Mapping[Any, Any], origin: str) -> Prompt:
    """Makes a prompt from a row of a table.

    Args:
      row: Values by column. The column `prompt` is the prompt, all others are labels.
      origin: Where the row is from, for errors.

    Raises:
      UsageError: If the row has no column `prompt`, a column has no name, or the prompt is invalid.
    """
    if PROMPT not in row and {"role", "content"} <= row.keys():
        raise UsageError(
            f"{origin} is a single message; a conversation is a list of messages: put the messages of each "
            "conversation into a list of their own"
        )
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


def _rows(source: object, what: str, forms: str) -> Iterable[object]:
    if hasattr(source, "to_dict") and hasattr(source, "columns"):  # a DataFrame of pandas
        return list(source.to_dict("records"))
    if hasattr(source, "as_numpy_iterator"):  # a tf.data.Dataset
        return _finite_rows(source, what)
    if hasattr(source, "tolist"):  # an array of NumPy, or a Series of pandas
        source = source.tolist()
    if isinstance(source, str | PurePath) and PurePath(source).suffix.lower() in FILES:
        raise UsageError(
            f"{what} is the path {one_line(shown(str(source)))}; it must be {forms}: give a file as a setting, as in "
            f"make_text_config({what}=...)"
        )
    if isinstance(source, (str, bytes, Mapping, Set)) or not isinstance(source, Iterable):
        raise UsageError(f"{what} is {one_line(shown(source))} ({type(source).__name__}); it must be {forms}")
    return source


def _finite_rows(dataset: Any, what: str) -> list[object]:
    if int(dataset.cardinality()) == INFINITE:
        raise UsageError(f"{what} is an infinite tf.data.Dataset; it must end: leave out repeat(), or add take(n)")
    return list(dataset.as_numpy_iterator())


def _as_prompt(row: object, origin: str) -> Prompt:
    if isinstance(row, Prompt):
        return row
    if isinstance(row, Mapping):
        return prompt_of_row(row, origin)
    return Prompt(row, None, origin)


def _decoded(value: object) -> object:
    """Converts the values of TensorFlow, NumPy and pandas to plain ones, also inside lists and dictionaries."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, list | tuple):
        return [_decoded(part) for part in value]
    if isinstance(value, Mapping):
        return {_decoded(name): _decoded(part) for name, part in value.items()}
    return value


def _checked_messages(given: object, origin: str) -> list[Message]:
    def is_message(message: object) -> bool:
        return isinstance(message, Mapping) and all(isinstance(message.get(key), str) for key in ("role", "content"))

    if not isinstance(given, Sequence) or isinstance(given, bytes) or not all(map(is_message, given)) or not given:
        raise UsageError(
            f"{origin} has the prompt {one_line(shown(given))} ({type(given).__name__}); a prompt must be a text, or a "
            f"list of messages with role ({ROLES}) and content"
        )
    if given[-1]["role"] == ASSISTANT:
        raise UsageError(
            f"{origin} ends with a message of the assistant; the last message must be one to answer: leave it out"
        )
    return [_as_json(message, f"{origin} has the message", "a value in a message") for message in given]


def _checked_label(value: object, name: str, origin: str) -> Any:
    if isinstance(value, float) and math.isnan(value):  # a missing value of pandas
        return None
    return _as_json(value, f"{origin} has the label {name}", "a label")


def _as_json(value: object, begin: str, what: str) -> Any:
    """Returns a value as it is read from a JSON file, so that a resumed run has the same one.

    JSON changes tuples to lists, and the keys of dictionaries to texts.
    """
    try:
        return json.loads(json.dumps(_decoded(value)))
    except (TypeError, ValueError, RecursionError):
        kind = type(value).__name__
        raise UsageError(f"{begin} {one_line(shown(value))} ({kind}); {what} must be {LABEL}") from None
