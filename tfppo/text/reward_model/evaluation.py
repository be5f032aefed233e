"""Evaluates scores: accuracy of pairs with an interval, calibration, and the influence of length. NumPy only."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfppo.text.reward_model.examples import pairs_of

BINS = 10
BLOCK = 1000  # rated texts that are compared with each other
Z = 1.959964  # two-sided quantile of 95 % of the normal distribution


def evaluate_pairs(differences: np.ndarray, lengths: np.ndarray) -> dict[str, Any]:
    """Evaluates the scores of pairs.

    Args:
      differences: Score of the better text minus that of the other one, float [P], P at least 1.
      lengths: Number of words of the better text minus that of the other one, int [P].

    Returns:
      The number of `pairs`, `pair_accuracy`, `longer_wins`, which is the accuracy of the rule that the longer text is
      better (equal lengths count one half), `calibration_error` and `calibration`, see `calibration`.
    """
    bins = calibration(differences)
    error = sum(one["pairs"] * abs(one["accuracy"] - one["confidence"]) for one in bins) / len(differences)
    return {
        "pairs": len(differences),
        "pair_accuracy": float((differences > 0).mean()),
        "longer_wins": float((np.sign(lengths) / 2 + 0.5).mean()),
        "calibration_error": error,
        "calibration": bins,
    }


def calibration(differences: np.ndarray) -> list[dict[str, Any]]:
    """Compares the confidence of a reward model with its accuracy (Guo et al. 2017).

    The model prefers the text with the higher score, with the confidence `sigmoid(|r_a - r_b|)`. The bins have equal
    widths between 0.5 and 1. The expected calibration error is the mean over all pairs of the difference between the
    accuracy and the mean confidence of their bin.

    Args:
      differences: Score of the better text minus that of the other one, float [P].

    Returns:
      For each of ten bins its lower edge `above`, the number of `pairs`, their mean `confidence` and their `accuracy`.
      Bins without pairs are left out.
    """
    confidences = 1 / (1 + np.exp(-np.abs(differences.astype(np.float64))))
    places = np.minimum(((confidences - 0.5) * 2 * BINS).astype(int), BINS - 1)
    return [
        {
            "above": 0.5 + place / (2 * BINS),
            "pairs": int(inside.sum()),
            "confidence": float(confidences[inside].mean()),
            "accuracy": float((differences[inside] > 0).mean()),
        }
        for place in range(BINS)
        if (inside := places == place).any()
    ]


def wilson_interval(accuracy: float, count: int) -> list[float]:
    """Computes the 95 % interval of a share of independent trials (Wilson 1927).

    Args:
      accuracy: The share.
      count: Number of trials, at least 1.

    Returns:
      The lower and the upper end.
    """
    scale = 1 + Z**2 / count
    center = (accuracy + Z**2 / (2 * count)) / scale
    half = Z / scale * math.sqrt(accuracy * (1 - accuracy) / count + (Z / (2 * count)) ** 2)
    return [max(0.0, center - half), min(1.0, center + half)]


def jackknife_interval(hits: np.ndarray, counts: np.ndarray) -> list[float] | None:
    """Computes the 95 % interval of the accuracy of pairs that share texts (jackknife, Efron and Stein 1981).

    Each text is left out once, with all its pairs.

    Args:
      hits: Number of right pairs of each text, [N]. Each pair counts for both of its texts.
      counts: Number of pairs of each text, [N].

    Returns:
      The lower and the upper end; None if there are too few texts.
    """
    total_hits, total = hits.sum() / 2, counts.sum() / 2
    rest = total - counts
    if len(counts) < 3 or (rest <= 0).any():
        return None
    without = (total_hits - hits) / rest
    half = Z * math.sqrt((len(counts) - 1) * np.mean((without - without.mean()) ** 2))
    accuracy = total_hits / total
    return [max(0.0, accuracy - half), min(1.0, accuracy + half)]


def evaluate_comparisons(scores: np.ndarray, words: np.ndarray) -> dict[str, Any]:
    """Evaluates the scores of comparisons.

    Args:
      scores: Scores of the chosen and of the rejected responses, float [N, 2].
      words: Numbers of words of the responses, int [N, 2].

    Returns:
      The numbers of `evaluate_pairs`, `interval`, which is the 95 % interval of `pair_accuracy` as if all pairs were
      independent, and `length`, the correlation of the scores with the numbers of words.
    """
    found = evaluate_pairs(scores[:, 0] - scores[:, 1], words[:, 0] - words[:, 1])
    interval = wilson_interval(found["pair_accuracy"], len(scores))
    return {**found, "interval": interval, "length": correlation(scores.ravel(), words.ravel())}


def evaluate_ratings(
    scores: np.ndarray, ratings: np.ndarray, words: np.ndarray, difference: float, neutral: float | None
) -> dict[str, Any]:
    """Evaluates the scores of rated texts.

    Pairs are all pairs of texts whose ratings differ enough; of more than 1000 texts, those within random groups of
    1000.

    Args:
      scores: float [N].
      ratings: float [N].
      words: Numbers of words, int [N].
      difference: Smallest difference of the ratings of a pair, exclusive.
      neutral: Rating of a text with the score 0. None: there is none.

    Returns:
      The numbers of `evaluate_pairs`, `interval`, `length` and the `correlation` of scores and ratings. With a neutral
      rating also `accuracy`, the share of texts with a score of the right sign, without those of the neutral rating.
    """
    numbers = np.random.default_rng(0).permutation(len(scores)) if len(scores) > BLOCK else np.arange(len(scores))
    blocks = np.split(numbers, range(BLOCK, len(scores), BLOCK))
    pairs = np.concatenate([block[pairs_of(ratings[block], difference)] for block in blocks])  # [P, 2]
    found: dict[str, Any] = {"texts": len(scores)}
    if len(pairs):
        differences = scores[pairs[:, 0]] - scores[pairs[:, 1]]
        hits, counts = (
            np.bincount(pairs.ravel(), np.repeat(weights, 2), len(scores))
            for weights in ((differences > 0).astype(float), np.ones(len(pairs)))
        )
        found |= evaluate_pairs(differences, words[pairs[:, 0]] - words[pairs[:, 1]])
        found["interval"] = jackknife_interval(hits, counts)
    if neutral is not None:
        found["accuracy"] = sign_accuracy(scores, ratings - neutral)
    return found | {"length": correlation(scores, words), "correlation": correlation(scores, ratings)}


def sign_accuracy(scores: np.ndarray, ratings: np.ndarray) -> float:
    """Computes the share of texts with a score of the same sign as their rating.

    Texts with a rating of exactly 0 are left out.

    Args:
      scores: float [N].
      ratings: float [N].
    """
    counts = ratings != 0
    return float(np.mean((scores > 0)[counts] == (ratings > 0)[counts])) if counts.any() else math.nan


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Computes Pearson's correlation; NaN if all values of a series are equal."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return math.nan
    return float(np.corrcoef(one, other)[0, 1])


def length_line(scores: np.ndarray, words: Sequence[int] | np.ndarray) -> tuple[float, float]:
    """Fits a line over the number of words to scores by least squares.

    Args:
      scores: float [N].
      words: Numbers of words, int [N].

    Returns:
      The slope, 0 if all texts have the same number of words, and the mean number of words.
    """
    words = np.asarray(words, np.float64)
    slope = float(np.polyfit(words, scores, 1)[0]) if np.ptp(words) else 0.0
    return slope, float(words.mean())
