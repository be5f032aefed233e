"""The evaluation of reward models, against slow NumPy and cases that are known."""

import numpy as np
import pytest

from tfppo.text.data.corpus import sentences
from tfppo.text.reward_model.evaluation import (
    calibration,
    evaluate_comparisons,
    evaluate_pairs,
    evaluate_ratings,
    jackknife_interval,
    length_line,
    sign_accuracy,
    wilson_interval,
)

RANDOM = np.random.default_rng(3)


def test_calibrated_scores_have_a_small_error_and_overconfident_ones_a_large_one():
    differences = RANDOM.normal(size=20_000) * 1.5
    is_right = RANDOM.random(20_000) < 1 / (1 + np.exp(-np.abs(differences)))
    signed = np.abs(differences) * np.where(is_right, 1, -1)
    words = np.zeros(20_000, int)
    assert evaluate_pairs(signed, words)["calibration_error"] < 0.02
    assert evaluate_pairs(signed * 10, words)["calibration_error"] > 0.15


def test_the_bins_are_the_slow_ones():
    differences = RANDOM.normal(size=300) + 0.3
    bins = calibration(differences)
    assert sum(one["pairs"] for one in bins) == 300
    for one in bins:
        inside = [d for d in differences if one["above"] <= 1 / (1 + np.exp(-abs(d))) < one["above"] + 0.05 - 1e-12]
        assert one["pairs"] == len(inside)
        assert one["accuracy"] == pytest.approx(np.mean([d > 0 for d in inside]))
        assert one["confidence"] == pytest.approx(np.mean([1 / (1 + np.exp(-abs(d))) for d in inside]))
    assert calibration(np.array([50.0])) == [{"above": 0.95, "pairs": 1, "confidence": 1.0, "accuracy": 1.0}]


def test_the_interval_of_a_share_is_wilsons():
    assert wilson_interval(0.5, 100) == pytest.approx([0.4038, 0.5962], abs=1e-4)  # R: prop.test(50, 100, correct=F)
    assert wilson_interval(1.0, 10) == pytest.approx([0.7225, 1.0], abs=1e-4)


def test_the_interval_of_ratings_contains_the_accuracy_of_all_texts_in_about_95_percent_of_samples():
    ratings = RANDOM.normal(size=3000)
    scores, words = ratings + RANDOM.normal(size=3000), np.arange(3000)
    truth = evaluate_ratings(scores, ratings, words, 1.0, None)["pair_accuracy"]
    covered = []
    for _ in range(300):
        sample = RANDOM.choice(3000, 80, replace=False)
        low, high = evaluate_ratings(scores[sample], ratings[sample], words[sample], 1.0, None)["interval"]
        covered.append(low <= truth <= high)
    assert 0.9 <= np.mean(covered) <= 0.99
    assert jackknife_interval(np.ones(2), np.ones(2)) is None


def test_the_longer_text_wins_is_a_rule_of_its_own():
    found = evaluate_comparisons(np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]]), np.array([[5, 2], [4, 4], [1, 7]]))
    assert found["pairs"] == 3 and found["pair_accuracy"] == pytest.approx(2 / 3)
    assert found["longer_wins"] == pytest.approx((1 + 0.5 + 0) / 3)
    scores, words = [1.0, 0.0, 0.0, 2.0, 3.0, 1.0], [5, 2, 4, 4, 1, 7]
    assert found["length"] == pytest.approx(np.corrcoef(scores, words)[0, 1])


def test_ratings_are_compared_in_pairs_and_by_sign():
    ratings = np.array([sentence.rating for sentence in sentences("test", "movie")[:50]])
    words = np.arange(50)
    right, wrong = (evaluate_ratings(sign * ratings, ratings, words, 1.0, 0.0) for sign in (1, -1))
    assert right["accuracy"] == right["pair_accuracy"] == 1 and right["correlation"] == pytest.approx(1)
    assert wrong["accuracy"] == wrong["pair_accuracy"] == 0 and wrong["correlation"] == pytest.approx(-1)
    slow = sum(a - b > 1 for a in ratings for b in ratings)
    assert right["pairs"] == slow and right["texts"] == 50
    assert "accuracy" not in evaluate_ratings(ratings, ratings, words, 1.0, None)


def test_neither_a_rating_of_0_nor_pairs_rated_alike_count():
    ratings = np.array([0.0, 2.0, 1.5, -1.0])
    assert sign_accuracy(np.array([5.0, 1.0, -1.0, -1.0]), ratings) == 2 / 3
    found = evaluate_ratings(np.array([0.0, 3.0, -2.0, -1.0]), ratings, np.arange(4), 1.0, 0.0)
    assert found["pair_accuracy"] == 2 / 4  # the pairs (1.5, 0) and (1.5, -1) are in the wrong order
    assert "pairs" not in evaluate_ratings(np.arange(3.0), np.ones(3), np.arange(3), 1.0, None)


def test_many_texts_are_compared_within_groups():
    ratings = RANDOM.normal(size=2500)
    found = evaluate_ratings(ratings + RANDOM.normal(size=2500), ratings, np.arange(2500), 1.0, None)
    low, high = found["interval"]
    assert found["pairs"] < 2.5 * 1000**2 / 2 and 0.7 < low < found["pair_accuracy"] < high < 0.9


def test_the_line_over_words_is_the_least_squares_line():
    words = np.array([1, 2, 3, 4])
    assert length_line(2.0 * words + 5, words) == (pytest.approx(2.0), 2.5)
    assert length_line(np.arange(3.0), [4, 4, 4]) == (0.0, 4.0)
