"""Pretraining: whole runs of tiny models, with their files, their evaluation, their errors, and resume to the bit."""

import math

import keras_hub
import numpy as np
import pytest
from support.refusal import command_refusal, refusal
from support.run_files import evaluation_of, rows_of
from support.signals import stopped_after

import tfppo
from tfppo.settings import with_settings
from tfppo.text.data.corpus import sentences
from tfppo.text.data.likelihood import nats_per_character
from tfppo.text.presets.folder import load_preset, save_preset
from tfppo.text.pretrain import parts
from tfppo.text.pretrain.config import PretrainRunConfig
from tfppo.text.pretrain.run import pretrain_run
from tfppo.text.sft.examples import Example, Examples
from tfppo.training import run_folder

SMALL = {
    "train": sentences("train", "movie")[:500] + sentences("train", "tweet")[:100],
    "validation": sentences("validation", "movie")[:40] + sentences("validation", "nyt")[:10],
    "test": sentences("test", "movie")[:30] + sentences("test", "nyt")[:10],
}
SIZES = {"vocabulary_size": 512, "num_layers": 1, "num_heads": 2, "hidden_dim": 32, "context_length": 48}
EVERY_KIND = pytest.mark.parametrize("kind", ["gpt2", pytest.param("lstm", marks=pytest.mark.slow)])


def small_sentences(split, domain=None):
    return [s for s in SMALL[split] if domain in (None, s.domain)]


@pytest.fixture(scope="module", autouse=True)
def small_corpus():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "sentences", small_sentences)
        yield


