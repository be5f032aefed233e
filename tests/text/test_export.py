"""Exported presets: the same probabilities as the policy, here and in KerasHub, and further tuning."""

import errno
import shutil
from types import SimpleNamespace

import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from support.refusal import refusal

import tfppo
from tfppo import TextTrainer, saved_runs
from tfppo.cli import main
from tfppo.text import export, run
from tfppo.text import trainer as text_trainer
from tfppo.text.defaults import make_text_config
from tfppo.text.models.reference import as_language_model
from tfppo.text.presets.folder import load_preset
from tfppo.text.trainer import TEXT
from tfppo.training import driver, run_folder

TOKENS = np.random.default_rng(1).integers(6, 500, [5, 20]).astype(np.int32)


def settings(folder, preset, **others):
    """Makes the config of a short run with a large learning rate."""
    small = {"iterations": 1, "batch_size": 8, "minibatch_size": 4, "response_length": 6, "eval_prompts": 0}
    where = {"runs_dir": folder, "preset": preset, "task": "length", "device": "cpu", "num_epochs": 2}
    return make_text_config(**(small | where | {"learning_rate": 0.1} | others))


def log_probs(model):
    """Computes log-probabilities [B, S, V] of all tokens, as PPO does."""
    return tf.nn.log_softmax(model.logits(model.hidden_states(tf.constant(TOKENS)))).numpy()


def log_probs_of(preset):
    return log_probs(as_language_model(load_preset(preset)[0]))


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def adapted(preset, tmp_path_factory):
    """The folder of an exported run with adapters and a temperature of 0.7."""
    folder = run.train_text(settings(tmp_path_factory.mktemp("adapted"), preset, lora_rank=3, temperature=0.7))
    saved_runs.export(folder)
    return folder


@pytest.fixture(scope="module")
def policy(adapted):
    """Log-probabilities of the policy of that run, and a response."""
    with driver.opened(TEXT, adapted, "latest") as trainer:
        return log_probs(trainer.policy.model), tfppo.generate(adapted, ["This film"], temperature=0.0)[0]


@pytest.mark.slow
def test_a_preset_is_as_sure_of_every_token_as_the_policy(any_preset, tmp_path, monkeypatch, capsys):
    trainers, make = [], TEXT.make_trainer
    recording = TEXT._replace(make_trainer=lambda *given: trainers.append(make(*given)) or trainers[-1])
    monkeypatch.setattr(text_trainer, "TEXT", recording)
    folder = run.train_text(settings(tmp_path, any_preset))
    before = contents(folder)
    capsys.readouterr()
    assert saved_runs.export(folder) == folder / "export"
    out, err = capsys.readouterr()
    loader = "tfppo.load_preset" if "lstm" in str(any_preset) else "keras_hub.models.CausalLM.from_preset"
    assert len(out.splitlines()) == 1 and err == "" and f'{loader}("{folder / "export"}"' in out
    assert "temperature" not in out
    assert {name: data for name, data in contents(folder).items() if not name.startswith("export/")} == before
    policy = log_probs(trainers[0].policy.model)
    np.testing.assert_allclose(log_probs_of(folder / "export"), policy, rtol=1e-5, atol=1e-5)
    assert np.abs(log_probs_of(any_preset) - policy).max() > 0.05


@pytest.mark.slow
def test_adapters_are_merged(adapted, policy, preset):
    np.testing.assert_allclose(log_probs_of(adapted / "export"), policy[0], rtol=1e-4, atol=1e-5)
    assert np.abs(log_probs_of(preset) - policy[0]).max() > 0.05


def test_kerashub_loads_it_and_writes_what_the_policy_writes(adapted, policy):
    model = keras_hub.models.CausalLM.from_preset(str(adapted / "export"), preprocessor=None)
    logits = model({"token_ids": TOKENS, "padding_mask": np.ones_like(TOKENS)})
    np.testing.assert_allclose(tf.nn.log_softmax(logits), policy[0], rtol=1e-4, atol=1e-5)
    tokenizer = keras_hub.models.Tokenizer.from_preset(str(adapted / "export"))
    prompt = [int(token) for token in tokenizer("<|movie|>This film")]
    padded = np.array([prompt + 6 * [0]])
    model.compile(sampler="greedy")
    written = model.generate({"token_ids": padded, "padding_mask": padded != 0}, stop_token_ids=None)
    written = written["token_ids"] if isinstance(written, dict) else written
    assert tokenizer.detokenize(np.array(written)[0, len(prompt) :].tolist()) == policy[1]


def test_it_can_be_tuned_further(adapted, policy, preset, tmp_path):
    """The reference of the new run is the policy of the old run, and all weights are trainable."""
    trainer = TextTrainer(settings(tmp_path, adapted / "export"))
    for model in (trainer.policy.model, trainer.reference):
        np.testing.assert_allclose(log_probs(model), policy[0], rtol=1e-4, atol=1e-5)
    untuned, _ = load_preset(preset)
    shapes = [weight.shape for weight in trainer.policy.model.trainable_variables]
    assert shapes == [weight.shape for weight in untuned.trainable_weights] and len(shapes) > 10


