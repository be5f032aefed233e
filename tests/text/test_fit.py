"""`TextTrainer.fit`, and what a trainer does with the model that it has tuned."""

import csv
import json

import keras
import numpy as np
import pytest
from support.refusal import refusal

import tfppo
from tfppo.execution.variables import weights_hash
from tfppo.reporting.metrics import METRICS
from tfppo.text import run

SMALL = {"batch_size": 8, "minibatch_size": 4, "response_length": 6, "num_epochs": 1, "iterations": 3}


def config(preset, **settings):
    return tfppo.make_text_config(preset=preset, task="length", eval_prompts=4, **{**SMALL, **settings})


@pytest.fixture(scope="module")
def fitted(preset, tmp_path_factory):
    """Returns a trainer after `fit` with a run folder, its history, and the epochs that a callback saw."""
    trainer, seen = tfppo.TextTrainer(config(preset)), []
    folder = tmp_path_factory.mktemp("fit") / "mine"
    seeing = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    history = trainer.fit(callbacks=[seeing], validation_interval=2, run_dir=folder, verbose=0)
    assert seeing.model is trainer.policy.model.model and seen == [0, 1, 2]
    return trainer, history, folder


@pytest.mark.slow
def test_fit_is_the_run_of_the_command_line_to_the_bit(fitted, preset, tmp_path):
    trainer, history, folder = fitted
    other = run.train_text(config(preset, runs_dir=tmp_path, name="other", validation_interval=2))
    rows = [list(csv.DictReader((each / "metrics.csv").open())) for each in (folder, other)]
    times = [name for name in rows[0][0] if name.startswith("time/")]
    assert [{**row, **dict.fromkeys(times)} for row in rows[0]] == [{**row, **dict.fromkeys(times)} for row in rows[1]]
    evaluations = [json.loads((each / "evaluation.json").read_text()) for each in (folder, other)]
    assert evaluations[0]["weights"] == evaluations[1]["weights"] == weights_hash(trainer.weights)
    assert evaluations[0]["kl"] == evaluations[1]["kl"] == trainer.evaluate(4)["kl"]
    written = [float(row["text/kl"]) for row in rows[0]]
    np.testing.assert_allclose(history.history["text/kl"], written, rtol=1e-6)


def test_every_metric_has_a_value_in_every_epoch(fitted):
    _, history, _ = fitted
    assert history.epoch == [0, 1, 2] and {len(values) for values in history.history.values()} == {3}
    of_others = (
        "rollout/",
        "info/",
        "reward/",
        "validation/",
        "sft/",
        "reward_model/",
        "loss/pretraining",
        "time/env_steps_per_s",
    )
    assert set(history.history) >= {name for name in METRICS if not name.startswith(of_others)}
    scores = history.history["validation/score_mean"]
    assert np.isfinite(scores).all()


def test_the_trainer_generates_as_its_run_does(fitted):
    trainer, _, folder = fitted
    prompts = ["the film", "a quiet story"]
    assert trainer.generate(prompts, seed=3) == tfppo.generate(folder, prompts, seed=3)
    assert trainer.generate(prompts, reference=True, temperature=0) == tfppo.generate(
        folder, prompts, reference=True, temperature=0
    )
    assert len(trainer.generate(prompts, samples=3)) == 6
    assert "max_new_tokens is 0" in refusal(trainer.generate, prompts, max_new_tokens=0)
    assert "prompts is 0" in refusal(trainer.evaluate, 0)


def test_the_saved_model_is_a_preset_of_the_same_weights(fitted, tmp_path):
    trainer, _, _ = fitted
    trainer.save(tmp_path / "preset")
    model, _ = tfppo.load_preset(tmp_path / "preset")
    for own, saved in zip(trainer.policy.model.model.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(saved, own, rtol=1e-6)


@pytest.mark.slow  # the quick one is that of control
def test_a_second_fit_extends_the_training_on_request(preset):
    constant = {"learning_rate_schedule": "constant"}
    parts, whole = (tfppo.TextTrainer(config(preset, iterations=n, **constant)) for n in (1, 2))
    parts.fit(verbose=0)
    assert "has trained 1 iterations" in refusal(parts.fit)
    assert parts.fit(iterations=1, extend=True, verbose=0).epoch == [1]
    whole.fit(verbose=0)
    assert weights_hash(parts.weights) == weights_hash(whole.weights)


@pytest.mark.slow  # the quick one is that of control
def test_early_stopping_ends_the_training(preset):
    stopping = keras.callbacks.EarlyStopping("validation/score_mean", mode="max", patience=0, min_delta=100.0)
    trainer = tfppo.TextTrainer(config(preset))
    assert trainer.fit(callbacks=stopping, validation_interval=1, verbose=0).epoch == [0, 1]
