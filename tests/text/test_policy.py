"""The policy of text: log-probabilities, entropies and values of responses, against slow NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from reference import softmax

from tfppo.text.policy import TextPolicy, TokenInputs, response_log_probs, response_states, token_log_probs

RNG = np.random.default_rng(8)
N, P, R = 5, 6, 4
LENGTHS = np.array([3, 1, 6, 2, 4])
TOKENS = RNG.integers(2, 20, [N, P + R])
TOKENS[np.arange(P + R) >= LENGTHS[:, None] + R] = 0
RESPONSES = np.stack([row[length : length + R] for row, length in zip(TOKENS, LENGTHS, strict=True)])
INPUTS = TokenInputs(tf.constant(TOKENS, tf.int32), tf.constant(LENGTHS, tf.int32))
ACTIONS = tf.constant(RESPONSES, tf.int32)


def logits_of(model, inputs=INPUTS):
    """Computes logits [N, S, V] of whole sequences with the Keras model itself."""
    ids = inputs.token_ids
    return model.model({"token_ids": ids, "padding_mask": tf.ones_like(ids)}).numpy().astype(np.float64)


def slow_evaluation(logits, temperature):
    """Computes log-probabilities and entropies [N, R], one token at a time, from the logits one position before."""
    log_probs, entropies = np.zeros([N, R]), np.zeros([N, R])
    for n in range(N):
        for t in range(R):
            position = LENGTHS[n] + t
            p = np.array(softmax(logits[n, position - 1] / temperature))
            log_probs[n, t] = np.log(p[TOKENS[n, position]])
            entropies[n, t] = -(p * np.log(p)).sum()
    return log_probs, entropies


def set_head(policy, seed=0):
    """Gives the value head random weights, and returns them."""
    rng = np.random.default_rng(seed)
    weights = [np.float32(rng.normal(size=w.shape)) for w in policy.value_head.get_weights()]
    policy.value_head.set_weights(weights)
    return weights


def gradient(policy, loss):
    """Computes the gradient of a function of the evaluation, for each trainable variable; 0 if there is none."""
    variables = [variable.value for variable in policy.trainable_variables]
    with tf.GradientTape() as tape:
        value = loss(policy.evaluate_actions(INPUTS, ACTIONS))
    slopes = tape.gradient(value, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return [tf.convert_to_tensor(slope).numpy() for slope in slopes]


# ----- Log-probabilities and entropies


@pytest.mark.representatives(2)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_and_entropies_equal_the_slow_ones(model, temperature):
    evaluation = TextPolicy(model, temperature).evaluate_actions(INPUTS, ACTIONS)
    log_probs, entropies = slow_evaluation(logits_of(model), temperature)
    np.testing.assert_allclose(evaluation.log_probs, log_probs, atol=1e-4)
    np.testing.assert_allclose(evaluation.entropies, entropies, atol=1e-4)
    np.testing.assert_allclose(response_log_probs(model, INPUTS, ACTIONS, temperature), log_probs, atol=1e-4)
    assert np.std(log_probs) > 0.5 and np.std(entropies) > 0.05
    assert evaluation.distribution is None and evaluation.log_probs.dtype == tf.float32


def test_responses_begin_at_another_place_in_each_row(model):
    """The columns after the longest prompt are the response only in the row with that prompt."""
    expected, _ = slow_evaluation(logits_of(model), 1.0)
    every = tf.nn.log_softmax(logits_of(model)[:, :-1]).numpy()
    scores = np.take_along_axis(every, TOKENS[:, 1:, None], axis=-1)[..., 0]  # [N, S - 1] of tokens 1 ..
    columns = scores[:, P - 1 :]
    differences = np.abs(columns - expected).max(axis=1)
    np.testing.assert_allclose(columns[2], expected[2], atol=1e-4)
    assert np.delete(differences, 2).min() > 0.1


def test_states_are_those_before_each_token(model):
    hidden = model.hidden_states(INPUTS.token_ids).numpy()
    states = response_states(model, INPUTS, R)
    assert states.shape == [N, R, model.hidden_dim]
    for n in range(N):
        np.testing.assert_array_equal(states[n], hidden[n, LENGTHS[n] - 1 : LENGTHS[n] - 1 + R])


def test_log_probs_are_normalised(shared_model):
    model = shared_model("gpt2")
    single = TokenInputs(tf.repeat(INPUTS.token_ids[:1], 20, axis=0), tf.repeat(INPUTS.prompt_lengths[:1], 20))
    log_probs = response_log_probs(model, single, tf.range(20)[:, None], 0.7)
    np.testing.assert_allclose(np.exp(log_probs).sum(), 1.0, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_slopes_of_log_probs_and_entropy_equal_finite_differences(temperature):
    logits, tokens = RNG.normal(0.0, 2.0, [3, 6]), np.array([2, 0, 5])
    weights = RNG.normal(size=3)

    def slow(x):
        p = np.array([softmax(row / temperature) for row in x])
        return float(weights @ np.log(p[np.arange(3), tokens])), float(weights @ -(p * np.log(p)).sum(-1))

    for which in range(2):
        given = tf.constant(logits, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(given)
            result = token_log_probs(given, tf.constant(tokens), temperature)[which]
            total = tf.reduce_sum(result * tf.constant(weights, tf.float32))
        np.testing.assert_allclose(total, slow(logits)[which], rtol=1e-5)
        expected = np.zeros([3, 6])
        for i in np.ndindex(3, 6):
            step = np.zeros([3, 6])
            step[i] = 1e-5
            expected[i] = (slow(logits + step)[which] - slow(logits - step)[which]) / 2e-5
        np.testing.assert_allclose(tape.gradient(total, given), expected, atol=1e-5)
        assert np.abs(expected).max() > 0.05


# ----- Padding


@pytest.mark.representatives(2)
@pytest.mark.parametrize("separate_critic", [False, True])
def test_padding_behind_a_response_changes_nothing(make_model, model, separate_critic):
    policy = TextPolicy(model, 0.7, make_model("gpt2", seed=1) if separate_critic else None)
    set_head(policy)
    before = policy.evaluate_actions(INPUTS, ACTIONS)
    beyond = np.arange(P + R) >= LENGTHS[:, None] + R
    assert beyond.sum() > 10
    filled = np.where(beyond, 9, TOKENS)
    for tokens in (filled, np.pad(TOKENS, [[0, 0], [0, 5]]), np.pad(filled, [[0, 0], [0, 1]], constant_values=3)):
        after = policy.evaluate_actions(INPUTS._replace(token_ids=tf.constant(tokens, tf.int32)), ACTIONS)
        for a, b in zip(after[:3], before[:3], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


# ----- Values


def test_values_are_zero_at_first(model, make_model):
    for critic in (None, make_model("lstm", seed=1)):
        values = TextPolicy(model, critic=critic).evaluate_actions(INPUTS, ACTIONS).values
        assert values.shape == [N, R] and values.dtype == tf.float32
        np.testing.assert_array_equal(values, 0.0)


def test_values_are_linear_in_the_states_before_the_tokens(model):
    policy = TextPolicy(model)
    kernel, bias = set_head(policy)
    hidden = model.hidden_states(INPUTS.token_ids).numpy()
    expected = [[hidden[n, LENGTHS[n] + t - 1] @ kernel[:, 0] + bias[0] for t in range(R)] for n in range(N)]
    np.testing.assert_allclose(policy.evaluate_actions(INPUTS, ACTIONS).values, expected, atol=1e-4)
    assert np.std(expected) > 0.5


def test_a_value_does_not_know_the_token_that_is_drawn_from_its_state(shared_model):
    policy = TextPolicy(shared_model("gpt2"))
    set_head(policy)
    changed = TOKENS.copy()
    places = (np.arange(N), LENGTHS + 2)  # the third token of each response
    changed[places] = changed[places] % 18 + 2
    before, after = (
        policy.evaluate_actions(INPUTS._replace(token_ids=tf.constant(tokens, tf.int32)), ACTIONS).values.numpy()
        for tokens in (TOKENS, changed)
    )
    np.testing.assert_allclose(after[:, :3], before[:, :3], atol=1e-6)
    assert np.abs(after[:, 3] - before[:, 3]).min() > 1e-3


def test_a_critic_of_its_own_states_the_values_and_nothing_else(make_model):
    actor, critic = make_model("gpt2"), make_model("lstm", seed=1, width=8)
    policy = TextPolicy(actor, critic=critic)
    set_head(policy)
    alone = TextPolicy(critic)
    set_head(alone)
    evaluation = policy.evaluate_actions(INPUTS, ACTIONS)
    np.testing.assert_allclose(evaluation.values, alone.evaluate_actions(INPUTS, ACTIONS).values, atol=1e-6)
    np.testing.assert_array_equal(evaluation.log_probs, TextPolicy(actor).evaluate_actions(INPUTS, ACTIONS).log_probs)
    actors = len(actor.trainable_variables)
    slopes = gradient(policy, lambda evaluation: tf.reduce_sum(evaluation.values))
    assert all((slope == 0).all() for slope in slopes[:actors])
    assert all(np.abs(slope).max() > 0 for slope in slopes[actors:])
    slopes = gradient(policy, lambda evaluation: tf.reduce_sum(evaluation.log_probs))
    assert all((slope == 0).all() for slope in slopes[actors:])


def test_on_a_shared_trunk_values_and_words_train_the_same_variables(make_model):
    policy = TextPolicy(make_model("gpt2"))
    set_head(policy)
    words = gradient(policy, lambda evaluation: tf.reduce_sum(evaluation.log_probs))
    values = gradient(policy, lambda evaluation: tf.reduce_sum(evaluation.values))
    paths = [variable.path for variable in policy.trainable_variables]
    for path, word, value in zip(paths, words, values, strict=True):
        if "value_head" in path:
            assert (word == 0).all() and np.abs(value).max() > 0
        elif not path.endswith("key/bias"):
            assert np.abs(word).max() > 1e-4 and np.abs(value).max() > 1e-4, path


def test_trainable_variables_are_those_of_all_parts_once(make_model):
    model, critic = make_model("gpt2"), make_model("lstm")
    shared, separate = TextPolicy(model), TextPolicy(model, critic=critic)
    head = 2
    assert len(shared.trainable_variables) == len(model.model.weights) + head
    assert len(separate.trainable_variables) == len(model.model.weights) + len(critic.model.weights) + head
    for policy in (shared, separate):
        assert len({id(variable) for variable in policy.trainable_variables}) == len(policy.trainable_variables)


def test_a_policy_without_values_has_no_head_and_the_same_words(shared_model):
    model = shared_model("gpt2")
    with_head, without = TextPolicy(model, 0.7), TextPolicy(model, 0.7, has_values=False)
    assert list(without.models) == ["model"] and without.value_head is None
    assert len(without.trainable_variables) == len(model.model.weights)
    one, other = (policy.evaluate_actions(INPUTS, ACTIONS) for policy in (with_head, without))
    assert other.values is None
    for a, b in zip(one[:2], other[:2], strict=True):
        np.testing.assert_array_equal(a, b)


def test_half_precision_gives_numbers_of_full_precision(shared_model):
    half = TextPolicy(shared_model("gpt2", dtype="mixed_bfloat16"))
    full = TextPolicy(shared_model("gpt2"))
    for policy in (half, full):
        set_head(policy)
    for a, b in zip(
        half.evaluate_actions(INPUTS, ACTIONS)[:3], full.evaluate_actions(INPUTS, ACTIONS)[:3], strict=True
    ):
        assert a.dtype == tf.float32
        np.testing.assert_allclose(a, b, atol=0.2)
