"""Pretraining: whole runs of tiny models, with their files, their evaluation and their errors."""

import contextlib
import csv
import errno
import io
import json
import math
import os
import shutil
import signal
from typing import NamedTuple

import keras
import keras_hub
import numpy as np
import pytest
from support.refusal import refusal
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tfppo.errors import UsageError
from tfppo.text import pretrain
from tfppo.text.config import PretrainConfig
from tfppo.text.data.corpus import sentences
from tfppo.text.data.likelihood import nats_per_character
from tfppo.text.presets.folder import load_preset, save_preset
from tfppo.training import run_folder
from tfppo.training.lock import LOCK

SMALL = {
    "train": sentences("train", "movie")[:500] + sentences("train", "tweet")[:100],
    "validation": sentences("validation", "movie")[:40] + sentences("validation", "nyt")[:10],
    "test": sentences("test", "movie")[:30] + sentences("test", "nyt")[:10],
}
SIZES = {"vocabulary_size": 512, "num_layers": 1, "num_heads": 2, "hidden_dim": 32, "context_length": 48}
CONFIGS = {
    kind: PretrainConfig(model=kind, **SIZES, learning_rate=2e-2, batch_size=16, epochs=2, seed=7)
    for kind in ("gpt2", "lstm")
}
EVERY_KIND = pytest.mark.parametrize("kind", ["gpt2", pytest.param("lstm", marks=pytest.mark.slow)])


class Finished(NamedTuple):
    """A finished run, and its output."""

    config: PretrainConfig
    folder: object
    printed: str


def small_sentences(split, domain=None):
    return [s for s in SMALL[split] if domain in (None, s.domain)]


@pytest.fixture
def small_corpus(monkeypatch):
    monkeypatch.setattr(pretrain, "sentences", small_sentences)


class Runs(dict):
    """Finished runs by kind. A run is trained when it is first asked for. Keras logs as with the command line."""

    def __init__(self, make_folder):
        self.make_folder = make_folder

    def __missing__(self, kind):
        printed = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
            patch.setattr(pretrain, "sentences", small_sentences)
            keras.config.disable_interactive_logging()
            try:
                folder = pretrain.pretrain_run(CONFIGS[kind], None, self.make_folder("runs"))
                assert not keras.config.is_interactive_logging_enabled()  # as before
            finally:
                keras.config.enable_interactive_logging()
        return self.setdefault(kind, Finished(CONFIGS[kind], folder, printed.getvalue()))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp)


def assert_best(model, folder):
    """Asserts that the weights of a model are those of the best epoch."""
    weights = model.get_weights()
    model.load_weights(folder / pretrain.BEST)
    for now, then in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.slow