def test_the_command_replaces_an_earlier_export(adapted, capsys):
    before, path = contents(adapted), adapted / "export"
    (path / "stale").write_text("of an earlier export")
    assert main(["export", str(adapted)]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1 and err == ""
    loading = f'from_preset("{path}", preprocessor=None)'
    for words in (loading, f"tfppo train text --preset {path}", "<|movie|>", "temperature 0.7"):
        assert words in out
    assert set(contents(adapted)) == set(before) and not list(adapted.glob(".export*"))


@pytest.mark.fault("An export is interrupted", "An earlier export stays unchanged.")
def test_an_export_that_fails_leaves_the_earlier_one(adapted, monkeypatch):
    real, before = export.save_preset, contents(adapted)

    def fail_at_the_end(*arguments):
        real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "save_preset", fail_at_the_end)
    with pytest.raises(KeyboardInterrupt):
        saved_runs.export(adapted)
    assert contents(adapted) == before and not list(adapted.glob(".export*"))


@pytest.mark.fault("The disk is full during an export", "A one-line error. An earlier export stays unchanged.")
def test_an_export_that_cannot_be_written_is_one_line(adapted, monkeypatch, capsys):
    real, before = export.save_preset, contents(adapted)

    def fail_at_the_end(*arguments):
        real(*arguments)
        raise OSError(errno.ENOSPC, "Can't synchronously write data (file write failed: time = ...)")

    monkeypatch.setattr(export, "save_preset", fail_at_the_end)
    assert main(["export", str(adapted)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"tfppo: cannot write {adapted / 'export'} (No space left on device): ")
    assert len(err.splitlines()) == 1
    monkeypatch.undo()
    model, _ = load_preset(adapted / "export")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4 * model.count_params() - 1))
    assert "free disk space" in refusal(saved_runs.export, adapted)
    assert contents(adapted) == before and not list(adapted.glob(".export*"))


def test_what_lies_in_its_place_is_not_replaced(adapted, monkeypatch):
    monkeypatch.setattr(run_folder, "EXPORT", "samples.jsonl")
    before = contents(adapted)
    assert "samples.jsonl exists and holds no tokenizer.json" in refusal(saved_runs.export, adapted)
    assert contents(adapted) == before


@pytest.mark.slow
def test_a_run_is_exported_for_transformers_with_a_card(any_preset, tmp_path, capsys):
    folder = run.train_text(settings(tmp_path, any_preset, eval_prompts=4))
    capsys.readouterr()
    if "lstm" in str(any_preset):
        assert "the model is an LSTM" in refusal(saved_runs.export, folder, format="transformers")
        assert not (folder / "export").exists()
        return
    assert main(["export", str(folder), "--format", "transformers"]) == 0
    out = capsys.readouterr().out
    assert f'AutoModelForCausalLM.from_pretrained("{folder / "export"}")' in out and "<|movie|>" in out
    with driver.opened(TEXT, folder, "latest") as trainer:
        policy = log_probs(trainer.policy.model)
    np.testing.assert_allclose(log_probs_of(folder / "export"), policy, rtol=1e-4, atol=1e-5)
    card = (folder / "export" / "README.md").read_text()
    assert (
        "library_name: transformers" in card and "On 4 held-out prompts" in card and "| iterations | 1 of 1 |" in card
    )
    trainer = TextTrainer(settings(tmp_path, folder / "export"))  # it can be tuned further
    np.testing.assert_allclose(log_probs(trainer.policy.model), policy, rtol=1e-4, atol=1e-5)
    saved_runs.export(folder)
    assert "library_name: keras-hub" in (folder / "export" / "README.md").read_text()  # it replaces the other form
    assert not (folder / "export" / "model.safetensors").exists()


def test_results_of_other_weights_are_not_in_the_card(adapted):
    evaluation = adapted / run_folder.EVALUATION
    run_folder.write_evaluation(adapted, {"prompts": 3, "weights": "of another checkpoint"})
    saved_runs.export(adapted)
    evaluation.unlink()
    assert "These weights were not evaluated." in (adapted / "export" / "README.md").read_text()


def test_forms_that_a_run_does_not_have_are_refused(adapted, capsys):
    before = contents(adapted)
    for options, said in (
        (["--adapters-only"], "GPT2CausalLM, whose queries, keys and values are one layer"),
        (["--adapters-only", "--format", "keras"], "adapters alone have the form of PEFT"),
        (["--format", "onnx"], "onnx"),
    ):
        assert main(["export", str(adapted), *options]) == 2
        assert said in capsys.readouterr().err
    assert "format is 'onnx'; it must be keras or transformers" in refusal(saved_runs.export, adapted, format="onnx")
    assert contents(adapted) == before
