"""Prompts to padded tokens, and tokens back to text."""

from collections.abc import Iterable, Sequence

import keras_hub
import numpy as np

from tfppo.errors import UsageError
from tfppo.text.config import TextConfig
from tfppo.text.data.tokenizer import END, control_token
from tfppo.text.sampling import StopCondition


class PromptCodec:
    """A tokenizer, with what stands before a prompt and what ends a text.

    Args:
      tokenizer: KerasHub's, with an end token.
      domain: whose control token stands before every prompt; None, or a tokenizer without it: none does.
    """

    def __init__(self, tokenizer: keras_hub.tokenizers.Tokenizer, domain: str | None = None):
        self.tokenizer = tokenizer
        vocabulary = tokenizer.get_vocabulary()
        # KerasHub's tokenizers differ in the special tokens that they know; only here is it asked which.
        special = [token for token in getattr(tokenizer, "unsplittable_tokens", None) or [] if token in vocabulary]
        self.end = int(tokenizer.token_to_id(getattr(tokenizer, "end_token", END)))
        self.pad = int(getattr(tokenizer, "pad_token_id", 0))
        if self.end == self.pad:
            raise UsageError("the tokenizer pads with its end token, which would be masked out: give it another pad")
        self._special = {self.end, *map(tokenizer.token_to_id, special)}
        controls = [] if domain is None else [control_token(domain)]
        self.before = [int(tokenizer.token_to_id(token)) for token in controls if token in vocabulary]

    def stop_condition(self, text: TextConfig) -> StopCondition:
        """What ends a response, by the config's stop_token and stop_after.

        Raises:
          UsageError: if the stop token is not one token.
        """
        if text.stop_token is None:
            return StopCondition(self.end)
        ids = [int(token) for token in self.tokenizer([text.stop_token])[0]]
        if len(ids) != 1:
            raise UsageError(
                f"stop_token {text.stop_token!r} is {len(ids)} tokens of this tokenizer: give the text of one, like '.'"
            )
        return StopCondition(self.end, ids[0], text.stop_after)

    def encode(self, prompts: Sequence[str], room: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Prompts as int32 [N, P], padded on the right, and their lengths int32 [N].

        Raises:
          UsageError: on a prompt that is empty or no text, or longer than `room` tokens.
        """
        if not prompts:
            raise UsageError("there are no prompts: give at least one")
        for number, prompt in enumerate(prompts):
            if not isinstance(prompt, str):
                raise UsageError(f"prompt {number} is {prompt!r}, not a text: give strings")
            if not prompt.strip():
                raise UsageError(f"prompt {number} is empty: give it at least a word")
            if any("\ud800" <= letter <= "\udfff" for letter in prompt):  # how Python reads bytes that are no UTF-8
                raise UsageError(f"prompt {number} ({prompt[:40]!r}) holds what is no letter: give UTF-8")
        rows = [[*self.before, *map(int, ids)] for ids in self.tokenizer(list(prompts))]
        lengths = np.array([len(row) for row in rows], np.int32)
        longest = int(lengths.argmax())
        if room is not None and lengths[longest] > room:
            raise UsageError(
                f"prompt {longest} ({prompts[longest][:40]!r} ...) has {lengths[longest]} tokens, but the context has "
                f"room for {room} beside the response: shorten it, or make response_length smaller"
            )
        padded = np.full([len(rows), lengths[longest]], self.pad, np.int32)
        for row, ids in zip(padded, rows, strict=True):
            row[: len(ids)] = ids
        return padded, lengths

    def decode(self, tokens: Iterable[Sequence[int] | np.ndarray]) -> list[str]:
        """Decodes rows of tokens without padding; control tokens and the end are left out."""
        rows = [[int(token) for token in row if token not in self._special] for row in tokens]
        texts = iter(self.tokenizer.detokenize([row for row in rows if row] or [[self.end]]))
        return [str(next(texts)) if row else "" for row in rows]

    def decode_masked(self, tokens: np.ndarray, mask: np.ndarray) -> list[str]:
        """Decodes the tokens [N, R] that a mask [N, R] keeps."""
        return self.decode(row[kept] for row, kept in zip(tokens, mask, strict=True))
