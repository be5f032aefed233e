"""The actor-critic policy: acting and evaluating agree."""

import numpy as np
import tensorflow as tf

RNG = np.random.default_rng(0)
OBSERVATIONS = tf.constant(RNG.normal(size=[64, 4]), tf.float32)
SEED = tf.constant([1, 2])


def test_acting_and_evaluating_agree(make_policy):
    policy = make_policy()
    actions, distribution = policy.act(OBSERVATIONS, policy.noise([64], SEED))
    evaluation = policy.evaluate(OBSERVATIONS, actions)
    np.testing.assert_array_equal(evaluation.distribution.logits, distribution.logits)
    np.testing.assert_array_equal(evaluation.log_probs, distribution.log_prob(actions))
    np.testing.assert_array_equal(evaluation.values, policy.value(OBSERVATIONS))
    assert evaluation.values.shape == evaluation.log_probs.shape == evaluation.entropies.shape == [64]


def test_evaluation_is_the_softmax_of_the_actor_and_the_output_of_the_critic(make_policy):
    policy = make_policy()
    logits = policy.actor(OBSERVATIONS).numpy().astype(float)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    actions = RNG.integers(2, size=64)
    evaluation = policy.evaluate(OBSERVATIONS, tf.constant(actions, tf.int32))
    np.testing.assert_allclose(evaluation.log_probs, np.log(p[np.arange(64), actions]), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(evaluation.entropies, -(p * np.log(p)).sum(-1), rtol=1e-4)
    np.testing.assert_array_equal(evaluation.values, policy.critic(OBSERVATIONS)[:, 0])


def test_actions_are_as_frequent_as_they_are_probable(make_policy):
    policy = make_policy()
    one = tf.tile(OBSERVATIONS[:1], [4000, 1])
    actions, distribution = policy.act(one, policy.noise([4000], SEED))
    p = tf.nn.softmax(distribution.logits[0]).numpy()
    assert 0.02 < p[1] < 0.98
    np.testing.assert_allclose(np.mean(actions), p[1], atol=4 * (p[0] * p[1] / 4000) ** 0.5)


def test_greedy_is_the_most_probable_action(make_policy):
    policy = make_policy(num_actions=5)
    logits = policy.actor(OBSERVATIONS).numpy()
    greedy = policy.greedy(OBSERVATIONS)
    np.testing.assert_array_equal(greedy, logits.argmax(-1))
    assert len(set(greedy.numpy())) > 1
    quiet, _ = policy.act(OBSERVATIONS, tf.zeros([64, 5]))
    np.testing.assert_array_equal(quiet, greedy)


def test_noise_has_a_number_for_each_action_and_is_fixed_by_its_seed(make_policy):
    policy = make_policy(num_actions=5)
    noise = policy.noise([7, 3], SEED)
    assert noise.shape == [7, 3, 5]
    assert len(np.unique(noise)) == noise.shape.num_elements()
    np.testing.assert_array_equal(policy.noise([7, 3], SEED), noise)


def test_trainable_variables_are_those_of_both_networks(make_policy):
    policy = make_policy()
    variables = policy.trainable_variables
    assert len(variables) == 8
    assert [id(v) for v in variables] == [id(v) for m in (policy.actor, policy.critic) for v in m.trainable_variables]
