"""What can be counted in texts without a model: words, variety, and the sentiment of a lexicon.

A word is a piece between white space that holds a letter or a digit; what is neither does not count at its ends.
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
    """The words of a text in their order, casefolded: "It's GOOD -- (really)." -> ["it's", "good", "really"]."""
    return [word for piece in text.split() if (word := _bare(piece.casefold()))]


def word_count(text: str) -> int:
    """How many words a text has."""
    return len(words(text))


def mean_words(texts: Sequence[str]) -> float:
    """Words a text, on average over the texts, of which there must be one (statistics.StatisticsError)."""
    return fmean(map(word_count, texts))


def distinct_2(texts: Sequence[str]) -> float:
    """Distinct bigrams over all bigrams of the texts together, in (0, 1]: low where they repeat each other.

    After Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models", who divide by the
    number of words; by the number of bigrams, as is now usual, 1 says that none occurs twice. A bigram lies within
    one text. Without any bigram: 0.
    """
    bigrams = [bigram for text in texts for bigram in pairwise(words(text))]
    return len(set(bigrams)) / len(bigrams) if bigrams else 0.0


def vader_compound(texts: Sequence[str]) -> np.ndarray:
    """VADER's compound sentiment of each text (Hutto and Gilbert 2014), from -1 (negative) to 1: [B] float64."""
    analyzer = _vader()
    return np.array([analyzer.polarity_scores(text)["compound"] for text in texts], np.float64)  # [B]


@cache
def _vader() -> "SentimentIntensityAnalyzer":
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer  # reads its lexicon: only where it is used

    return SentimentIntensityAnalyzer()


def _bare(piece: str) -> str:
    """The piece from its first to its last letter or digit."""
    places = [place for place, character in enumerate(piece) if character.isalnum()]
    return piece[places[0] : places[-1] + 1] if places else ""
