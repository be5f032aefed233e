"""Validation: measures of fixed prompts, against a slow computation, and exactly repeated after a resume."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tfppo.saved_runs import resume
from tfppo.text import run
from tfppo.text.config import TextConfig
from tfppo.text.data.codec import PromptCodec
from tfppo.text.data.metrics import mean_words
from tfppo.text.data.prompts import as_prompts
from tfppo.text.defaults import make_text_config
from tfppo.text.evaluate import Responder
from tfppo.text.models.reference import as_language_model, copy_of
from tfppo.text.presets import load_preset
from tfppo.text.tasks import Task
from tfppo.text.validation import VALUES, Validation
from tfppo.training import run_folder

TEXT = TextConfig(response_length=6, temperature=0.7)
PROMPTS = as_prompts([{"prompt": f"The {word}", "n": len(word)} for word in ("film", "cast", "end", "plot")], "prompts")


def label_and_length(prompts, responses, n):
    return [count + len(response) for count, response in zip(n, responses, strict=True)]


def labels_only(prompts, responses, n):
    return float(np.mean(n))


def make(model, reference, codec, **parts):
    task = Task("mine", "mine", lambda split: PROMPTS, domain=None, **parts)
    latest = tf.Variable([math.nan] * VALUES, dtype=tf.float64)
    return Validation(
        PROMPTS,
        codec.encode(PROMPTS),
        policy=model,
        reference=reference,
        codec=codec,
        task=task,
        reward=label_and_length,
        text=TEXT,
        seed=3,
        latest=latest,
    )


def test_the_values_are_those_of_the_responses(preset):
    keras_model, tokenizer = load_preset(preset)
    policy, codec = as_language_model(keras_model), PromptCodec(tokenizer)
    reference = copy_of(policy)
    rng = np.random.default_rng(0)
    for weight in keras_model.trainable_weights:
        weight.assign_add(0.05 * rng.normal(size=weight.shape))
    validation = make(policy, reference, codec, measure=labels_only, metric="letters")
    assert all(map(math.isnan, validation.metrics.values()))
    validation.measure()
    given = Responder(policy, codec, TEXT).respond(codec.encode(PROMPTS), validation._seed)
    own, other = (Responder(who, codec, TEXT).total_log_probs(given, 0.7) for who in (policy, reference))
    scores = label_and_length(PROMPTS, given.texts, [4, 4, 3, 4])
    assert validation.metrics == {
        "validation/score_mean": pytest.approx(np.mean(scores)),
        "validation/kl": pytest.approx(np.mean(own - other)),
        "validation/response_length_mean": mean_words(given.texts),
        "validation/letters": 3.75,
    }
    assert abs(validation.metrics["validation/kl"]) > 1e-3  # an estimate from four responses, which may be negative


def test_without_a_metric_there_are_three_values(preset):
    keras_model, tokenizer = load_preset(preset)
    model = as_language_model(keras_model)
    validation = make(model, model, PromptCodec(tokenizer))
    validation.measure()
    assert len(validation.metrics) == 3 and validation.metrics["validation/kl"] == 0


@pytest.mark.slow
def test_values_are_repeated_between_validations_also_after_a_resume(preset, tmp_path, monkeypatch):
    settings = {"iterations": 6, "batch_size": 4, "minibatch_size": 4, "response_length": 4, "num_epochs": 1}
    settings |= {"validation_interval": 3, "num_validation_prompts": 5, "checkpoint_interval": 1, "eval_prompts": 4}
    settings |= {"task": "length", "preset": preset, "runs_dir": tmp_path, "device": "cpu", "sample_interval": 9}
    whole = run.train_text(make_text_config(**settings, name="whole"))
    values = validations_of(whole)
    assert values[0] == values[1] != values[2] == values[3] == values[4] != values[5]
    measure, calls = Validation.measure, []

    def interrupted(self):
        calls.append(1)
        if len(calls) == 3:  # at the end; the checkpoint of iteration 5 exists
            raise KeyboardInterrupt
        measure(self)

    monkeypatch.setattr(Validation, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.train_text(make_text_config(**settings, name="broken"))
    resume(tmp_path / "broken")
    assert validations_of(tmp_path / "broken") == values


def validations_of(folder: Path):
    with (folder / run_folder.METRICS).open(newline="") as file:
        return [[row[name] for name in row if name.startswith("validation/")] for row in csv.DictReader(file)]
