"""Evaluation of a policy and its reference policy, and the quality of the included language model."""

import math
import os
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from tfppo.ops.random import fold_in
from tfppo.text import evaluate
from tfppo.text.config import TextConfig
from tfppo.text.data.codec import PromptCodec
from tfppo.text.data.corpus import DOMAINS, sentences
from tfppo.text.data.likelihood import nats_per_character
from tfppo.text.evaluate import ROWS, Responder, compare, describe, most_likely_domains
from tfppo.text.models.reference import as_language_model, copy_of
from tfppo.text.presets.folder import default_preset, load_preset
from tfppo.text.rollouts.sampling import Samples, gumbel_noise, sample
from tfppo.text.tasks import get_task

TEXT = TextConfig(response_length=6)


@pytest.fixture(scope="module")
def tiny(preset):
    model, tokenizer = load_preset(preset)
    return as_language_model(model), PromptCodec(tokenizer, "movie")


@pytest.fixture(scope="module")
def shipped():
    model, tokenizer = load_preset(default_preset())
    return as_language_model(model), PromptCodec(tokenizer, "movie")


@pytest.fixture(scope="module")
def held_out():
    return get_task("length").prompts("test")


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(1, [1]), (4, [4]), (50, [50]), (51, [26] * 2), (100, [50] * 2), (120, [40] * 3), (200, [50] * 4)],
)
def test_an_evaluation_costs_what_its_prompts_need(count, sizes, tiny, held_out, monkeypatch):
    """Pieces have one size, of at most 50 rows; the last one is filled up."""
    seen = []

    def sample(model, ids, lengths, response_length, noise, **settings):
        seen.append((ids.shape[0], noise(tf.constant(1)).shape[0]))
        zeros = tf.zeros([ids.shape[0], response_length])
        return Samples(ids, tf.cast(zeros, tf.int32), zeros, zeros == 0)

    monkeypatch.setattr(evaluate, "sample", sample)
    model, codec = tiny
    responses = Responder(model, codec, TEXT, mode="eager").respond(codec.encode(held_out[:count]), 3)
    assert seen == [(size, size) for size in sizes]
    assert len(responses.texts) == len(responses.responses) == count


def test_the_pieces_of_an_evaluation_have_one_program_and_seeds_of_their_own(tiny, held_out):
    model, codec = tiny
    responder = Responder(model, codec, TEXT)
    ids, lengths = codec.encode(held_out[:100])
    answers = responder.respond((ids, lengths), 3)
    assert answers.texts == codec.decode_masked(answers.responses, answers.mask)
    second = slice(50, 100)
    noise = gumbel_noise(fold_in(tf.constant([3, 0xE7A1]), 1), 50, model.vocabulary_size)
    stop = codec.stop_condition(TEXT)
    alone = tf.function(lambda: sample(model, ids[second], lengths[second], 6, noise, stop_condition=stop))()
    np.testing.assert_array_equal(answers.responses[second], alone.responses)
    totals = responder.total_log_probs(answers)
    assert totals.shape == (100,) and (totals < 0).all()
    assert [f.experimental_get_tracing_count() for f in (responder._draw, responder._log_probs)] == [1, 1]


def test_a_prompt_is_answered_the_same_whoever_stands_behind_it(tiny, held_out):
    model, codec = tiny
    responder = Responder(model, codec, TEXT)
    prompts = codec.encode(held_out[: ROWS + 7])  # two pieces of 29
    first = responder.respond(tuple(x[:ROWS] for x in prompts), 3)
    totals = responder.total_log_probs(first)
    for count in (1, 4, ROWS + 7):
        some = responder.respond(tuple(x[:count] for x in prompts), 3)
        assert some.responses.shape == (count, 6) and len(some.prompt_lengths) == len(some.texts) == count
        shared = min(count, 29)
        np.testing.assert_array_equal(some.responses[:shared], first.responses[:shared])
        np.testing.assert_allclose(responder.total_log_probs(some)[:shared], totals[:shared], atol=1e-4)


def test_a_response_may_be_longer_or_shorter_than_in_training(tiny, held_out):
    model, codec = tiny
    prompts, text = codec.encode(held_out[:3]), TextConfig(response_length=6, stop_token=".", stop_after=4)
    six = Responder(model, codec, text).respond(prompts, 3)
    for length in (2, 9):
        given = Responder(model, codec, text, response_length=length).respond(prompts, 3)
        assert given.responses.shape == (3, length)
        np.testing.assert_array_equal(given.responses[:, :2], six.responses[:, :2])


def test_a_model_beside_itself_gains_nothing_and_one_with_other_weights_has_a_kl(tiny):
    model, codec = tiny
    task, prompts = get_task("length"), get_task("length").prompts("test")[:60]
    other = copy_of(model)
    for weight in other.trainable_variables:
        weight.assign(weight + 0.2 * np.random.default_rng(0).normal(size=weight.shape).astype(np.float32))
    parts = {"reference": model, "codec": codec, "task": task, "reward": task.make_reward(), "text": TEXT}
    same, texts = compare(prompts, 1, policy=copy_of(model), **parts)
    assert same["kl"] == pytest.approx(0, abs=1e-4) and same["gain"] == 0 and texts["policy"] == texts["reference"]
    done = []
    moved, _ = compare(prompts, 1, policy=other, **parts, progress=done.append)
    assert moved["kl"] > 0.05 and done == [1, 2]
    assert moved["perplexity"]["policy"] != moved["perplexity"]["reference"]


