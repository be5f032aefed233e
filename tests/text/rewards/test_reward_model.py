"""The reward model: its loss, its scores, its files, and the included one."""

import json

import numpy as np
import pytest
import tensorflow as tf
from support.refusal import refusal

from tfppo.errors import UsageError
from tfppo.text.config import RewardModelConfig
from tfppo.text.data.corpus import sentences
from tfppo.text.data.metrics import word_count
from tfppo.text.presets.folder import load_preset
from tfppo.text.rewards.reward_model import (
    HEAD_FILE,
    RewardModel,
    accuracy,
    judge,
    pair_accuracy,
    pair_loss,
    reward_model_run,
    sentiment_reward,
)
from tfppo.training import run_folder

RATINGS, SCORES = [2.5, -0.2, 0.9, -3.0, 1.6], [0.3, 1.2, -0.7, 0.1, 2.0]


def slow_pair_loss(ratings, scores, difference):
    ratings, scores = [*ratings, 0.0], [*scores, 0.0]  # the added neutral sentence
    losses = [
        -np.log(1 / (1 + np.exp(-(scores[a] - scores[b]))))
        for a in range(len(ratings))
        for b in range(len(ratings))
        if ratings[a] - ratings[b] > difference
    ]
    return np.mean(losses) if losses else 0.0


@pytest.mark.parametrize("difference", [0.5, 1.0, 3.0, 9.0])
def test_the_pair_loss_equals_the_slow_one(difference):
    loss = pair_loss(tf.constant(RATINGS), tf.constant(SCORES)[:, None], difference)
    assert loss.numpy() == pytest.approx(slow_pair_loss(RATINGS, SCORES, difference), rel=1e-6)


def test_the_pair_loss_pulls_scores_into_the_order_of_the_ratings_around_zero():
    scores = tf.Variable(SCORES)
    for _ in range(300):
        with tf.GradientTape() as tape:
            loss = pair_loss(tf.constant(RATINGS), scores)
        scores.assign_sub(tape.gradient(loss, scores))
    assert np.argsort(scores.numpy())[-1] == 0 and np.argsort(scores.numpy())[0] == 3
    assert scores[0] > 0 > scores[3]


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


def test_a_run_learns_and_judges_a_reward_model(preset, tmp_path, monkeypatch):
    few = {split: sentences(split, "movie")[:60] for split in ("train", "validation", "test")}
    monkeypatch.setattr("tfppo.text.rewards.reward_model.sentences", lambda split, domain: few[split])
    folder = reward_model_run(RewardModelConfig(epochs=2, length=16), preset, None, tmp_path)
    assert folder == tmp_path / "reward-model-seed1"
    evaluation = json.loads((folder / run_folder.EVALUATION).read_text())
    assert set(evaluation) == {"seed", "sentences", "accuracy", "pair_accuracy", "length", "seconds"}
    assert evaluation["sentences"] == 60 and 0 <= evaluation["accuracy"] <= 1
    scores = RewardModel.load(folder / "reward-model").scores([sentence.text for sentence in few["test"]])
    assert evaluation["accuracy"] == accuracy(scores, np.array([sentence.rating for sentence in few["test"]]))


@pytest.mark.slow
@pytest.mark.fault("The training of a reward model diverges", "A one-line error names the learning rate.")
def test_a_reward_model_that_diverges_is_told(preset, tmp_path, monkeypatch, capsys):
    few = sentences("train", "movie")[:60]
    monkeypatch.setattr("tfppo.text.rewards.reward_model.sentences", lambda split, domain: few)
    for replaced in (False, True):  # a folder without a model does not block its name
        with pytest.raises(UsageError, match="diverged with learning_rate = 1e.38"):
            reward_model_run(RewardModelConfig(epochs=2, length=16, learning_rate=1e38), preset, "mine", tmp_path)
        assert ("mine is replaced" in capsys.readouterr().out) == replaced


def test_accuracies_are_one_for_scores_that_know_and_zero_for_contrary_ones():
    ratings = np.array([sentence.rating for sentence in sentences("test", "movie")[:50]])
    assert accuracy(ratings, ratings) == pair_accuracy(ratings, ratings) == 1
    assert accuracy(-ratings, ratings) == pair_accuracy(-ratings, ratings) == 0


def test_accuracies_count_neither_what_is_rated_0_nor_pairs_rated_alike():
    ratings = np.array([0.0, 2.0, 1.5, -1.0])
    assert accuracy(np.array([5.0, 1.0, -1.0, -1.0]), ratings) == 2 / 3
    assert (
        pair_accuracy(np.array([0.0, 3.0, -2.0, -1.0]), ratings) == 2 / 4
    )  # the pairs (1.5, 0) and (1.5, -1) are in the wrong order


@pytest.mark.slow
def test_the_shipped_reward_model_agrees_with_people():
    judged = judge(sentiment_reward())
    assert judged["sentences"] == 512
    assert judged["accuracy"] >= 0.75 and judged["pair_accuracy"] >= 0.78
    assert abs(judged["length"]) < 0.25
