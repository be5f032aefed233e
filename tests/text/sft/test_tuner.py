"""The loss of supervised fine-tuning against NumPy, on a model whose logits are a table."""

import keras
import numpy as np
import pytest

from text.conftest import BigramModel
from tfppo.text.models import vocabulary
from tfppo.text.sft.network import TrainingNetwork
from tfppo.text.sft.tuner import SFTTuner, perplexity

TABLE = np.random.default_rng(0).normal(size=[5, 5]).astype(np.float32)
BATCHES = [  # token ids, targets and weights; one token counts in the first, three in the second
    ([[1, 2, 3]], [[2, 3, 4]], [[0.0, 0.0, 1.0]]),
    ([[4, 1], [3, 2]], [[1, 0], [0, 3]], [[1.0, 1.0], [0.0, 1.0]]),
]


@pytest.fixture(params=["at once", "in chunks"], autouse=True)
def logits(request, monkeypatch):
    """Computes the logits of a batch at once, or those of each position."""
    if request.param == "in chunks":
        monkeypatch.setattr(vocabulary, "MAX_LOGITS", 5)


def make_tuner(table=TABLE):
    inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in ("token_ids", "padding_mask")}
    layer = keras.layers.Embedding(5, 5)
    states = keras.Model(inputs, layer(inputs["token_ids"]))
    tuner = SFTTuner(TrainingNetwork(BigramModel(table), states))  # its states are the logits
    layer.set_weights([table])
    tuner.compile(optimizer=keras.optimizers.SGD(1.0))
    return tuner


def data(number):
    ids, targets, weights = BATCHES[number]
    inputs = {"token_ids": np.int32(ids), "padding_mask": np.ones_like(ids, np.int32)}
    return inputs, np.int32(targets), np.float32(weights)


def take_step(tuner, number):
    inputs, targets, weights = data(number)
    tuner.fit(inputs, targets, sample_weight=weights, batch_size=len(targets), verbose=0)


def slow_losses(table, number):
    """Returns the loss of each counted token, and whether it had the highest logit."""
    ids, targets, weights = BATCHES[number]
    losses, hits = [], []
    for row, next_row, counted in zip(ids, targets, weights, strict=True):
        for token, target, weight in zip(row, next_row, counted, strict=True):
            if weight:
                logits = table[token].astype(float)
                losses.append(np.log(np.exp(logits).sum()) - logits[target])
                hits.append(logits.argmax() == target)
    return losses, hits


def test_the_mean_is_over_tokens_and_not_over_batches():
    tuner = make_tuner()

    class Both(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, number):
            return data(number)

    found = tuner.evaluate(Both(), verbose=0, return_dict=True)
    (first, first_hits), (second, second_hits) = slow_losses(TABLE, 0), slow_losses(TABLE, 1)
    assert (len(first), len(second)) == (1, 3)
    assert found["loss"] == pytest.approx(np.mean(first + second), rel=1e-6)
    assert found["accuracy"] == pytest.approx(np.mean(first_hits + second_hits))


def test_a_step_follows_the_gradient_of_the_mean_over_the_counted_tokens():
    tuner = make_tuner()
    take_step(tuner, 1)
    expected = TABLE.astype(float)
    for token, target in ((4, 1), (1, 0), (2, 3)):  # the tokens that count in the second batch
        softmax = np.exp(TABLE[token]) / np.exp(TABLE[token]).sum()
        expected[token] -= (softmax - np.eye(5)[target]) / 3
    np.testing.assert_allclose(tuner.network.get_weights()[0], expected, rtol=1e-5)
    assert tuner.mean_loss() == pytest.approx(np.mean(slow_losses(TABLE, 1)[0]), rel=1e-6)  # before the step


@pytest.mark.representatives(1)
def test_a_step_that_is_not_finite_changes_nothing():
    table = TABLE.copy()
    table[4, 0] = np.inf
    tuner = make_tuner(table)
    take_step(tuner, 1)
    np.testing.assert_array_equal(tuner.network.get_weights()[0], table)
    assert int(tuner.guard.skipped) == 1 and np.isnan(tuner.mean_loss())
    assert int(tuner.optimizer.iterations) == 0
    take_step(tuner, 0)  # it counts neither token 4 nor its logits
    assert int(tuner.guard.in_a_row) == 0 and int(tuner.optimizer.iterations) == 1


def test_perplexity():
    assert perplexity(np.log(8.0)) == pytest.approx(8.0) and perplexity(1e9) == np.inf