@EVERY_KIND
def test_a_model_learns(finished, kind):
    with (finished[kind].folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [list(row) for row in rows] == [["epoch", "loss", "val_loss"]] * 2  # no accuracy that counts padding
    uniform = math.log(CONFIGS[kind].vocabulary_size)
    assert float(rows[1]["val_loss"]) < uniform - 0.8
    assert float(rows[1]["val_loss"]) < float(rows[0]["val_loss"])
    model, tokenizer = load_preset(finished[kind].folder / "preset")
    judged = nats_per_character(model, tokenizer, SMALL["validation"])[1]
    assert float(rows[1]["val_loss"]) == pytest.approx(judged, rel=0.02)  # both exclude padding


@pytest.mark.slow
@EVERY_KIND
def test_a_run_leaves_its_files_and_no_more(finished, kind):
    folder = finished[kind].folder
    assert folder.name == f"pretrain-{kind}-seed7"
    assert run_folder.read_config(folder, PretrainConfig) == CONFIGS[kind]
    names = {path.name for path in folder.iterdir()}
    assert names == {LOCK, "config.yaml", "metrics.csv", "evaluation.json", "preset", "train", "validation"}


@EVERY_KIND
def test_tensorboard_gets_the_losses(finished, kind):
    for part in ("train", "validation"):
        events = EventAccumulator(str(finished[kind].folder / part), size_guidance={"tensors": 0})
        events.Reload()
        assert len(events.Tensors("epoch_loss")) == 2


@EVERY_KIND
def test_the_evaluation_is_that_of_the_preset(finished, kind):
    folder = finished[kind].folder
    evaluation = json.loads((folder / "evaluation.json").read_text())
    model, tokenizer = load_preset(folder / "preset")
    assert list(evaluation) == ["seed", "epochs", "parameters", "validation", "test", "seconds"]
    assert (evaluation["seed"], evaluation["epochs"]) == (7, 2)
    assert evaluation["parameters"] == model.count_params()
    assert set(evaluation["seconds"]) == {"train", "evaluate", "total"} and min(evaluation["seconds"].values()) > 0
    for split in ("validation", "test"):
        losses = nats_per_character(model, tokenizer, small_sentences(split, "movie"))
        expected = dict(zip(["nats_per_character", "nats_per_token"], losses, strict=True))
        assert evaluation[split] == pytest.approx(expected, rel=1e-8)  # much closer than the rounding of the weights


@EVERY_KIND
def test_a_person_sees_a_line_an_epoch_and_what_to_do_next(finished, kind):
    _, folder, printed = finished[kind]
    lines = printed.splitlines()
    assert lines[0] == f"{kind}, seed 7, at most 2 epochs -> {folder}"
    assert [line for line in lines if line.startswith("Epoch")] == ["Epoch 1/2", "Epoch 2/2"]
    assert sum("val_loss" in line for line in lines) == 2 and "\b" not in printed and "\r" not in printed
    assert lines[-1].endswith(f"tune it with: tfppo train text --preset {folder / 'preset'}")
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert f"{evaluation['parameters']:,} parameters, 2 epochs" in lines[-1]
    assert f"{evaluation['test']['nats_per_character']:.3f} nats per character" in lines[-1]


@pytest.mark.slow
@pytest.mark.parametrize(("is_terminal", "expected"), [(True, 1), (False, 2)])
def test_a_terminal_gets_a_progress_bar(tmp_path, monkeypatch, is_terminal, expected):
    class Stop(Exception):
        pass

    def stand_in(config, model, tokenizer, folder, verbose):
        assert (
            keras.config.is_interactive_logging_enabled() and run_folder.read_config(folder, PretrainConfig) == config
        )
        raise Stop(verbose)

    stdout = io.StringIO()
    stdout.isatty = lambda: is_terminal
    monkeypatch.setattr(pretrain, "pretrain", stand_in)
    with contextlib.redirect_stdout(stdout), pytest.raises(Stop) as caught:
        pretrain.pretrain_run(CONFIGS["gpt2"], "mine", tmp_path)
    assert caught.value.args == (expected,)


def test_a_name_that_is_taken_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(UsageError, match="mine exists"):
        pretrain.pretrain_run(CONFIGS["gpt2"], "mine", tmp_path)
    assert list((tmp_path / "mine").iterdir()) == []


def train(config, folder):
    model, tokenizer = pretrain.initial_model(config)
    pretrain.pretrain(config, model, tokenizer, folder, verbose=0)
    return model


@pytest.mark.fault("Pretraining diverges", "A one-line error names the learning rate.")
def test_training_that_diverges_is_told(small_corpus, tmp_path):
    config = PretrainConfig(model="lstm", **SIZES, learning_rate=1e38, batch_size=64, epochs=3)
    with pytest.raises(UsageError, match="learning_rate = 1e.38"):
        train(config, tmp_path)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 1  # it stopped after the first epoch


@pytest.mark.fault("The disk has no room for a pretrained model", "A one-line error before the training starts.")
def test_a_disk_without_room_is_told_before_training(monkeypatch, tmp_path):
    full = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(UsageError, match="cannot write .*mine .its disk has 0 bytes free, but more than [0-9,]+"):
        pretrain.pretrain_run(CONFIGS["gpt2"], "mine", tmp_path)


@pytest.mark.slow
def test_a_disk_that_fills_up_is_told(monkeypatch, tmp_path, capsys):
    def no_space(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pretrain, "pretrain", no_space)
    for replaced in (False, True):  # a folder without an epoch does not block its name
        with pytest.raises(UsageError, match="mine .No space left on device.: check that .* start again"):
            pretrain.pretrain_run(CONFIGS["gpt2"], "mine", tmp_path)
        assert ("mine is replaced" in capsys.readouterr().out) == replaced


def test_what_remains_is_the_best_epoch(small_corpus, tmp_path, monkeypatch):
    class Vandal(keras.callbacks.Callback):
        """Ruins the weights before the second epoch."""

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.set_weights([weight * 50 for weight in self.model.get_weights()])

    monkeypatch.setattr(keras.callbacks, "TerminateOnNaN", Vandal)
    config = PretrainConfig(model="lstm", **SIZES, learning_rate=1e-2, batch_size=64, epochs=2)
    model = train(config, tmp_path)
    losses = model.history.history["val_loss"]
    assert losses[1] > losses[0] + 1
    assert_best(model, tmp_path)


@pytest.mark.parametrize("epochs_done", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_ctrl_c_ends_training_with_what_was_best(small_corpus, tmp_path, monkeypatch, heard_ctrl_c, epochs_done):
    class Impatient(keras.callbacks.Callback):
        """Presses Ctrl-C in the third batch of an epoch."""

        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations >= epochs_done * self.params["steps"] + 3:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(keras.callbacks, "TerminateOnNaN", Impatient)
    config = PretrainConfig(model="lstm", **SIZES, learning_rate=1e-2, batch_size=64, epochs=5)
    if epochs_done == 0:
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path)
        return
    model = train(config, tmp_path)
    assert model.history.epoch == [0]
    assert_best(model, tmp_path)


@pytest.mark.slow
@EVERY_KIND
def test_a_preset_is_gone_on_with(finished, small_corpus, tmp_path, kind):
    before = finished[kind].folder / "preset"
    other = {"vocabulary_size": 700, "hidden_dim": 16, "num_heads": 4, "context_length": 96}  # ignored
    config = PretrainConfig(preset=before, **other, learning_rate=1e-12, dropout=0.6, batch_size=16, epochs=1)
    folder = pretrain.pretrain_run(config, None, tmp_path)
    assert folder.name == "pretrain-preset-seed1"
    (old, old_tokenizer), (new, new_tokenizer) = load_preset(before), load_preset(folder / "preset")
    for now, then in zip(new.get_weights(), old.get_weights(), strict=True):
        np.testing.assert_allclose(now, then, atol=1e-9)  # because the learning rate is tiny
    assert new_tokenizer.get_vocabulary() == old_tokenizer.get_vocabulary()
    assert getattr(new, "backbone", new).get_config()["dropout"] == 0.6
    with (folder / "metrics.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["loss"]) > float(row["val_loss"]) + 0.03  # because training has dropout


def test_presets_that_cannot_be_gone_on_with_are_refused_before_anything_is_written(finished, tmp_path):
    config = PretrainConfig(preset=tmp_path / "nothing")
    assert "nothing is neither the folder of a preset" in refusal(pretrain.pretrain_run, config, "mine", tmp_path)
    model, _ = load_preset(finished["gpt2"].folder / "preset")
    tokenizer = keras_hub.models.GPT2Tokenizer({"<|endoftext|>": 0, "a": 1, "b": 2, "ab": 3}, ["a b"])
    save_preset(tmp_path / "foreign", model, tokenizer)
    config = PretrainConfig(preset=tmp_path / "foreign")
    assert "has no <|amazon|>, <|movie|>, <|nyt|>, <|tweet|>" in refusal(
        pretrain.pretrain_run, config, "mine", tmp_path
    )
    assert not (tmp_path / "mine").exists()


@pytest.mark.slow
def test_a_pretrained_transformer_is_calibrated(finished, monkeypatch):
    model, _ = load_preset(finished["gpt2"].folder / "preset")
    inputs = {"token_ids": np.array([[5, 6, 7]]), "padding_mask": np.ones([1, 3], int)}
    before = model(inputs).numpy()
    monkeypatch.setattr(pretrain, "best_temperature", lambda model, batches: 1.25)
    pretrain._calibrate(model, None)
    np.testing.assert_allclose(model(inputs), before / 1.25, atol=1e-5)
