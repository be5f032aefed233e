"""Pretraining: what a model is given, how it is judged, and runs of tiny models from their first file to their last."""

import contextlib
import csv
import io
import json
import math
import signal
from collections import Counter
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tfppo import runs
from tfppo.errors import UsageError
from tfppo.text import pretrain
from tfppo.text.config import PretrainConfig
from tfppo.text.corpus import Sentence, sentences
from tfppo.text.lstm import make_lstm
from tfppo.text.presets import load_preset
from tfppo.text.tokenizer import END, control_token, train_tokenizer
from tfppo.text.transformer import make_transformer

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
EVERY_KIND = pytest.mark.parametrize("kind", list(CONFIGS))


class Finished(NamedTuple):
    """A run that came to its end."""

    config: PretrainConfig
    folder: object
    printed: str


def small_sentences(split, domain=None):
    return [s for s in SMALL[split] if domain in (None, s.domain)]


@pytest.fixture
def small_corpus(monkeypatch):
    monkeypatch.setattr(pretrain, "sentences", small_sentences)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of each kind, its output kept; Keras sends its messages to the log, as under the command line."""
    done = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "sentences", small_sentences)
        keras.config.disable_interactive_logging()
        try:
            for kind, config in CONFIGS.items():
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    folder = pretrain.pretrain_run(config, None, tmp_path_factory.mktemp("runs"))
                assert not keras.config.is_interactive_logging_enabled()  # as it was
                done[kind] = Finished(config, folder, printed.getvalue())
        finally:
            keras.config.enable_interactive_logging()
    return done


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([sentence.text for sentence in SMALL["train"]], 600)


def random_model(kind, vocabulary_size):
    """A fresh model whose opinions are made strong, so that losses differ from token to token."""
    make = {"gpt2": make_transformer, "lstm": make_lstm}[kind]
    model = make(vocabulary_size, PretrainConfig(**SIZES))
    rng, scale = np.random.default_rng(3), {"gpt2": 0.2, "lstm": 0.6}[kind]
    model.set_weights([weight + rng.normal(0.0, scale, weight.shape) for weight in model.get_weights()])
    return model


def slow_losses(model, tokenizer, corpus, context_length):
    """(nats per character, nats per token), a sentence after the other."""
    total, characters, tokens = 0.0, 0.0, 0
    logits_of = tf.function(model, reduce_retracing=True)
    for sentence in corpus:
        text = tokenizer([sentence.text])[0]
        ids = [tokenizer.token_to_id(control_token(sentence.domain)), *text, tokenizer.token_to_id(END)]
        kept = ids[: context_length + 1]
        token_ids = tf.constant([kept[:-1]])
        logits = logits_of({"token_ids": token_ids, "padding_mask": tf.ones_like(token_ids)}).numpy()[0]  # [S, V]
        for position, token in enumerate(kept[1:]):
            scores = logits[position].astype(np.float64)
            total += math.log(sum(math.exp(score - scores[token]) for score in scores))
        characters += len(sentence.text) * (len(kept) - 1) / (len(ids) - 1)
        tokens += len(kept) - 1
    return total / characters, total / tokens


def rows_of(dataset):
    """Each sentence of a dataset, put together again without its padding, as tuples in their order."""
    rows = []
    for inputs, targets in dataset:
        token_ids, mask, targets = (x.numpy() for x in (inputs["token_ids"], inputs["padding_mask"], targets))
        assert token_ids.shape == mask.shape == targets.shape
        assert token_ids.dtype == mask.dtype == targets.dtype == np.int32
        np.testing.assert_array_equal(token_ids[:, 1:], targets[:, :-1])  # what comes next
        np.testing.assert_array_equal(mask, token_ids != 0)
        lengths = (targets != 0).sum(axis=1)
        assert token_ids.shape[1] == lengths.max()  # no batch is wider than its longest sentence
        assert not targets[np.arange(targets.shape[1]) >= lengths[:, None]].any()  # padding is on the right
        rows += [(ids[0], *target[:n]) for ids, target, n in zip(token_ids, targets, lengths, strict=True)]
    return rows


def assert_best(model, folder):
    """The weights are those that were written when the best epoch ended."""
    weights = model.get_weights()
    model.load_weights(folder / pretrain.BEST)
    for now, then in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(now, then)


def some_rows(count=101):
    """Sentences of all lengths, with none that occurs twice."""
    rng = np.random.default_rng(4)
    lengths = [2, 15, 16, 17, 63, 64, 65, 90, *rng.integers(2, 90, count - 8)]
    return [np.array([*rng.integers(1, 500, length - 1), 1000 + n], np.int32) for n, length in enumerate(lengths)]


def test_a_sentence_is_its_control_token_its_text_and_an_end(tokenizer):
    corpus = [SMALL["train"][0], SMALL["train"][-1], Sentence("nyt", "1", "train", 0.0, "Oh")]
    encoded = pretrain.encode(tokenizer, corpus, 500)
    for ids, sentence in zip(encoded, corpus, strict=True):
        assert ids.dtype == np.int32
        assert tokenizer.id_to_token(int(ids[0])) == control_token(sentence.domain)
        assert ids[-1] == tokenizer.end_token_id and 0 not in ids
        assert tokenizer.detokenize([ids[1:-1].tolist()]) == [sentence.text]
    assert [sentence.domain for sentence in corpus] == ["movie", "tweet", "nyt"]


def test_a_long_sentence_is_cut_to_what_the_context_can_predict(tokenizer):
    whole = pretrain.encode(tokenizer, SMALL["train"][:50], 500)
    cut = pretrain.encode(tokenizer, SMALL["train"][:50], 20)
    assert max(map(len, whole)) > 21 > min(map(len, whole)) and max(map(len, cut)) == 21
    for ids, part in zip(whole, cut, strict=True):
        np.testing.assert_array_equal(part, ids[:21])


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("batch_size", [1, 8, 1000])
def test_every_sentence_is_in_exactly_one_batch(seed, batch_size):
    encoded = some_rows()
    dataset = pretrain.make_dataset(encoded, batch_size, seed)
    assert Counter(rows_of(dataset)) == Counter(tuple(ids.tolist()) for ids in encoded)
    assert int(dataset.cardinality()) == sum(1 for _ in dataset)
    assert max(len(targets) for _, targets in dataset) <= batch_size


def test_sentences_of_about_one_length_share_a_batch():
    for _, targets in pretrain.make_dataset(some_rows(), 8, 5):
        lengths = (targets.numpy() != 0).sum(axis=1) + 1
        assert len(set(np.searchsorted(pretrain.LENGTHS, lengths, side="right"))) == 1


def test_the_order_is_another_one_in_every_epoch_and_the_same_for_a_seed():
    first, again, other = (pretrain.make_dataset(some_rows(), 8, seed) for seed in (5, 5, 6))
    epochs = [rows_of(first), rows_of(first)]
    assert epochs[0] != epochs[1]
    assert epochs == [rows_of(again), rows_of(again)]
    assert rows_of(other) not in epochs
    unshuffled = pretrain.make_dataset(some_rows(), 8)
    assert rows_of(unshuffled) == rows_of(unshuffled)


@EVERY_KIND
def test_nats_equal_the_slow_computation(tokenizer, kind):
    corpus = SMALL["validation"][:19] + [Sentence("nyt", "1", "test", 0.0, "word after word " * 20)]  # too long
    model = random_model(kind, tokenizer.vocabulary_size())
    expected = slow_losses(model, tokenizer, corpus, SIZES["context_length"] if kind == "gpt2" else 10**6)
    assert expected[1] > math.log(tokenizer.vocabulary_size()) + 0.1  # opinions, and wrong ones
    np.testing.assert_allclose(pretrain.nats_per_character(model, tokenizer, corpus), expected, rtol=1e-5)


def test_nats_do_not_depend_on_the_batch_size(tokenizer):
    model = random_model("gpt2", tokenizer.vocabulary_size())
    losses = [pretrain.nats_per_character(model, tokenizer, SMALL["test"], batch_size) for batch_size in (1, 7, 64)]
    np.testing.assert_allclose(losses[1:], losses[:1] * 2, rtol=1e-5)


@EVERY_KIND
def test_a_model_learns(finished, kind):
    with (finished[kind].folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [list(row) for row in rows] == [["epoch", "loss", "val_loss"]] * 2  # no accuracy that counts padding
    uniform = math.log(CONFIGS[kind].vocabulary_size)
    assert float(rows[1]["val_loss"]) < uniform - 0.8
    assert float(rows[1]["val_loss"]) < float(rows[0]["val_loss"])
    model, tokenizer = load_preset(finished[kind].folder / "preset")
    judged = pretrain.nats_per_character(model, tokenizer, SMALL["validation"])[1]
    assert float(rows[1]["val_loss"]) == pytest.approx(judged, rel=0.02)  # padding counts in neither


@EVERY_KIND
def test_a_run_leaves_its_files_and_no_more(finished, kind):
    folder = finished[kind].folder
    assert folder.name == f"pretrain-{kind}-seed7"
    assert runs.read_config(folder, PretrainConfig) == CONFIGS[kind]
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.yaml", "metrics.csv", "evaluation.json", "preset", "train", "validation"}


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
        losses = pretrain.nats_per_character(model, tokenizer, small_sentences(split, "movie"))
        expected = dict(zip(["nats_per_character", "nats_per_token"], losses, strict=True))
        assert evaluation[split] == pytest.approx(expected, rel=1e-8)  # closer than its rounded weights are


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
    assert f"{evaluation['test']['nats_per_character']:.3f} nats a character" in lines[-1]


@pytest.mark.parametrize(("is_terminal", "expected"), [(True, 1), (False, 2)])
def test_a_terminal_gets_a_progress_bar(tmp_path, monkeypatch, is_terminal, expected):
    class Stop(Exception):
        pass

    def stand_in(config, folder, verbose):
        assert keras.config.is_interactive_logging_enabled() and runs.read_config(folder, PretrainConfig) == config
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


def test_training_that_diverges_is_told(small_corpus, tmp_path):
    config = PretrainConfig(model="lstm", **SIZES, learning_rate=1e38, batch_size=64, epochs=3)
    with pytest.raises(UsageError, match="learning_rate = 1e.38"):
        pretrain.pretrain(config, tmp_path, verbose=0)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 1  # it did not go on


def test_what_remains_is_the_best_epoch(small_corpus, tmp_path, monkeypatch):
    class Vandal(keras.callbacks.Callback):
        """Somebody who spoils the second epoch."""

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.set_weights([weight * 50 for weight in self.model.get_weights()])

    monkeypatch.setattr(keras.callbacks, "TerminateOnNaN", Vandal)
    config = PretrainConfig(model="lstm", **SIZES, learning_rate=1e-2, batch_size=64, epochs=2)
    model, _ = pretrain.pretrain(config, tmp_path, verbose=0)
    losses = model.history.history["val_loss"]
    assert losses[1] > losses[0] + 1
    assert_best(model, tmp_path)


@pytest.mark.parametrize("epochs_done", [0, 1])
def test_ctrl_c_ends_training_with_what_was_best(small_corpus, tmp_path, monkeypatch, epochs_done):
    class Impatient(keras.callbacks.Callback):
        """A person who presses Ctrl-C in the third batch of an epoch."""

        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations >= epochs_done * self.params["steps"] + 3:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(keras.callbacks, "TerminateOnNaN", Impatient)
    config = PretrainConfig(model="lstm", **SIZES, learning_rate=1e-2, batch_size=64, epochs=5)
    if epochs_done == 0:
        with pytest.raises(KeyboardInterrupt):
            pretrain.pretrain(config, tmp_path, verbose=0)
        return
    model, _ = pretrain.pretrain(config, tmp_path, verbose=0)
    assert model.history.epoch == [0]
    assert_best(model, tmp_path)
