"""Encodes prompts as padded tokens, and decodes tokens to text."""

from collections.abc import Collection, Iterable, Sequence

import keras_hub
import numpy as np

from tfppo.errors import UsageError
from tfppo.text.config import TextConfig
from tfppo.text.data.special_tokens import SpecialTokens, special_tokens_of, vocabulary_of
from tfppo.text.data.stop_condition import StopCondition
from tfppo.text.data.tokenizer import control_token


def token_ids(tokenizer: keras_hub.tokenizers.Tokenizer) -> Collection[int]:
    """Returns the ids of all tokens of a tokenizer. The ids of a byte-pair tokenizer may have gaps."""
    vocabulary = getattr(tokenizer, "vocabulary", None)
    ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary_of(tokenizer)))
    return frozenset(ids)


def check_tokenizer(tokenizer: keras_hub.tokenizers.Tokenizer, embeddings: int) -> None:
    """Checks that a tokenizer returns the plain tokens of a text, and that the model has an embedding for every token.

    The model may have more embeddings than the tokenizer has tokens. Some models round their vocabulary up.

    Args:
      tokenizer: A KerasHub tokenizer.
      embeddings: Number of embeddings of its language model.

    Raises:
      UsageError: If the tokenizer pads, appends an end token, returns no numbers, or has a token that is too large.
    """
    if tokenizer.compute_dtype == "string":
        raise UsageError("the tokenizer returns strings; it must return numbers: make it with dtype='int32'")
    for name in ("sequence_length", "add_eos"):  # a response would follow the padding or the end token
        if value := getattr(tokenizer, name, None):
            raise UsageError(
                f"the tokenizer has {name} {value}; it must return only the tokens of a text: make it without {name}"
            )
    needed = 1 + max(token_ids(tokenizer), default=0)
    if needed > embeddings:
        raise UsageError(
            f"the tokenizer has {needed} tokens, but the model has embeddings for only {embeddings}; the "
            "model must have at least as many: give the tokenizer with which the model was trained"
        )


class PromptCodec:
    """A tokenizer with its special tokens: those before each prompt, those that end a response, and padding.

    Padding is known by its position, so any token may be the padding, also the end token.

    Args:
      tokenizer: A KerasHub tokenizer with an end token.
      domain: Puts the control token of this domain before each prompt, if the tokenizer has it; None puts no token.
      special: Start token and end tokens. None: those of the tokenizer.

    Raises:
      UsageError: If the tokenizer has no end token.
    """

    def __init__(
        self,
        tokenizer: keras_hub.tokenizers.Tokenizer,
        domain: str | None = None,
        special: SpecialTokens | None = None,
    ):
        self.tokenizer = tokenizer
        vocabulary = vocabulary_of(tokenizer)
        # KerasHub's tokenizers differ in their special tokens. No other module depends on that.
        named = [token for token in getattr(tokenizer, "unsplittable_tokens", None) or [] if token in vocabulary]
        self.special = special_tokens_of(tokenizer) if special is None else special
        start, self.ends = self.special
        self.end = self.ends[0]
        self._known = token_ids(tokenizer)
        pad = getattr(tokenizer, "pad_token_id", 0)
        self.pad = self.end if pad is None else int(pad)
        starts = [] if start is None else [start]
        self._special = {*starts, *self.ends, *map(tokenizer.token_to_id, named)}
        controls = [] if domain is None else [control_token(domain)]
        self.before = starts + [int(tokenizer.token_to_id(token)) for token in controls if token in vocabulary]

    def stop_condition(self, text: TextConfig) -> StopCondition:
        """Makes the stop condition from the settings `stop_token` and `stop_after`.

        Args:
          text: Settings of the run.

        Returns:
          The stop condition.

        Raises:
          UsageError: If `stop_token` is not exactly one token.
        """
        end = self.end if len(self.ends) == 1 else self.ends
        if text.stop_token is None:
            return StopCondition(end)
        ids = [int(token) for token in self.tokenizer([text.stop_token])[0]]
        if len(ids) != 1:
            raise UsageError(
                f"stop_token {text.stop_token!r} is {len(ids)} tokens; it must be one token of this tokenizer: give "
                "for example '.'"
            )
        return StopCondition(end, ids[0], text.stop_after)

    def encode(
        self, prompts: Sequence[str], room: int | None = None, limit: str = "response_length"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encodes prompts, with the control token before each.

        Args:
          prompts: N texts.
          room: Largest number of tokens of a prompt; None allows any.
          limit: Name of the setting that limits the length of the responses, for the error.

        Returns:
          Token ids int32 [N, P], padded on the right, and lengths int32 [N].

        Raises:
          UsageError: If a prompt is empty, not a text, not valid UTF-8, or longer than `room` tokens.
        """
        if not prompts:
            raise UsageError("no prompt is given: give at least one")
        for number, prompt in enumerate(prompts):
            if not isinstance(prompt, str):
                raise UsageError(f"prompt {number} is {prompt!r}; it must be a string")
            if not prompt.strip():
                raise UsageError(f"prompt {number} is empty; it must have at least one word")
            if any("\ud800" <= letter <= "\udfff" for letter in prompt):  # Python's form of bytes that are not UTF-8
                raise UsageError(f"prompt {number} ({prompt[:40]!r}) has bytes that are not UTF-8: encode it in UTF-8")
        rows = [[*self.before, *map(int, ids)] for ids in self.tokenizer(list(prompts))]
        lengths = np.array([len(row) for row in rows], np.int32)
        longest = int(lengths.argmax())
        if room is not None and lengths[longest] > room:
            raise UsageError(
                f"prompt {longest} ({prompts[longest][:40]!r} ...) has {lengths[longest]} tokens; the context has room "
                f"for {room} besides the response: shorten the prompt, or lower {limit}"
            )
        padded = np.full([len(rows), lengths[longest]], self.pad, np.int32)
        for row, ids in zip(padded, rows, strict=True):
            row[: len(ids)] = ids
        return padded, lengths

    def decode(self, tokens: Iterable[Sequence[int] | np.ndarray]) -> list[str]:
        """Decodes rows of tokens, without their special tokens.

        A language model may have a larger vocabulary than its tokenizer. Tokens that the tokenizer does not know are
        left out.

        Args:
          tokens: Rows of token ids, without padding.

        Returns:
          One text for each row; an empty text for a row without other tokens.
        """
        rows = [[int(id) for id in row if id in self._known and id not in self._special] for row in tokens]
        texts = iter(self.tokenizer.detokenize([row for row in rows if row] or [[self.end]]))
        return [str(next(texts)) if row else "" for row in rows]

    def decode_masked(self, tokens: np.ndarray, mask: np.ndarray) -> list[str]:
        """Decodes responses.

        Args:
          tokens: int [N, R].
          mask: bool [N, R], True for the tokens of each response.

        Returns:
          N texts.
        """
        return self.decode(row[kept] for row, kept in zip(tokens, mask, strict=True))
