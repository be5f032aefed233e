"""The line about the first scores, which the normalization is fitted on."""

import math

import numpy as np
import pytest

from tfppo.text.rewards.first_scores import describe_first_scores


def spread(count, *others):
    return np.float32([*np.linspace(-1.0, 3.0, count), *others])


@pytest.mark.fault(
    "The first scores of a run are rare, equal, almost equal or not finite",
    "One line says so before the first iteration. Scores that are not finite are ignored for the normalization.",
)
@pytest.mark.parametrize(
    ("scores", "line"),
    [
        (spread(256), "scores of 256 responses before training: mean 1, standard deviation 1.159, from -1 to 3"),
        (
            spread(254, math.nan, math.inf),
            "scores of 256 responses before training: mean 1, standard deviation 1.159, from -1 to 3; 2 of 256 are not "
            "finite and are ignored",
        ),
        (
            np.full(64, 0.1, np.float32),
            "scores of 64 responses before training: mean 0.1, standard deviation 0, from 0.1 to 0.1; all equal, so "
            "they are not scaled",
        ),
        (
            np.float32([1.0, 1.001] * 8),
            "scores of 16 responses before training: mean 1.001, standard deviation 0.0005, from 1 to 1.001; almost "
            "equal, so they are scaled by the floor 0.01001",
        ),
        (
            np.float32([0.0] * 255 + [1.0]),
            "scores of 256 responses before training: mean 0.003906, standard deviation 0.06238, from 0 to 1; only 1 "
            "of 256 differs from the rest",
        ),
        (
            np.float32([1.0] * 95 + [0.0] * 5),
            "scores of 100 responses before training: mean 0.95, standard deviation 0.2179, from 0 to 1; only 5 of 100 "
            "differ from the rest",
        ),
        (
            np.float32([1.0] * 94 + [0.0] * 6),
            "scores of 100 responses before training: mean 0.94, standard deviation 0.2375, from 0 to 1",
        ),
    ],
    ids=["spread", "not finite", "equal", "almost equal", "one hit", "five misses", "six misses"],
)
@pytest.mark.filterwarnings("error")
def test_the_line_says_what_the_scores_are(scores, line):
    assert describe_first_scores(scores) == line