def test_the_perplexity_is_that_of_temperature_1_and_the_kl_that_of_the_run(tiny):
    model, codec = tiny
    task, prompts = get_task("length"), get_task("length").prompts("test")[:20]
    reference, policy = copy_of(model), copy_of(model)
    for weight in reference.trainable_variables:
        weight.assign(4.0 * weight)
    text = TextConfig(response_length=6, temperature=0.5)
    parts = {"reference": reference, "codec": codec, "task": task, "reward": task.make_reward(), "text": text}
    result, _ = compare(prompts, 1, policy=policy, **parts)
    judge, policy = Responder(reference, codec, text), Responder(policy, codec, text)
    given = policy.respond(codec.encode(prompts), 1 + 1_000_003)
    expected = math.exp(-judge.total_log_probs(given, 1.0).sum() / given.mask.sum())
    assert result["perplexity"]["policy"] == pytest.approx(expected, rel=1e-5)
    tempered = math.exp(-judge.total_log_probs(given, 0.5).sum() / given.mask.sum())
    assert result["perplexity"]["policy"] != pytest.approx(tempered, rel=0.1)
    log_ratio = policy.total_log_probs(given, 0.5) - judge.total_log_probs(given, 0.5)
    assert result["kl"] == pytest.approx(log_ratio.mean(), rel=1e-4)


def test_a_perplexity_that_no_float_can_hold_is_infinite(tiny, monkeypatch):
    model, codec = tiny
    task, prompts = get_task("length"), get_task("length").prompts("test")[:2]
    monkeypatch.setattr(Responder, "total_log_probs", lambda self, given, temperature=1.0: np.float32([-1e5, -2e5]))
    parts = {"reference": model, "codec": codec, "task": task, "reward": task.make_reward(), "text": TEXT}
    result, _ = compare(prompts, 1, policy=model, **parts)
    assert result["perplexity"] == {"reference": math.inf, "policy": math.inf} and result["kl"] == 0.0
    assert "inf" in describe(result | {"weights": "a"})


@pytest.mark.fault(
    "The measure of a task fails in the evaluation at the end",
    "The other numbers are written. A line names what is missing.",
)
def test_an_evaluation_is_whole_whatever_the_measure_does(tiny):
    model, codec = tiny
    prompts = get_task("length").prompts("test")[:2]

    def exits(responses, prompts):
        assert prompts == get_task("length").prompts("test")[:2]
        raise SystemExit(3)

    for measure, words in [
        (exits, "measure of task length raised SystemExit: 3: fix the task"),
        (lambda prompts, responses: None, "measure of task length returned None (NoneType) for 2 responses"),
    ]:
        task = replace(get_task("length"), measure=measure)
        parts = {"reference": model, "codec": codec, "task": task, "reward": task.make_reward(), "text": TEXT}
        result, _ = compare(prompts, 1, policy=model, **parts)
        assert result["within_one_word"] == {"reference": None, "policy": None} and result["kl"] == 0.0
        assert len(result["failed"]) == 1 and result["failed"][0].startswith(words)
        assert f"not computed: {words}" in describe(result | {"weights": "a"})


def test_scores_that_are_not_finite_are_left_out_of_an_evaluation(tiny):
    model, codec = tiny
    task, prompts = get_task("length"), get_task("length").prompts("test")[:3]
    parts = {"reference": model, "codec": codec, "task": task, "text": TEXT}
    result, _ = compare(prompts, 1, policy=model, reward=lambda p, r: [1.0, math.nan, 3.0], **parts)
    assert result["score"]["policy"] == {"mean": 2.0, "std": 1.0} and result["gain"] == 0.0
    assert result["failed"] == ["1 of 3 scores are not finite and are left out"]
    result, _ = compare(prompts, 1, policy=model, reward=lambda p, r: [math.inf] * 3, **parts)
    assert result["score"]["policy"] == {"mean": None, "std": None} and result["gain"] is None
    assert "gain unknown" in describe(result | {"weights": "a"})


@pytest.mark.parametrize("count", [1, 8, 200, 12345])
def test_the_table_of_an_evaluation_is_aligned(count):
    numbers = {"prompts": count, "score": {"reference": {"mean": -1.5}, "policy": {"mean": 2}}, "gain": 1, "kl": 2}
    head, row, *_ = evaluate.describe(numbers | {"weights": "00ff"}).splitlines()
    assert head.startswith(f"{count} held-out prompt") and ("prompts" in head) == (count > 1)
    assert len(head) == len(row) and head.index("reference") + len("reference") == row.index("-1.500") + len("-1.500")


@pytest.mark.slow
def test_the_shipped_language_model_knows_where_people_write(shipped):
    model, codec = shipped
    for domain in DOMAINS:
        texts = [sentence.text for sentence in sentences("test", domain)[:60] if len(sentence.text.split()) >= 8]
        guesses = most_likely_domains(Responder(model, codec, TEXT), texts)
        assert guesses.count(domain) / len(guesses) >= 0.85, domain


@pytest.mark.slow
def test_the_shipped_language_model_is_small_and_as_good_as_is_said(shipped):
    size = sum(os.path.getsize(path) for path in default_preset().rglob("*") if path.is_file())
    assert size <= 8_000_000
    model, codec = shipped
    assert nats_per_character(model.model, codec.tokenizer, sentences("test", "movie"))[0] <= 1.22
