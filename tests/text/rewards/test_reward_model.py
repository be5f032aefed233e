"""The reward model: its scores, its files, and the included one."""

import json

import numpy as np
import pytest
from support.refusal import refusal

from tfppo.errors import UsageError
from tfppo.text.data.corpus import sentences
from tfppo.text.data.metrics import word_count
from tfppo.text.presets.folder import load_preset
from tfppo.text.reward_model.evaluation import evaluate_ratings
from tfppo.text.rewards.reward_model import HEAD_FILE, RewardModel, sentiment_reward


@pytest.fixture(scope="module")
def tiny(preset):
    model, tokenizer = load_preset(preset)
    rng = np.random.default_rng(1)
    for weight in model.trainable_variables:
        weight.assign(weight + 0.3 * rng.normal(size=weight.shape).astype(np.float32))
    head = {"kernel": rng.normal(size=16).tolist(), "bias": 0.2, "words_slope": 0.1, "words_mean": 9.0}
    return RewardModel(model, tokenizer, head)


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    tiny.save(folder)
    return folder


def test_a_score_depends_on_its_text_alone(tiny):
    texts = [s.text for s in sentences("test", "movie")[:70]]
    together = tiny.scores(texts)
    assert np.std(together) > 0.1
    alone = np.concatenate([tiny.scores([text]) for text in texts[:3]])
    np.testing.assert_allclose(together[:3], alone, atol=1e-4)
    np.testing.assert_allclose(tiny.scores(texts[::-1])[::-1], together, atol=1e-4)
    np.testing.assert_allclose(tiny(["This", "A"], [" film", " bore"]), tiny.scores(["This film", "A bore"]), atol=1e-6)


def test_the_length_line_is_taken_off(tiny):
    plain = RewardModel(tiny.model, tiny.tokenizer, tiny.head | {"words_slope": 0.0})
    texts = ["Good.", "A good film with a good end."]
    expected = plain.scores(texts) - 0.1 * (np.array([word_count(text) for text in texts]) - 9.0)
    np.testing.assert_allclose(tiny.scores(texts), expected, atol=1e-5)


def test_a_reward_model_comes_back_from_its_folder(tiny, tmp_path):
    tiny.save(tmp_path / "model")
    again = RewardModel.load(tmp_path / "model")
    texts = [s.text for s in sentences("test", "movie")[:9]]
    np.testing.assert_allclose(again.scores(texts), tiny.scores(texts), atol=0.05)  # weights are kept in float16
    with pytest.raises(UsageError, match="nowhere is not the folder of a reward model"):
        RewardModel.load(tmp_path / "nowhere")


@pytest.mark.representatives(8)
@pytest.mark.parametrize(
    "head",
    [
        "",
        "{",
        "\xff",
        "[" * 100_000,
        "null",
        "[]",
        "{}",
        '"kernel"',
        {"kernel": None},
        {"kernel": 3.0},
        {"kernel": [0.5] * 15},
        {"kernel": [[0.5] * 16]},
        {"kernel": [0.5] * 15 + ["x"]},
        {"kernel": [0.5] * 15 + [float("nan")]},
        {"kernel": [1e39] * 16},
        {"bias": None},
        {"bias": "0.2"},
        {"bias": [0.2]},
        {"words_slope": float("inf")},
        {"words_mean": 10**400},
        {"reads": "books"},
        {"domain": "book"},
        {"max_length": 0},
        {"max_length": 2.5},
        {"system": 3},
    ],
    ids=lambda head: str(head)[:30],
)
def test_a_head_that_is_none_is_one_line(tiny, saved, head):
    path = saved / HEAD_FILE
    path.write_bytes((head if isinstance(head, str) else json.dumps(tiny.head | head)).encode("latin-1"))
    text = refusal(RewardModel.load, saved)
    assert str(saved) in text and HEAD_FILE in text and "tfppo reward-model" in text


@pytest.mark.parametrize("name", ["kernel", "bias", "words_slope", "words_mean"])
def test_a_head_that_lacks_something_is_one_line(tiny, saved, name):
    (saved / HEAD_FILE).write_text(json.dumps({key: value for key, value in tiny.head.items() if key != name}))
    assert f"{saved / HEAD_FILE} is damaged" in refusal(RewardModel.load, saved)


def test_responses_are_read_behind_their_prompts_and_texts_alone(tiny):
    head = tiny.head | {"reads": "responses", "domain": None, "max_length": 20}
    model = RewardModel(tiny.model, tiny.tokenizer, head)
    rows = model.encoder.responses(["This", "A " * 30], [" film", " bore"]).rows
    assert [len(row) for row in rows][1] == 20 and len(rows[0]) < 10
    together = model(["This", "A " * 30], [" film", " bore"])
    np.testing.assert_allclose(together[1], model(["A " * 30], [" bore"])[0], atol=1e-4)
    words = model.head["words_slope"] * (np.array([1, 1]) - model.head["words_mean"])  # those of the responses
    plain = RewardModel(tiny.model, tiny.tokenizer, head | {"words_slope": 0.0})
    np.testing.assert_allclose(together, plain(["This", "A " * 30], [" film", " bore"]) - words, atol=1e-5)
    assert model.checksum() != plain.checksum() != tiny.checksum()


@pytest.mark.slow
def test_the_shipped_reward_model_agrees_with_people():
    rated, model = sentences("test", "movie"), sentiment_reward()
    scores, ratings = model.scores([s.text for s in rated]), np.array([s.rating for s in rated])
    judged = evaluate_ratings(scores, ratings, np.array([word_count(s.text) for s in rated]), 1.0, 0.0)
    assert judged["texts"] == 512
    assert judged["accuracy"] >= 0.75 and judged["pair_accuracy"] >= 0.78
    assert abs(judged["length"]) < 0.25