def tiny(folder, **settings):
    """Makes the settings of a short run of a tiny model."""
    short = {"learning_rate": 2e-2, "batch_size": 16, "epochs": 2, "seed": 7, "runs_dir": folder, "device": "cpu"}
    return with_settings(PretrainRunConfig(), SIZES | short | settings)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Returns `finished(kind)`, which returns the folder of a finished run."""
    folders = {}

    def of(kind):
        if kind not in folders:
            folders[kind] = pretrain_run(tiny(tmp_path_factory.mktemp("runs"), model=kind))
        return folders[kind]

    return of


@EVERY_KIND
def test_a_model_learns(finished, kind):
    rows = rows_of(finished(kind))
    losses = [float(row["validation/loss"]) for row in rows]
    assert [float(row["sft/epoch"]) for row in rows] == [1, 2]  # a row an epoch
    assert losses[0] < math.log(SIZES["vocabulary_size"]) - 0.5 and losses[1] < losses[0]
    model, tokenizer = load_preset(finished(kind) / "preset")
    assert losses[1] == pytest.approx(nats_per_character(model, tokenizer, SMALL["validation"])[1], rel=0.02)


@EVERY_KIND
def test_a_run_leaves_its_files_and_no_more(finished, kind):
    folder = finished(kind)
    assert folder.name == f"pretrain-{kind}-seed7"
    names = {path.name for path in folder.iterdir() if not path.name.startswith("events.out")}
    files = "config.yaml metrics.csv evaluation.json curve.png checkpoints preset model .lock"
    assert names == set(files.split())
    config = run_folder.read_config(folder, PretrainRunConfig)
    assert (config.model.model, config.model.hidden_dim, config.pretrain.epochs) == (kind, 32, 2)


@EVERY_KIND
def test_the_evaluation_is_that_of_the_preset(finished, kind):
    folder = finished(kind)
    evaluation = evaluation_of(folder)
    model, tokenizer = load_preset(folder / "preset")
    assert (evaluation["seed"], evaluation["epochs"], evaluation["parameters"]) == (7, 2, model.count_params())
    for split in ("validation", "test"):
        losses = nats_per_character(model, tokenizer, small_sentences(split, "movie"))
        expected = dict(zip(["nats_per_character", "nats_per_token"], losses, strict=True))
        assert evaluation[split] == pytest.approx(expected, rel=1e-8)  # much closer than the rounding of the weights


@pytest.mark.slow
def test_a_person_sees_what_is_trained_and_what_to_do_next(finished, tmp_path, capsys):
    folder = pretrain_run(tiny(tmp_path, epochs=1))
    lines = capsys.readouterr().out.splitlines()
    assert any("600 sentences of" in line and line.endswith(f"seed 7 -> {folder}") for line in lines)
    assert f"{evaluation_of(folder)['test']['nats_per_character']:.3f} nats per character" in lines[-1]
    assert lines[-1].endswith(f"tune it with: tfppo train text --preset {folder / 'preset'}")
    error = command_refusal(capsys, "generate", folder, "--prompt", "It")
    assert "is a run of tfppo pretrain" in error and f"--preset {folder / 'preset'}" in error
    tfppo.resume(folder)
    assert evaluation_of(folder)["steps"] == math.ceil(600 / 16)


@pytest.mark.slow  # supervised fine-tuning has quick tests of the same machine
def test_a_run_that_a_signal_stops_goes_on_to_the_same_bits(finished, tmp_path, capsys):
    with stopped_after(50):
        folder = pretrain_run(tiny(tmp_path))
    assert "stopped after step 50 of 76; resume with" in capsys.readouterr().out and not (folder / "preset").exists()
    tfppo.resume(folder)
    assert evaluation_of(folder)["weights"] == evaluation_of(finished("gpt2"))["weights"]


def test_a_name_that_is_taken_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    assert "mine exists" in refusal(pretrain_run, tiny(tmp_path, name="mine"))
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.slow
@EVERY_KIND
def test_a_preset_is_gone_on_with(finished, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(parts, "best_temperature", lambda model, batches: 1.0)
    before = finished(kind) / "preset"
    sizes = {name: getattr(PretrainRunConfig().model, name) for name in SIZES}  # the defaults
    settings = sizes | {"preset": before, "learning_rate": 1e-12, "dropout": 0.6, "epochs": 1, "seed": 1}
    folder = pretrain_run(tiny(tmp_path, **settings))
    assert folder.name == "pretrain-preset-seed1"
    (old, old_tokenizer), (new, new_tokenizer) = load_preset(before), load_preset(folder / "preset")
    for now, then in zip(new.get_weights(), old.get_weights(), strict=True):
        np.testing.assert_allclose(now, then, atol=1e-9)  # because the learning rate is tiny
    assert new_tokenizer.get_vocabulary() == old_tokenizer.get_vocabulary()
    assert getattr(new, "backbone", new).get_config()["dropout"] == 0.6
    (row,) = rows_of(folder)
    assert float(row["sft/loss"]) > float(row["validation/loss"]) + 0.03  # because training has dropout
    kept = load_preset(folder / "model")[0]
    assert getattr(kept, "backbone", kept).get_config()["dropout"] == 0.6  # a resumed run trains with it


def test_presets_that_cannot_be_gone_on_with_are_refused_before_anything_is_written(finished, tmp_path):
    def refused(**settings):
        return refusal(pretrain_run, with_settings(PretrainRunConfig(), {"runs_dir": tmp_path / "runs"} | settings))

    assert "nothing is neither the folder of a preset" in refused(preset=tmp_path / "nothing")
    own = finished("gpt2") / "preset"
    assert "hidden_dim is 16, and the run starts from a trained model" in refused(preset=own, hidden_dim=16)
    model, _ = load_preset(own)
    tokenizer = keras_hub.models.GPT2Tokenizer({"<|endoftext|>": 0, "a": 1, "b": 2, "ab": 3}, ["a b"])
    save_preset(tmp_path / "foreign", model, tokenizer)
    assert "has no <|amazon|>, <|movie|>, <|nyt|>, <|tweet|>" in refused(preset=tmp_path / "foreign")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.fault("Pretraining diverges", "A one-line error names the learning rate.")
def test_training_that_diverges_is_told(tmp_path):
    config = tiny(tmp_path, model="lstm", learning_rate=1e38, batch_size=64)
    assert "lower the learning rate" in refusal(pretrain_run, config)


def test_a_trained_transformer_is_calibrated(finished, monkeypatch):
    model, _ = load_preset(finished("gpt2") / "preset")
    inputs = {"token_ids": np.array([[5, 6, 7]]), "padding_mask": np.ones([1, 3], int)}
    before = model(inputs).numpy()
    monkeypatch.setattr(parts, "best_temperature", lambda model, batches: 1.25)
    example = Example(np.array([5, 6, 7], np.int32), np.array([False, True, True]))
    parts.calibrate(model, Examples([example], 0, 0), 1)
    np.testing.assert_allclose(model(inputs), before / 1.25, atol=1e-5)
