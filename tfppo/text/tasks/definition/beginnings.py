"""Prompts from the beginnings of movie sentences."""

import functools
import zlib
from collections.abc import Sequence

from tfppo.errors import UsageError
from tfppo.text.data.corpus import SPLITS, Split, sentences

MIN_WORDS = 8  # shorter sentences give no prompt
PROMPT_WORDS = (2, 3, 4, 5)


def movie_prompts(split: Split, words: Sequence[int] = PROMPT_WORDS) -> list[str]:
    """Makes prompts from the first words of the movie sentences of a split.

    A checksum of the sentence's id chooses the number of words, so that the prompts are the same on every machine.
    Sentences of fewer than 8 words are left out.

    Args:
      split: "train", "validation" or "test".
      words: Possible numbers of words.

    Returns:
      The prompts in the order of the corpus, without duplicates and without prompts of an earlier split.

    Raises:
      UsageError: If there is no such split.
    """
    if split not in SPLITS:
        raise UsageError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}")
    seen = {prompt for earlier in SPLITS[: SPLITS.index(split)] for prompt in _beginnings(earlier, tuple(words))}
    return [prompt for prompt in _beginnings(split, tuple(words)) if prompt not in seen]


@functools.cache
def _beginnings(split: Split, words: tuple[int, ...]) -> tuple[str, ...]:
    """Returns the first words of the sentences of a split, without duplicates."""
    found = {}
    for sentence in sentences(split, "movie"):
        pieces = sentence.text.split()
        count = words[zlib.crc32(sentence.id.encode()) % len(words)]
        if len(pieces) >= MIN_WORDS:
            found[" ".join(pieces[:count])] = True
    return tuple(found)
