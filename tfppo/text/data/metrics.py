"""Metrics of texts that need no model: number of words, diversity, and sentiment by a lexicon.

A word is a part between white space with at least one letter or digit. Other characters at its ends are removed.
"""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer


def words(text: str) -> list[str]:
    """Splits a text into words, and converts them to lower case (casefold).

    For example, "It's GOOD -- (really)." has the words "it's", "good" and "really".

    Args:
      text: Any text.

    Returns:
      The words in their order.
    """
    return [word for piece in text.split() if (word := _bare(piece.casefold()))]


def word_count(text: str) -> int:
    """Returns the number of words in a text."""
    return len(words(text))


def mean_words(texts: Sequence[str]) -> float:
    """Returns the mean number of words in a text.

    Args:
      texts: At least one text.

    Raises:
      statistics.StatisticsError: If there are no texts.
    """
    return fmean(map(word_count, texts))


def distinct_2(texts: Sequence[str]) -> float:
    """Computes distinct-2, the number of distinct word bigrams over the number of all word bigrams.

    A low value means that the texts repeat themselves or each other; 1 means that no bigram occurs twice.

    Source: Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models". They divide by
    the number of words; today it is common to divide by the number of bigrams.

    Args:
      texts: Texts that are counted together; no bigram extends over two texts.

    Returns:
      A number in (0, 1], or 0 if there is no bigram.
    """
    bigrams = [bigram for text in texts for bigram in pairwise(words(text))]
    return len(set(bigrams)) / len(bigrams) if bigrams else 0.0


def vader_compound(texts: Sequence[str]) -> np.ndarray:
    """Computes the compound sentiment of VADER (Hutto and Gilbert 2014).

    Args:
      texts: B texts.

    Returns:
      A float64 array [B] from -1 (negative) to 1 (positive).
    """
    analyzer = _vader()
    return np.array([analyzer.polarity_scores(text)["compound"] for text in texts], np.float64)  # [B]


@cache
def _vader() -> "SentimentIntensityAnalyzer":
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer  # here, so that other uses do not load it

    return SentimentIntensityAnalyzer()


def _bare(piece: str) -> str:
    """Returns the part from the first to the last letter or digit."""
    places = [place for place, character in enumerate(piece) if character.isalnum()]
    return piece[places[0] : places[-1] + 1] if places else ""
