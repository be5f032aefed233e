"""Chat templates, which turn a conversation into the text that a language model was trained on.

A template is code in the language Jinja, which comes with a model. It runs in Jinja's sandbox, with the functions and
settings that Hugging Face documents for templates ("Writing a chat template" in the documentation of transformers). One
function always gives the same date: strftime_now, because a run must have the same prompts when it is resumed tomorrow.
"""

import datetime
import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, Undefined
from jinja2.ext import Extension
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tfppo.errors import UsageError, one_line, shown
from tfppo.text.data.prompts import ASSISTANT, USER, Message, Prompt

MARK = "\ufdd0"  # a code point that no text has (a noncharacter of Unicode)
ANSWER = "answer"
TODAY = datetime.date(2024, 7, 26)  # the date that the template of Llama 3.2 has where there is no strftime_now
QUESTION = [{"role": USER, "content": "question"}]


class ChatTemplate:
    """A chat template.

    Args:
      source: The template.
      names: Texts that the template may use by name, such as `bos_token` and `eos_token`.
      system: Text of a system message before each conversation that has none. None: no message is added.

    Raises:
      UsageError: If the template is not valid, or leaves out what the user says.
    """

    def __init__(self, source: str, names: Mapping[str, str], system: str | None = None):
        self.source = source
        self.system = system
        self._names = dict(names)
        try:
            self._template = _environment().from_string(source)
        except TemplateError as error:
            raise UsageError(
                f"the chat template is not valid ({one_line(error)}): correct it, or give --chat-template none"
            ) from None
        self._check_message()

    def _check_message(self) -> None:
        """Checks that the message of the user is in the text, for example that no name is misspelled."""
        try:
            texts = [self.render(content) for content in ("question", "another")]
        except UsageError:  # the template wants other messages than these, and the prompts will show it
            return
        if texts[0] == texts[1]:
            raise UsageError(
                f"the chat template writes {one_line(shown(texts[0]))} whatever the user says; it must write the "
                "messages, for example {{ messages[-1].content }}: correct it, or give --chat-template none"
            )

    def render(self, prompt: str, special: Iterable[str] = ()) -> str:
        """Renders a prompt up to the place where the answer begins.

        Args:
          prompt: A text, which becomes the message of a user, or a `Prompt` with messages.
          special: Special tokens of the tokenizer. Where a message spells one out, MARK is put into it, so that it can
            be told from the special tokens of the template.

        Returns:
          The text.

        Raises:
          UsageError: If the template fails, or writes only spaces.
        """
        given, of = (prompt.messages, f" for {prompt.origin}") if isinstance(prompt, Prompt) else (None, "")
        messages = [{"role": USER, "content": str(prompt)}] if given is None else list(map(_without_space, given))
        if self.system is not None and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": self.system})
        marked = functools.partial(mark_special, special=list(special))
        text = self._render([_mapped(marked, message) for message in messages], True, of)
        if not text.strip():
            raise UsageError(
                f"the chat template writes no text{of}; it must write the messages: correct it, or give "
                "--chat-template none"
            )
        return text

    def end_of_answer(self) -> str:
        """Returns the text that the template writes behind an answer. Empty if the template refuses such a message."""
        try:
            text = self._render([*QUESTION, {"role": ASSISTANT, "content": ANSWER}], add_generation_prompt=False)
        except UsageError:
            return ""
        return text.rpartition(ANSWER)[2]

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool, of: str = "") -> str:
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                tools=None,
                documents=None,
                **self._names,
            )
        except Exception as error:  # the template calls raise_exception, or fails in any way
            raise UsageError(
                f"the chat template raised {type(error).__name__}{of}: {one_line(error)}; change the messages or "
                "--system, or give --chat-template none"
            ) from None


def read_template(path: Path, remedy: str) -> str:
    """Reads a template from a file in UTF-8. A byte-order mark is allowed.

    Args:
      path: Path of the file.
      remedy: End of the error.

    Raises:
      UsageError: If the file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"chat_template is {path}, which cannot be read ({one_line(error)}){remedy}") from None


def mark_special(text: str, special: Sequence[str]) -> str:
    """Puts MARK behind the first letter of each special token that a text spells out."""
    text = text.replace(MARK, "")
    if not special:
        return text
    return _any_of(tuple(special)).sub(lambda found: found[0][0] + MARK + found[0][1:], text)


def split_special(text: str, special: Sequence[str]) -> list[tuple[str, bool]]:
    """Splits a text at its special tokens, and at each MARK.

    Args:
      text: A text in which MARK stands in special tokens that shall stay text.
      special: The special tokens.

    Returns:
      Pieces of the text without MARK, and True for those that are special tokens.
    """
    pieces: list[tuple[str, bool]] = []
    for part in text.split(MARK):
        found = _any_of(tuple(special)).split(part) if special else [part]
        pieces += [(piece, place % 2 == 1) for place, piece in enumerate(found) if piece]
    return pieces


@functools.lru_cache(16)
def _any_of(special: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(f"({'|'.join(map(re.escape, sorted(special, key=len, reverse=True)))})")  # the longest first


def _without_space(message: Message) -> Message:
    """Returns a message; an answer is without a space at its beginning, as `PromptCodec.encode_answers` has it."""
    content = message["content"]
    if message["role"] != ASSISTANT or not isinstance(content, str):
        return message
    return {**message, "content": content.removeprefix(" ")}


def _mapped(change: Any, value: Any) -> Any:
    """Applies a function to all texts in a message."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {name: part if name == "role" else _mapped(change, part) for name, part in value.items()}
    return [_mapped(change, part) for part in value] if isinstance(value, list | tuple) else value


class _Generation(Extension):
    """The block `generation`, with which templates mark the answers. It changes no text."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own attribute

    def parse(self, parser: Parser) -> list[Node]:
        """Returns the content of the block."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _FixedDate(Undefined):
    """The function strftime_now with a fixed date. It counts as undefined, so that a template may have its own date."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)  # as usual in Python: before a call, Jinja asks for attributes that it does not have

    def __call__(self, form: str) -> str:  # type: ignore[override] # that of Undefined raises
        return TODAY.strftime(form)


@functools.cache
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.globals["strftime_now"] = _FixedDate(name="strftime_now")
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    return environment


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)  # Jinja's own filter escapes letters for HTML


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
