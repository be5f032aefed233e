"""Scores and text metrics of responses, from tokens."""

import numpy as np
import pytest

from tfppo.text.data.codec import PromptCodec
from tfppo.text.data.metrics import distinct_2, mean_words
from tfppo.text.presets.folder import load_preset
from tfppo.text.rollouts.scoring import TextScorer

PROMPTS = ["This film", "The cast of this", "A plot"]
RESPONSES = [" is good.", " is good. It is good", " that thins and thickens, and thins"]


@pytest.fixture(scope="module")
def codec(preset):
    return PromptCodec(load_preset(preset)[1], "movie")


@pytest.fixture
def arrays(codec):
    """Indices of prompts and responses as in a rollout, with end tokens, and with other tokens as padding."""
    rows = [[*map(int, ids), codec.end] for ids in codec.tokenizer(RESPONSES)]
    mask = np.arange(max(map(len, rows)) + 2) < np.array([len(row) for row in rows])[:, None]
    responses = np.full(mask.shape, 300, np.int32)
    responses[mask] = np.concatenate(rows)
    return np.array([2, 0, 1], np.int32), responses, mask


class Reward:
    """Records its arguments, and scores a response by its number of characters."""

    def __init__(self):
        self.asked = []

    def __call__(self, prompts, responses):
        self.asked.append((prompts, responses))
        return [len(response) for response in responses]


@pytest.mark.parametrize("rows", [[0, 1, 2], [1, 2], [0]])
def test_a_share_is_scored_and_all_responses_are_measured(codec, arrays, rows):
    reward = Reward()
    raw, scores, words, distinct = TextScorer(codec, reward, PROMPTS)(*arrays, np.array(rows))
    assert reward.asked == [([PROMPTS[arrays[0][row]] for row in rows], [RESPONSES[row] for row in rows])]
    assert raw.dtype == scores.dtype == np.float32
    assert raw.tolist() == scores.tolist() == [len(RESPONSES[row]) for row in rows]
    assert words.dtype == distinct.dtype == np.float64 and words.shape == distinct.shape == ()
    assert words == mean_words(RESPONSES) == 13 / 3 and distinct == distinct_2(RESPONSES) == 0.8


def test_each_response_is_decoded_once(codec, arrays, monkeypatch):
    decoded = []
    detokenize = codec.tokenizer.detokenize
    monkeypatch.setattr(codec.tokenizer, "detokenize", lambda rows: decoded.extend(rows) or detokenize(rows))
    TextScorer(codec, Reward(), PROMPTS)(*arrays, np.arange(3))
    assert len(decoded) == len(RESPONSES)


def test_prompts_are_given_as_they_are_with_special_tokens(codec, arrays):
    prompts = ["<|movie|> a", "  b ", "\ufffd"]
    reward = Reward()
    TextScorer(codec, reward, prompts)(*arrays, np.arange(3))
    assert reward.asked[0][0] == [prompts[2], prompts[0], prompts[1]]


def test_scores_are_scaled_and_clipped(codec, arrays):
    scorer = TextScorer(codec, Reward(), PROMPTS, clip=1.2)
    lengths = np.array([len(response) for response in RESPONSES], np.float32)
    scorer.fit_scale(lengths)
    raw, scores, *_ = scorer(*arrays, np.arange(3))
    np.testing.assert_array_equal(raw, lengths)
    expected = np.clip((lengths - lengths.mean()) / lengths.std(), -1.2, 1.2)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    assert scores.max() == np.float32(1.2) and [float(x.numpy()) for x in scorer.scale] == pytest.approx(
        [lengths.mean(), lengths.std()]
    )


def test_a_score_that_is_not_finite_is_left_to_the_guard(codec, arrays):
    given = [1.0, float("nan"), -float("inf")]
    scorer = TextScorer(codec, lambda prompts, responses: given, PROMPTS, clip=10.0)
    raw, scores, *_ = scorer(*arrays, np.arange(3))
    np.testing.assert_array_equal(raw, np.float32(given))
    np.testing.assert_array_equal(scores, np.float32(given))  # the clip must not hide them
