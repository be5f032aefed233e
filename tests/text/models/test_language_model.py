"""The interface of language models: whole sequences and single steps agree, and padding changes nothing."""

import numpy as np
import pytest
import tensorflow as tf

RNG = np.random.default_rng(4)
TOKENS = tf.constant(RNG.integers(2, 20, [4, 9]), tf.int32)
LENGTHS = tf.constant([5, 2, 9, 3])
IS_REAL = np.arange(9) < LENGTHS.numpy()[:, None]


def logits(model, token_ids):
    return model.logits(model.hidden_states(tf.convert_to_tensor(token_ids))).numpy()


def walk(model, token_ids, lengths):
    """Returns logits [B, S, V] of single steps, and the index of the first step; logits before it are NaN."""
    token_ids = tf.convert_to_tensor(token_ids)
    first, state = model.begin(token_ids, lengths)
    rows = [np.full([len(token_ids), model.vocabulary_size], np.nan)] * int(first)
    for index in range(int(first), token_ids.shape[1]):
        before = [x.dtype for x in state]
        row, state = model.step(token_ids[:, index], tf.constant(index), state)
        assert row.dtype == tf.float32 and [x.dtype for x in state] == before  # a loop in a graph needs this
        rows.append(row.numpy())
    return np.stack(rows, axis=1), int(first)


def test_logits_are_those_of_the_keras_model(model):
    expected = model.model({"token_ids": TOKENS, "padding_mask": tf.ones_like(TOKENS)}).numpy()
    actual = model.logits(model.hidden_states(TOKENS))
    assert actual.dtype == tf.float32 and actual.shape == [4, 9, 20]
    assert np.ptp(expected, axis=-1).min() > 1
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_sizes(model):
    assert model.vocabulary_size == 20
    assert model.hidden_dim == 16 == model.hidden_states(TOKENS).shape[-1]


@pytest.mark.parametrize(("kind", "expected"), [("gpt2", 24), ("llama", None), ("lstm", None)])
def test_the_context_is_limited_where_positions_are_learnt(shared_model, kind, expected):
    assert shared_model(kind).context_length == expected


def test_logits_of_one_vector_or_of_many(model):
    hidden = model.hidden_states(TOKENS)
    np.testing.assert_allclose(model.logits(hidden[:, 3]), model.logits(hidden)[:, 3], atol=1e-5)


def test_single_steps_equal_the_whole_sequence(model):
    steps, first = walk(model, TOKENS, LENGTHS)
    assert first in (0, 1)  # the first token, or the last token of the shortest prompt
    np.testing.assert_allclose(steps[:, first:], logits(model, TOKENS)[:, first:], atol=1e-5)


def test_what_lies_behind_the_prompts_at_the_beginning_does_not_matter(model):
    """The state is made from a buffer with other tokens after the prompts than those that follow."""
    _, state = model.begin(tf.where(IS_REAL, TOKENS, 7), LENGTHS)
    first, expected_state = model.begin(TOKENS, LENGTHS)
    for index in range(int(first), 9):
        row, state = model.step(TOKENS[:, index], tf.constant(index), state)
        expected, expected_state = model.step(TOKENS[:, index], tf.constant(index), expected_state)
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_neither_the_kind_nor_the_amount_of_padding_changes_a_real_token(model):
    padded = tf.where(IS_REAL, TOKENS, 0)
    expected = logits(model, padded)[IS_REAL]
    assert np.abs(logits(model, TOKENS) - logits(model, padded))[~IS_REAL].max() > 0.1
    np.testing.assert_allclose(logits(model, TOKENS)[IS_REAL], expected, atol=1e-5)
    wider = tf.pad(padded, [[0, 0], [0, 6]])
    np.testing.assert_allclose(logits(model, wider)[:, :9][IS_REAL], expected, atol=1e-5)
    alone = [logits(model, TOKENS[n : n + 1, :length])[0] for n, length in enumerate(LENGTHS.numpy())]
    np.testing.assert_allclose(np.concatenate(alone), expected, atol=1e-5)


def test_every_real_token_matters_to_those_behind_it_and_to_no_other(model):
    changed = TOKENS.numpy()
    changed[:, 4] = changed[:, 4] % 18 + 2
    assert (changed[:, 4] != TOKENS.numpy()[:, 4]).all()
    difference = np.abs(logits(model, changed) - logits(model, TOKENS)).max(axis=-1)
    assert difference[:, :4].max() < 1e-6 and difference[:, 4:].min() > 1e-3


@pytest.mark.representatives(2)
def test_dropout_is_off(model, make_model, request):
    """With the same weights, a model with a dropout rate gives the same logits as one without."""
    kind = request.node.callspec.params["model"]
    calm = make_model(kind, dropout=0.0)
    assert getattr(model.model, "backbone", model.model).dropout == 0.3
    np.testing.assert_allclose(logits(model, TOKENS), logits(calm, TOKENS), atol=1e-6)
    steps, first = walk(model, TOKENS, LENGTHS)
    np.testing.assert_allclose(steps[:, first:], walk(calm, TOKENS, LENGTHS)[0][:, first:], atol=1e-6)


def test_every_variable_gets_a_gradient(model):
    variables = [variable.value for variable in model.trainable_variables]
    assert len(variables) == len(model.model.weights)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.nn.log_softmax(model.logits(model.hidden_states(TOKENS)))[..., 5])
    for variable, slope in zip(model.trainable_variables, tape.gradient(loss, variables), strict=True):
        size = float(tf.linalg.global_norm([tf.convert_to_tensor(slope)]))
        assert size > 1e-4 or variable.path.endswith("key/bias"), variable.path  # a shift does not change the softmax


@pytest.mark.parametrize("kind", ["gpt2", "llama", "lstm"])
def test_half_precision_ends_in_logits_of_full_precision(shared_model, kind):
    half, full = shared_model(kind, dtype="mixed_bfloat16"), shared_model(kind)
    assert half.hidden_states(TOKENS).dtype == tf.bfloat16 != full.hidden_states(TOKENS).dtype
    steps, first = walk(half, TOKENS, LENGTHS)
    whole = half.logits(half.hidden_states(TOKENS))
    assert whole.dtype == tf.float32
    scale = np.abs(whole).max()
    np.testing.assert_allclose(steps[:, first:], whole[:, first:], atol=0.01 * scale)
    np.testing.assert_allclose(whole, logits(full, TOKENS), atol=0.05 * scale)
