"""PPO-ptx: the likelihood of texts beside the objective of PPO."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from support.refusal import refusal

import tfppo
from tfppo.ops.random import fold_in
from tfppo.ppo.config import PPOConfig
from tfppo.ppo.objective import Coefficients, Objective
from tfppo.ppo.types import Batch
from tfppo.text.config import TextConfig
from tfppo.text.defaults import make_text_config
from tfppo.text.policy import TextPolicy, TokenInputs
from tfppo.text.start.pretraining import FILE, PretrainingLoss, PretrainingTexts, windows
from tfppo.text.trainer import TEXT
from tfppo.training import driver, run_folder

S, COEFF = 6, 0.7
SEED = tf.constant([3, 4], tf.int64)


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    token_ids = rng.integers(2, 20, [9, S]).astype(np.int32)
    counts = np.arange(S) < rng.integers(2, S + 1, [9, 1])
    return PretrainingTexts(np.where(counts, token_ids, 0), counts & (np.arange(S) > 0), [])


def slow_gradients(policy, texts, rows):
    """Returns minus the mean log-likelihood of the counted tokens of some rows, token by token, and its gradients."""
    variables = [variable.value for variable in policy.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(variables)
        losses = []
        for row in rows:
            log_softmax = tf.nn.log_softmax(policy.model.logits(policy.model.hidden_states(texts.token_ids[row][None])))
            for place in np.flatnonzero(texts.counts[row]):
                losses.append(-log_softmax[0, place - 1, texts.token_ids[row, place]])
        loss = tf.add_n(losses) / len(losses)
    slopes = tape.gradient(loss, variables, unconnected_gradients="zero")
    return float(loss), [tf.convert_to_tensor(slope).numpy() for slope in slopes]


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("kind", ["gpt2", pytest.param("lstm", marks=pytest.mark.slow)])
def test_the_gradient_is_that_of_the_likelihood(make_model, texts, kind, pieces):
    policy = TextPolicy(make_model(kind), temperature=0.5)  # the likelihood is that at temperature 1
    loss, gradients = PretrainingLoss(policy, texts, COEFF, 6, pieces).gradients(SEED)
    rows = tf.random.stateless_uniform([6], SEED, maxval=9, dtype=tf.int32).numpy()
    expected, slopes = slow_gradients(policy, texts, rows)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for a, b in zip(gradients, slopes, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(np.abs(slope).max() for slope in slopes))


def test_the_objective_is_that_of_ppo_and_the_likelihood_times_its_coefficient(make_model, texts):
    policy = TextPolicy(make_model("gpt2"), has_values=False)
    rng = np.random.default_rng(1)
    actions = tf.constant(rng.integers(2, 20, [4, 3]), tf.int32)
    sequences = tf.constant(rng.integers(2, 20, [4, 5]), tf.int32)
    inputs = TokenInputs(sequences, tf.constant([2] * 4))
    numbers = [tf.constant(rng.normal(size=[4, 3]) + shift, tf.float32) for shift in (-3, 0)]
    batch = Batch(inputs, actions, numbers[0], None, numbers[1], None, tf.ones([4, 3], tf.bool))
    config = PPOConfig(minibatch_size=4, value_coeff=0.0, max_grad_norm=None, normalize_advantages=False)
    coefficients = Coefficients(*(tf.constant(x) for x in (0.2, 0.2, 0.01, 0.0)))
    auxiliary = PretrainingLoss(policy, texts, COEFF, 4)
    (plain, slopes), (both, mixed) = (
        Objective(policy, config, auxiliary=extra).gradients(batch, coefficients, SEED) for extra in (None, auxiliary)
    )
    loss, more = auxiliary.gradients(SEED)
    assert "loss/pretraining" not in plain
    np.testing.assert_allclose(both["loss/pretraining"], loss, rtol=1e-6)
    np.testing.assert_allclose(both["loss/total"], plain["loss/total"] + COEFF * loss, rtol=1e-5)
    for a, b, c in zip(mixed, slopes, more, strict=True):
        np.testing.assert_allclose(a, b + COEFF * c, atol=1e-6)
    np.testing.assert_allclose(both["policy/grad_norm"], tf.linalg.global_norm(mixed), rtol=1e-5)
    others = [auxiliary.gradients(fold_in(SEED, step))[0].numpy() for step in range(3)]
    assert len(set(others)) == 3  # another seed draws other texts


@pytest.mark.parametrize("count", [1, 2, 4, 5, 7, 12])
def test_long_texts_are_cut_into_windows_that_predict_every_token_once(count):
    parts = windows(np.arange(count), 4)
    assert all(len(part) <= 4 for part in parts)
    assert [token for part in parts for token in part[1:]] == list(range(1, count))


def tiny(folder, preset, **settings):
    small = {"iterations": 2, "batch_size": 4, "minibatch_size": 2, "response_length": 5, "eval_prompts": 0}
    every = {"checkpoint_interval": 1, "num_epochs": 1, "compile_update": "graph", "task": "length"}
    return make_text_config(**(small | every | {"runs_dir": folder, "preset": preset} | settings))


@pytest.mark.slow
def test_a_run_keeps_its_texts_and_resumes_to_the_same_bits(preset, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("A film is a film .\nIt was a good day , and then it was a very long night in the town .\n")
    folder = tfppo.train_text(tiny(tmp_path, preset, name="whole", pretraining_data=path, pretraining_coeff=0.5))
    rows = list(csv.DictReader((folder / run_folder.METRICS).open()))
    assert all(0 < float(row["loss/pretraining"]) < 20 for row in rows) and len(rows) == 2
    kept = folder / run_folder.DATA / FILE
    assert [json.loads(line)["text"][:9] for line in kept.read_text().splitlines()] == ["A film is", "It was a "]
    path.unlink()  # the folder holds the run
    with driver.opened(TEXT, folder, "latest") as trainer:
        weights = [weight.numpy() for weight in trainer.weights]
    for name in ("2", "best"):
        for file in (folder / run_folder.CHECKPOINTS).glob(f"{name}*"):
            file.rename(tmp_path / f"away-{file.name}")
    tfppo.resume(folder)
    with driver.opened(TEXT, folder, "latest") as trainer:
        assert trainer.iteration == 2
        for a, b in zip(trainer.weights, weights, strict=True):
            np.testing.assert_array_equal(a, b)
    kept.write_text('{"text": "another text ."}\n')
    said = refusal(tfppo.resume, folder)
    assert "the pretraining data in the run's folder has the checksum" in said and "restore the file" in said
    kept.unlink()
    assert "is missing; the run keeps its pretraining data" in refusal(tfppo.resume, folder)


def test_a_coefficient_needs_texts_and_a_file_must_have_some(preset, tmp_path):
    assert "it needs texts: give pretraining_data" in refusal(TextConfig, pretraining_coeff=0.5)
    (tmp_path / "empty.txt").write_text("\n")
    said = refusal(tfppo.train_text, tiny(tmp_path / "runs", preset, pretraining_data=tmp_path / "empty.txt"))
    assert "empty.txt has no texts" in said and not (tmp_path / "runs").exists()
    (tmp_path / "prompts.jsonl").write_text('{"text": "A film"}\n{"prompt": "Say:"}\n')
    said = refusal(tfppo.train_text, tiny(tmp_path / "runs", preset, pretraining_data=tmp_path / "prompts.jsonl"))
    assert "line 2 of" in said and "in the column text: correct or remove it" in said


def test_replicas_cannot_divide_it(make_model, texts):
    policy, config = TextPolicy(make_model("gpt2"), has_values=False), PPOConfig(minibatch_size=4)
    auxiliary = PretrainingLoss(policy, texts, COEFF, 4)
    said = refusal(Objective, policy, config, SimpleNamespace(count=2), auxiliary=auxiliary)
    assert said.startswith("pretraining_data is given and there are 2 replicas") and "distribute to none" in said
