"""The faster GPT-2 against KerasHub: the forward pass of the backbone, and `call_with_cache`."""

import numpy as np
import pytest
import tensorflow as tf

from tfppo.text.models.adapters import add_adapters
from tfppo.text.models.gpt2 import GPT2LanguageModel
from tfppo.text.models.language_model import CachedLanguageModel
from tfppo.text.rollouts.sampling import StopCondition, gumbel_noise, sample

TOKENS = tf.constant(np.random.default_rng(4).integers(2, 20, [4, 9]), tf.int32)
LENGTHS = tf.constant([5, 2, 7, 3])


@pytest.fixture
def fast(shared_model):
    model = shared_model("gpt2")
    assert type(model) is GPT2LanguageModel
    return model


@pytest.fixture
def slow(fast):
    """The same Keras model, computed by KerasHub."""
    return CachedLanguageModel(fast.model)


def test_hidden_states_are_the_backbones(fast):
    inputs = {"token_ids": TOKENS, "padding_mask": tf.ones_like(TOKENS)}
    expected = fast.model.backbone(inputs, training=False)
    assert np.std(expected) > 0.5
    np.testing.assert_allclose(fast.hidden_states(TOKENS), expected, atol=1e-5)


def test_gradients_are_the_backbones(fast, slow):
    variables = [variable.value for variable in fast.trainable_variables]
    slopes = []
    for model in (fast, slow):
        with tf.GradientTape() as tape:
            hidden = model.hidden_states(TOKENS)
            loss = tf.reduce_sum(model.logits(hidden) * tf.cos(tf.range(20.0))) + tf.reduce_sum(hidden**3)
        slopes.append([tf.convert_to_tensor(slope) for slope in tape.gradient(loss, variables)])
    scale = float(tf.linalg.global_norm(slopes[1]))
    assert scale > 1
    for variable, a, b in zip(fast.trainable_variables, *slopes, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * scale, err_msg=variable.path)


def test_steps_are_those_of_call_with_cache(fast, slow):
    first, state = fast.begin(TOKENS, LENGTHS)
    slow_first, slow_state = slow.begin(TOKENS, LENGTHS)
    assert first == slow_first == 1
    for index in range(1, 9):
        row, state = fast.step(TOKENS[:, index], tf.constant(index), state)
        expected, slow_state = slow.step(TOKENS[:, index], tf.constant(index), slow_state)
        assert row.dtype == expected.dtype == tf.float32 and row.shape == [4, 20]
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_the_cache_holds_kerashubs_keys_and_values(fast, slow):
    """KerasHub's cache is [B, L, 2, S, H, D / H]; here keys and values of a layer are [B, H, S, D / H] each."""
    _, state = fast.begin(TOKENS, LENGTHS)
    _, (cache,) = slow.begin(TOKENS, LENGTHS)
    expected = np.transpose(cache, [1, 2, 0, 4, 3, 5]).reshape(4, 4, 4, 9, 4)
    np.testing.assert_allclose(np.stack(state), expected, atol=1e-5)
    assert np.std(expected) > 0.5


def test_a_step_writes_one_row_of_the_cache(fast):
    _, state = fast.begin(TOKENS, LENGTHS)
    _, after = fast.step(TOKENS[:, 0], tf.constant(6), state)
    for before, now in zip(state, after, strict=True):
        changed = np.abs(now - before).max(axis=(0, 1, 3)) > 1e-3
        assert changed.tolist() == [index == 6 for index in range(9)]


def test_the_same_tokens_are_drawn_on_both_paths(fast, slow, prompts):
    noise = gumbel_noise(tf.constant([1, 2]), prompts[0].shape[0], fast.vocabulary_size)
    samples = [sample(model, *prompts, 8, noise, stop_condition=StopCondition(1)) for model in (fast, slow)]
    np.testing.assert_array_equal(samples[0].token_ids, samples[1].token_ids)
    np.testing.assert_allclose(samples[0].log_probs, samples[1].log_probs, atol=1e-5)


@pytest.mark.parametrize("rank", [0, 2])
def test_half_precision_is_that_of_kerashub(make_model, rank):
    """In half precision, its error is at most twice that of KerasHub. New adapters change nothing."""
    full, half = make_model("gpt2"), make_model("gpt2", dtype="mixed_bfloat16")
    if rank:
        add_adapters(half.model, rank)
    expected = full.hidden_states(TOKENS)
    fast, slow = half.hidden_states(TOKENS), CachedLanguageModel(half.model).hidden_states(TOKENS)
    assert fast.dtype == slow.dtype == tf.bfloat16
    errors = [np.sqrt(np.mean((tf.cast(hidden, tf.float32) - expected) ** 2)) for hidden in (fast, slow)]
    assert 1e-4 < errors[0] < 2 * errors[1] < 0.1
    assert half.logits(fast).dtype == tf.float32
