"""Evaluation of a policy and its reference policy, and the quality of the included language model."""

import os

import numpy as np
import pytest

from tfppo.text.config import TextConfig
from tfppo.text.data.codec import PromptCodec
from tfppo.text.data.corpus import DOMAINS, sentences
from tfppo.text.data.likelihood import nats_per_character
from tfppo.text.evaluate import ROWS, Responder, compare, most_likely_domains
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
