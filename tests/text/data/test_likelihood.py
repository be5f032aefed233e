"""Batches of tokens, and the loss of a language model against a slow computation."""

import math
from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfppo.text.config import NewModelConfig
from tfppo.text.data import likelihood
from tfppo.text.data.corpus import Sentence, sentences
from tfppo.text.data.tokenizer import END, control_token, train_tokenizer
from tfppo.text.models.lstm import make_lstm
from tfppo.text.models.transformer import make_transformer

TRAIN = sentences("train", "movie")[:500] + sentences("train", "tweet")[:100]
TEST = sentences("test", "movie")[:30] + sentences("test", "nyt")[:10]
SIZES = {"vocabulary_size": 512, "num_layers": 1, "num_heads": 2, "hidden_dim": 32, "context_length": 48}
EVERY_KIND = pytest.mark.parametrize("kind", ["gpt2", "lstm"])


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([sentence.text for sentence in TRAIN], 600)


def random_model(kind, vocabulary_size):
    """Makes a model with larger weights than new ones, so that losses differ from token to token."""
    keras.utils.set_random_seed(1)
    make = {"gpt2": make_transformer, "lstm": make_lstm}[kind]
    model = make(vocabulary_size, NewModelConfig(**SIZES))
    rng, scale = np.random.default_rng(3), {"gpt2": 0.2, "lstm": 0.6}[kind]
    model.set_weights([weight + rng.normal(0.0, scale, weight.shape) for weight in model.get_weights()])
    return model


def slow_losses(model, tokenizer, corpus, context_length):
    """Computes nats per character and nats per token, one sentence at a time."""
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
    """Returns the sentences of a dataset as tuples of tokens without padding, in their order."""
    rows = []
    for inputs, targets in dataset:
        token_ids, mask, targets = (x.numpy() for x in (inputs["token_ids"], inputs["padding_mask"], targets))
        assert token_ids.shape == mask.shape == targets.shape
        assert token_ids.dtype == mask.dtype == targets.dtype == np.int32
        is_token = targets != likelihood.IGNORED
        lengths = is_token.sum(axis=1)
        assert token_ids.shape[1] == lengths.max()  # no batch is wider than its longest sentence
        np.testing.assert_array_equal(is_token, np.arange(targets.shape[1]) < lengths[:, None])  # padding on the right
        np.testing.assert_array_equal(mask, np.arange(targets.shape[1]) <= lengths[:, None])  # the last token, too
        np.testing.assert_array_equal(token_ids[:, 1:], np.where(is_token, targets, 0)[:, :-1])  # the next tokens
        rows += [(ids[0], *target[:n]) for ids, target, n in zip(token_ids, targets, lengths, strict=True)]
    return rows


def some_rows(count=101):
    """Makes different sentences of all lengths. They have a 0, which is a token like any other."""
    rng = np.random.default_rng(4)
    lengths = [2, 15, 16, 17, 63, 64, 65, 90, *rng.integers(2, 90, count - 8)]
    return [np.array([0, *rng.integers(0, 500, length - 2), 1000 + n], np.int32) for n, length in enumerate(lengths)]


def test_a_sentence_is_its_control_token_its_text_and_an_end(tokenizer):
    corpus = [TRAIN[0], TRAIN[-1], Sentence("nyt", "1", "train", 0.0, "Oh")]
    encoded = likelihood.encode(tokenizer, corpus, 500)
    for ids, sentence in zip(encoded, corpus, strict=True):
        assert ids.dtype == np.int32
        assert tokenizer.id_to_token(int(ids[0])) == control_token(sentence.domain)
        assert ids[-1] == tokenizer.end_token_id and 0 not in ids
        assert tokenizer.detokenize([ids[1:-1].tolist()]) == [sentence.text]
    assert [sentence.domain for sentence in corpus] == ["movie", "tweet", "nyt"]


def test_a_long_sentence_is_cut_to_what_the_context_can_predict(tokenizer):
    whole = likelihood.encode(tokenizer, TRAIN[:50], 500)
    cut = likelihood.encode(tokenizer, TRAIN[:50], 20)
    assert max(map(len, whole)) > 21 > min(map(len, whole)) and max(map(len, cut)) == 21
    for ids, part in zip(whole, cut, strict=True):
        np.testing.assert_array_equal(part, ids[:21])


@pytest.mark.representatives(2)
@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("batch_size", [1, 8, 1000])
def test_every_sentence_is_in_exactly_one_batch(seed, batch_size):
    encoded = some_rows()
    dataset = likelihood.make_dataset(encoded, batch_size, seed)
    assert Counter(rows_of(dataset)) == Counter(tuple(ids.tolist()) for ids in encoded)
    assert int(dataset.cardinality()) == sum(1 for _ in dataset)
    assert max(len(targets) for _, targets in dataset) <= batch_size


def test_sentences_of_about_one_length_share_a_batch():
    for _, targets in likelihood.make_dataset(some_rows(), 8, 5):
        lengths = (targets.numpy() != likelihood.IGNORED).sum(axis=1) + 1
        assert len(set(np.searchsorted(likelihood.LENGTHS, lengths, side="right"))) == 1


def test_the_order_is_another_one_in_every_epoch_and_the_same_for_a_seed():
    first, again, other = (likelihood.make_dataset(some_rows(), 8, seed) for seed in (5, 5, 6))
    epochs = [rows_of(first), rows_of(first)]
    assert epochs[0] != epochs[1]
    assert epochs == [rows_of(again), rows_of(again)]
    assert rows_of(other) not in epochs
    unshuffled = likelihood.make_dataset(some_rows(), 8)
    assert rows_of(unshuffled) == rows_of(unshuffled)


@EVERY_KIND
def test_nats_equal_the_slow_computation(tokenizer, kind):
    corpus = TEST[:19] + [Sentence("nyt", "1", "test", 0.0, "word after word " * 20)]  # longer than the context
    model = random_model(kind, tokenizer.vocabulary_size())
    expected = slow_losses(model, tokenizer, corpus, SIZES["context_length"] if kind == "gpt2" else 10**6)
    assert expected[1] > math.log(tokenizer.vocabulary_size()) + 0.1  # worse than a uniform distribution
    np.testing.assert_allclose(likelihood.nats_per_character(model, tokenizer, corpus), expected, rtol=1e-5)


def test_nats_do_not_depend_on_the_batch_size(tokenizer):
    model = random_model("gpt2", tokenizer.vocabulary_size())
    losses = [likelihood.nats_per_character(model, tokenizer, TEST, batch_size) for batch_size in (1, 7, 64)]
    np.testing.assert_allclose(losses[1:], losses[:1] * 2, rtol=1e-5)


@pytest.mark.slow
def test_the_best_temperature_is_that_by_which_a_model_is_too_sure():
    model = random_model("gpt2", 300)
    ids = tf.constant(np.random.default_rng(2).integers(1, 300, [400, 40]), tf.int32)
    inputs = {"token_ids": ids, "padding_mask": tf.ones_like(ids)}
    for temperature in (0.9, 1.0, 1.2):
        logits = tf.reshape(model(inputs), [-1, 300]) / temperature
        targets = tf.reshape(tf.random.stateless_categorical(logits, 1, [1, 2], tf.int32), ids.shape)
        batches = tf.data.Dataset.from_tensor_slices((inputs, targets)).batch(64)
        assert likelihood.best_temperature(model, batches) == pytest.approx(temperature, abs=0.03)
