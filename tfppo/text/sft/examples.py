"""Encodes records as tokens, with a mask of the tokens whose loss counts."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tfppo.errors import UsageError
from tfppo.execution.variables import digest
from tfppo.text.data.codec import PromptCodec
from tfppo.text.sft.records import Record


class Example(NamedTuple):
    """The tokens of a record."""

    tokens: np.ndarray  # int32 [N]
    counts: np.ndarray  # bool [N], True for tokens whose loss counts; the first one is never predicted

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.tokens)


class Examples(NamedTuple):
    """The examples of a file, and what was cut or left out because of the length limit."""

    examples: list[Example]
    truncated: int  # examples that were cut
    left_out: int  # records without a token to learn, because the prompt alone fills the limit
    spelled: int = 0  # records that spell out special tokens, which stay text

    @property
    def tokens(self) -> int:
        """Number of tokens whose loss counts."""
        return sum(int(example.counts[1:].sum()) for example in self.examples)

    def checksum(self) -> str:
        """Returns a checksum of the tokens and masks in their order."""
        return digest(array for example in self.examples for array in example)


def encode_records(
    records: Sequence[Record], codec: PromptCodec, plain: PromptCodec, loss_on: str, length: int
) -> Examples:
    """Encodes records exactly as PPO sees them.

    A prompt is encoded as PPO encodes it, with the start token or rendered by the chat template. A response has the
    tokens that the policy would sample: its own, and then the token that ends an answer. A text has the start token,
    its tokens and the end token.

    Args:
      records: N records.
      codec: Encodes prompts and responses.
      plain: Encodes texts; a codec without a chat template.
      loss_on: "responses", or "all" for the tokens of prompts, too. Those of a conversation that the record before it
        has already are left out, so that each token counts once.
      length: Largest number of tokens of an example; the rest is cut.

    Returns:
      The examples in the order of the records.

    Raises:
      UsageError: If a text is not valid UTF-8, or messages are given without a chat template.
    """
    with_prompt = [(record.prompt, record.answer) for record in records if record.prompt is not None]
    prompts = iter(codec.encode_prompts([prompt for prompt, _ in with_prompt]) if with_prompt else [])
    answers = iter(codec.encode_answers([answer for _, answer in with_prompt]))
    texts = iter(plain.encode_answers([record.answer for record in records if record.prompt is None]))
    examples: list[Example] = []
    truncated = left_out = 0
    last: tuple[Record, np.ndarray] | None = None
    for record in records:
        is_text = record.prompt is None
        before, after = (plain.before, next(texts)) if is_text else (next(prompts), next(answers))
        tokens = np.array([*before, *after], np.int32)
        first = len(before) if is_text or loss_on == "responses" else _number_shared(last, record, tokens)
        last = record, tokens
        counts = np.arange(len(tokens)) >= max(first, 1)
        truncated += len(tokens) > length
        if not counts[:length].any() or (not is_text and len(before) >= length):
            left_out += 1
            continue
        examples.append(Example(tokens[:length], counts[:length]))
    spelled = sum(codec.spells_special(record.answer) for record in records)
    return Examples(examples, truncated - left_out, left_out, spelled)


def _number_shared(last: tuple[Record, np.ndarray] | None, record: Record, tokens: np.ndarray) -> int:
    """Returns how many tokens a record shares with the one before it, if it continues its conversation; else 0."""
    if last is None or not record.continues(last[0]):
        return 0
    length = min(len(last[1]), len(tokens))
    differ = last[1][:length] != tokens[:length]
    return int(differ.argmax()) if differ.any() else length


def check_some_are_left(examples: Examples, what: str, length: int) -> None:
    """Checks that at least one example is left to train on.

    Raises:
      UsageError: If there is none.
    """
    if not examples.examples:
        raise UsageError(
            f"the prompts of all {examples.left_out} {what} fill {length} tokens and leave no room for a response: "
            "shorten them, raise max_length, or give a model with a longer context"
        )
