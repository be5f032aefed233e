"""Evaluation of a policy and its reference policy, and the quality of the included language model."""

import math
import os
from dataclasses import replace

import numpy as np
import pytest
from support.refusal import refusal

from tfppo.text.config import TextConfig
from tfppo.text.data.codec import PromptCodec
from tfppo.text.data.corpus import DOMAINS, sentences
from tfppo.text.data.likelihood import nats_per_character
from tfppo.text.evaluate import ROWS, Responder, compare, describe, most_likely_domains
from tfppo.text.models.presets import default_preset, load_preset
from tfppo.text.models.reference import as_language_model, copy_of
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


def test_a_prompt_is_answered_the_same_whoever_stands_behind_it(tiny):
    """Prompts are processed in pieces of one size; the last piece is filled up."""
    model, codec = tiny
    responder = Responder(model, codec, TEXT)
    prompts = codec.encode(get_task("length").prompts("test")[: ROWS + 7])
    answers = responder.respond(prompts, 3)
    assert answers.responses.shape == (ROWS + 7, 6) and len(answers.prompt_lengths) == ROWS + 7
    assert answers.texts == codec.decode_masked(answers.responses, answers.mask)
    first = responder.respond(tuple(x[:ROWS] for x in prompts), 3)
    np.testing.assert_array_equal(answers.responses[:ROWS], first.responses)
    totals = responder.total_log_probs(answers)
    assert totals.shape == (ROWS + 7,) and (totals < 0).all()
    np.testing.assert_allclose(responder.total_log_probs(first), totals[:ROWS], atol=1e-4)


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


@pytest.mark.fault("The measure of a task raises an exception or returns no number", "A one-line error names the task.")
def test_a_measure_that_fails_is_refused_in_one_line(tiny):
    model, codec = tiny
    prompts = get_task("length").prompts("test")[:2]

    def exits(responses, prompts):
        assert prompts == get_task("length").prompts("test")[:2]
        raise SystemExit(3)

    for measure, words in [
        (exits, "measure of task length raised SystemExit: 3: fix it"),
        (lambda prompts, responses: None, "measure of task length returned None; it must return one number"),
    ]:
        task = replace(get_task("length"), measure=measure)
        parts = {"reference": model, "codec": codec, "task": task, "reward": task.make_reward(), "text": TEXT}
        assert refusal(lambda parts=parts: compare(prompts, 1, policy=model, **parts)).startswith(words)


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
