"""Metrics of texts, against counts by hand."""

from statistics import StatisticsError

import numpy as np
import pytest

from tfppo.text.data.metrics import distinct_2, mean_words, vader_compound, word_count, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \t\n", []),
        ("-- ... ( ) !?", []),
        ("It's GOOD -- (really).", ["it's", "good", "really"]),
        ("a\u00a0b\u2003c", ["a", "b", "c"]),  # Unicode's spaces are spaces
        ("co-writer/director", ["co-writer/director"]),
        ("\u201cÉlan,\u201d 3D!", ["élan", "3d"]),
        ("STRASSE Straße", ["strasse", "strasse"]),  # casefolded, not only lowered
        ("half_ _x_ '90s", ["half", "x", "90s"]),
    ],
)
def test_words_are_what_stands_between_spaces_without_the_punctuation_at_its_ends(text, expected):
    assert words(text) == expected
    assert word_count(text) == len(expected)


def test_mean_words_is_a_mean_over_texts():
    assert mean_words(["one", "one two", ""]) == 1.0
    assert mean_words(["a b c", "..."]) == 1.5
    with pytest.raises(StatisticsError):
        mean_words([])


def counted(texts):
    """Computes distinct-2 slowly, for texts without capitals and punctuation."""
    seen, number = [], 0
    for text in texts:
        parts = text.split(" ")
        for i in range(1, len(parts)):
            number += 1
            if (parts[i - 1], parts[i]) not in seen:
                seen.append((parts[i - 1], parts[i]))
    return len(seen) / number


def test_distinct_2_by_hand():
    assert distinct_2(["a b c"]) == 1.0
    assert distinct_2(["a a a a"]) == 1 / 3
    assert distinct_2(["a b", "a b"]) == 1 / 2  # over the texts together
    assert distinct_2(["a b", "b a"]) == 1.0  # the order counts
    assert distinct_2(["a b", "c d"]) == 1.0  # no bigram extends over two texts:
    assert distinct_2(["a", "a", "a"]) == 0.0
    assert distinct_2(["Good film.", "(good) -- FILM"]) == 1 / 2
    assert distinct_2([]) == distinct_2([""]) == distinct_2(["... --"]) == 0.0


def test_distinct_2_is_the_slow_count():
    rng = np.random.default_rng(3)
    for size in (2, 5, 50):
        texts = [" ".join(f"w{i}" for i in rng.integers(0, size, length)) for length in rng.integers(2, 20, 10)]
        assert distinct_2(texts) == pytest.approx(counted(texts))


def test_vader_knows_good_from_bad():
    scores = vader_compound(["A wonderful, charming film.", "A dreadful, boring mess.", "The film has an end.", ""])
    assert scores.shape == (4,) and scores.dtype == np.float64
    assert 0.5 < scores[0] <= 1 and -1 <= scores[1] < -0.5
    assert scores[2] == scores[3] == 0.0
    assert vader_compound([]).shape == (0,)


def test_vader_gives_its_published_example():
    # README of vaderSentiment: "VADER is smart, handsome, and funny!" has compound 0.8439
    assert vader_compound(["VADER is smart, handsome, and funny!"]) == pytest.approx([0.8439])
