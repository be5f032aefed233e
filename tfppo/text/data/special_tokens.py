"""The start token before prompts, the tokens that end a response, and the chat template of a language model.

KerasHub keeps the start token in the preprocessor of a model, and knows one end token, or two for Llama 3. A model that
follows instructions may end its answers with others: the file `generation_config.json` of its folder lists them. What
the folder of a model says is kept with the tokenizer.
"""

from collections.abc import Collection, Iterable
from typing import NamedTuple

import keras_hub

from tfppo.errors import UsageError
from tfppo.text.data.tokenizer import END

ATTRIBUTE = "tfppo_special_tokens"  # of a tokenizer


class SpecialTokens(NamedTuple):
    """Ids of tokens with a meaning for prompts and responses."""

    start: int | None
    """Token before each prompt; None: there is none."""
    ends: tuple[int, ...]
    """Tokens that end a response. The first is the end token of the tokenizer."""
    chat_template: str | None = None
    """The chat template of the model, see `data.chat`; None: there is none."""
    written: tuple[str, ...] = ()
    """Tokens that are never split and yet are text, such as `<think>`; Hugging Face: added, but not special."""


def vocabulary_of(tokenizer: keras_hub.tokenizers.Tokenizer) -> Collection[str]:
    """Returns the tokens of a tokenizer, or an empty list if it keeps no list (as KerasHub's ByteTokenizer)."""
    try:
        return tokenizer.get_vocabulary()
    except NotImplementedError:
        return []


def unsplittable_tokens_of(tokenizer: keras_hub.tokenizers.Tokenizer) -> list[str]:
    """Returns the tokens that a tokenizer never splits; an empty list if it does not say."""
    return list(getattr(tokenizer, "unsplittable_tokens", None) or [])


def special_tokens_of(
    tokenizer: keras_hub.tokenizers.Tokenizer,
    adds_start: bool | None = None,
    ends: Iterable[int] = (),
    chat_template: str | None = None,
    written: Iterable[str] = (),
) -> SpecialTokens:
    """Returns the special tokens of a tokenizer.

    If nothing is known about its start token, it is used if it differs from the end token, as in Gemma, Llama and
    Mistral, and for OPT.

    Args:
      tokenizer: A KerasHub tokenizer with an end token.
      adds_start: True if the preprocessor of the model puts the start token before prompts. None: as
        `keep_special_tokens` has kept, or unknown.
      ends: More tokens that end a response.
      chat_template: Chat template of the model.
      written: Tokens that are text.

    Raises:
      UsageError: If the tokenizer has no end token.
    """
    kept = getattr(tokenizer, ATTRIBUTE, None)
    if isinstance(kept, SpecialTokens) and adds_start is None:
        return kept
    vocabulary, end = vocabulary_of(tokenizer), getattr(tokenizer, "end_token", END)
    if end not in vocabulary:
        raise UsageError(
            f"{type(tokenizer).__name__} has no end token ({end!r} is not in its vocabulary); a response ends with "
            "the end token: give the tokenizer of a CausalLM, whose attribute end_token names it"
        )
    found = [int(tokenizer.token_to_id(end))]
    second = getattr(tokenizer, "end_token2_id", None)
    if second is not None:
        found.append(int(second))
    start = getattr(tokenizer, "start_token_id", None)
    if adds_start is None:
        adds_start = start not in found or isinstance(tokenizer, keras_hub.models.OPTTokenizer)
    used = None if start is None or not adds_start else int(start)
    return SpecialTokens(used, tuple(dict.fromkeys([*found, *map(int, ends)])), chat_template, tuple(written))


def keep_special_tokens(
    tokenizer: keras_hub.tokenizers.Tokenizer,
    adds_start: bool | None,
    ends: Iterable[int] = (),
    chat_template: str | None = None,
    written: Iterable[str] = (),
) -> None:
    """Keeps what the folder of a model says about special tokens, with its tokenizer.

    Args:
      tokenizer: Tokenizer of the model, which was loaded from the folder.
      adds_start: As for `special_tokens_of`.
      ends: As for `special_tokens_of`.
      chat_template: As for `special_tokens_of`.
      written: As for `special_tokens_of`.

    Raises:
      UsageError: If the tokenizer has no end token.
    """
    setattr(tokenizer, ATTRIBUTE, special_tokens_of(tokenizer, adds_start, ends, chat_template, written))
