"""The loss of reward models against NumPy, and that padding changes nothing."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.families import VOCABULARY, make_family

from tfppo.text.models.reference import as_language_model
from tfppo.text.reward_model.examples import Example, lay_out
from tfppo.text.reward_model.tuner import RewardNetwork, RewardTuner, comparison_losses

SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("Llama tied", "Gemma3", "SmolLM3")]
RANDOM = np.random.default_rng(0)
TEXTS = [RANDOM.integers(3, VOCABULARY, length).astype(np.int32) for length in (3, 9, 5, 4, 7, 2)]
COMPARISONS = [Example((TEXTS[n], TEXTS[n + 1]), margin) for n, margin in ((0, 0.0), (2, 0.7), (4, 0.2))]
RATED = [Example((text,), rating) for text, rating in zip(TEXTS, [2.5, -0.2, 0.9, -3.0, 1.6, 0.0], strict=True)]


def make_tuner(family):
    model = make_family(family, **({"dropout": 0.0} if family == "GPT2" else {}))  # noise depends on the shape
    tuner = RewardTuner(RewardNetwork(model, seed=1))
    tuner.compile(optimizer=keras.optimizers.SGD(0.1), jit_compile=False)
    return tuner


@pytest.fixture(scope="module", params=["GPT2", *SLOW])
def family(request):
    return request.param


def slow_loss(scores, pairs, margins):
    """Returns the mean loss of pairs and the share of them in the right order, with a neutral text at the end."""
    scores = [*map(float, scores), 0.0]
    differences = [scores[better] - scores[worse] for better, worse in pairs]
    losses = [-np.log(1 / (1 + np.exp(-(d - m)))) for d, m in zip(differences, margins, strict=True)]
    return np.mean(losses), np.mean([d > 0 for d in differences])


def scores_of(tuner, batch):
    return tuner.network(batch.element()[0], training=False).numpy()


def padded(batch, more):
    return batch._replace(token_ids=np.pad(batch.token_ids, [(0, 0), (0, more)], constant_values=5))


def test_scores_of_a_padded_batch_are_those_of_single_texts(family):
    tuner = make_tuner(family)
    together = scores_of(tuner, lay_out(RATED, 1.0, None))
    alone = np.concatenate([scores_of(tuner, lay_out([example], 1.0, None)) for example in RATED])
    assert np.std(together) > 0.05
    np.testing.assert_allclose(together, alone, atol=2e-5)
    model, head = tuner.network.model, tuner.network.head
    tokens = tf.constant(RATED[1].texts[0][None])
    hidden = as_language_model(model).hidden_states(tokens)[0, -1]  # as rewards are computed
    np.testing.assert_allclose(together[1], head(hidden[None])[0, 0], atol=2e-5)


def test_the_loss_is_the_slow_one_for_comparisons_and_for_ratings(family):
    tuner = make_tuner(family)
    for batch in (lay_out(COMPARISONS, 1.0, None), lay_out(RATED, 0.5, 0.0)):
        found = tuner.evaluate(Batched([batch]), verbose=0, return_dict=True)
        loss, accuracy = slow_loss(scores_of(tuner, batch), batch.pairs, batch.margins)
        assert (found["loss"], found["accuracy"]) == (pytest.approx(loss, rel=1e-5), pytest.approx(accuracy))


class Batched(keras.utils.PyDataset):
    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, number):
        return self.batches[number].element()


@pytest.mark.slow
def test_a_gradient_step_is_the_same_with_more_padding(family):
    batch = lay_out(COMPARISONS, 1.0, None)
    steps = []
    for one in (batch, padded(batch, 6)):
        tuner = make_tuner(family)
        before = [weight.numpy() for weight in tuner.network.trainable_weights]
        tuner.fit(Batched([one]), verbose=0, shuffle=False)
        steps.append([now.numpy() - was for now, was in zip(tuner.network.trainable_weights, before, strict=True)])
    assert max(np.abs(change).max() for change in steps[0]) > 1e-3
    for one, other in zip(*steps, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


def test_the_mean_of_several_batches_is_over_pairs():
    tuner = make_tuner("GPT2")
    batches = [lay_out(RATED[:2], 0.5, 0.0), lay_out(RATED, 0.5, 0.0)]
    found = tuner.evaluate(Batched(batches), verbose=0, return_dict=True)
    counts = [len(batch.pairs) for batch in batches]
    losses = [slow_loss(scores_of(tuner, batch), batch.pairs, batch.margins)[0] for batch in batches]
    assert counts[0] < counts[1] and found["loss"] == pytest.approx(np.average(losses, weights=counts), rel=1e-5)


def test_a_batch_without_pairs_changes_nothing():
    tuner = make_tuner("GPT2")
    before = [weight.numpy() for weight in tuner.network.trainable_weights]
    tuner.fit(Batched([lay_out(RATED[2:3], 9.0, None)]), verbose=0)
    assert int(tuner.guard.skipped) == 0 and np.isnan(tuner.mean_loss())
    for now, was in zip(tuner.network.trainable_weights, before, strict=True):
        np.testing.assert_array_equal(now.numpy(), was)


def test_losses_at_far_scores_are_finite():
    losses = comparison_losses(np.float32([-200, 200, 0]), np.float32([0, 0, 0]), np.float32([1, 1, 1])).numpy()
    np.testing.assert_allclose(losses, [201, 0, np.log1p(np.e)], rtol=1e-6)
