"""The actor-critic policy: acting and evaluation agree, and forbidden actions are never sampled."""

import numpy as np
import pytest
import reference
import tensorflow as tf
from gymnasium import spaces
from reference import every_mode
from support.refusal import refusal

from tfppo.control.policies.actor_critic import ActorCriticPolicy
from tfppo.control.policies.heads import make_head
from tfppo.control.policies.networks import make_actor, make_critic, make_shared

RNG = np.random.default_rng(0)
OBSERVATIONS = tf.constant(RNG.normal(size=[64, 4]), tf.float32)
SEED = tf.constant([1, 2])


def test_acting_and_evaluating_agree(make_policy):
    policy = make_policy()
    actions, distribution = policy.act(OBSERVATIONS, policy.noise([64], SEED))
    evaluation = policy.evaluate_actions(OBSERVATIONS, actions)
    np.testing.assert_array_equal(evaluation.distribution.logits, distribution.logits)
    np.testing.assert_array_equal(evaluation.log_probs, distribution.log_prob(actions))
    np.testing.assert_array_equal(evaluation.values, policy.value(OBSERVATIONS))
    assert evaluation.values.shape == evaluation.log_probs.shape == evaluation.entropies.shape == [64]


def test_evaluation_is_the_softmax_of_the_actor_and_the_output_of_the_critic(make_policy):
    policy = make_policy()
    logits = policy.actor(OBSERVATIONS).numpy().astype(float)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    actions = RNG.integers(2, size=64)
    evaluation = policy.evaluate_actions(OBSERVATIONS, tf.constant(actions, tf.int32))
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


# ----- Observations with an action mask

MASKS = RNG.random([64, 5]) < 0.4
MASKS[:, 4] = False
MASKS[:, 1] |= ~MASKS.any(axis=1)  # at least one action is allowed
ROOM = spaces.Dict(place=spaces.Discrete(4, start=1), speed=spaces.Box(-1, 1, [2]), action_mask=spaces.MultiBinary(5))
SEEN = {
    "place": tf.constant(RNG.integers(1, 5, size=64), tf.int32),
    "speed": tf.constant(RNG.normal(size=[64, 2]), tf.float32),
    "action_mask": tf.constant(MASKS, tf.int32),
}


def masked_policy(space=ROOM, shared=False):
    """A policy with a scaled output layer; action 4, which every mask forbids, has the largest logit in most rows."""
    head = make_head(spaces.Discrete(5))
    both = make_shared(space, head, (8,)) if shared else (make_actor(space, head, (8,)), make_critic(space, (8,)))
    actor, critic = both
    weights = [w * 100 if w.shape[-1] == 5 else w for w in actor.get_weights()]
    weights[-1][4] = 20.0
    actor.set_weights(weights)
    return ActorCriticPolicy(actor, critic, head)


@pytest.mark.representatives(2)
@pytest.mark.parametrize("shared", [False, True])
@every_mode
def test_forbidden_actions_are_neither_drawn_nor_greedy(compiled, shared):
    policy = masked_policy(shared=shared)

    def act(observations, noise):
        actions, distribution = policy.act(observations, noise)
        return actions, policy.greedy(observations), distribution, policy.evaluate_actions(observations, actions)

    noise = policy.noise([64], SEED)
    actions, greedy, distribution, evaluation = compiled(act)(SEEN, noise)
    rows = np.arange(64)
    assert MASKS[rows, actions].all() and MASKS[rows, greedy].all()
    assert len(set(actions.numpy())) == len(set(greedy.numpy())) == 4
    logits = policy.actor(SEEN).numpy().astype(float)
    np.testing.assert_array_equal(greedy, np.where(MASKS, logits, -np.inf).argmax(-1))
    assert (policy.actor(SEEN).numpy().argmax(-1) == 4).mean() > 0.9  # the actor does not use the mask
    for row in rows:
        keep = np.flatnonzero(MASKS[row])
        p = reference.softmax(logits[row, keep].tolist())
        log_prob = np.log(p[list(keep).index(actions[row])])
        np.testing.assert_allclose(evaluation.log_probs[row], log_prob, rtol=1e-3, atol=1e-5)
        entropy = -sum(x * np.log(x) for x in p if x > 0)
        np.testing.assert_allclose(evaluation.entropies[row], entropy, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(evaluation.log_probs, distribution.log_prob(actions), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(evaluation.values, policy.value(SEEN), rtol=1e-5, atol=1e-6)


def test_forbidden_actions_have_no_gradient():
    policy = masked_policy()
    actions, _ = policy.act(SEEN, policy.noise([64], SEED))
    bias = policy.actor.trainable_variables[-1].value
    with tf.GradientTape(persistent=True) as tape:
        evaluation = policy.evaluate_actions(SEEN, actions)
    for given in (evaluation.log_probs, evaluation.entropies):
        slope = tape.gradient(given, bias).numpy()
        assert slope[4] == 0.0 and (slope[:4] != 0).all()


def test_the_mask_is_no_feature():
    """Logits and values do not depend on the mask."""
    policy = masked_policy()
    other = SEEN | {"action_mask": 1 - SEEN["action_mask"]}
    np.testing.assert_array_equal(policy.actor(other), policy.actor(SEEN))
    np.testing.assert_array_equal(policy.value(other), policy.value(SEEN))
    assert not np.array_equal(policy.greedy(other), policy.greedy(SEEN))
    assert (policy.greedy(SEEN | {"speed": -SEEN["speed"]}) != policy.greedy(SEEN)).numpy().any()


@pytest.mark.parametrize("dtype", [tf.bool, tf.float32, tf.uint8])
def test_masks_of_any_number_type(dtype):
    policy = masked_policy()
    given = policy.distribution(SEEN | {"action_mask": tf.cast(SEEN["action_mask"], dtype)})
    np.testing.assert_array_equal(given.logits, policy.distribution(SEEN).logits)


def test_a_dict_without_a_mask_forbids_nothing():
    space = spaces.Dict({key: part for key, part in ROOM.items() if key != "action_mask"})
    policy = masked_policy(space)
    observations = {key: SEEN[key] for key in space}
    np.testing.assert_array_equal(policy.distribution(observations).logits, policy.actor(observations))
    assert (policy.greedy(observations) == 4).numpy().mean() > 0.9


def test_a_mask_that_does_not_fit_the_actions_is_refused():
    space = spaces.Dict(ROOM.spaces | {"action_mask": spaces.MultiBinary(3)})
    text = refusal(masked_policy(space).greedy, SEEN | {"action_mask": tf.ones([64, 3], tf.int32)})
    assert "(3,)" in text and "(5,)" in text
    motors = make_head(spaces.Box(-1, 1, [2]))
    policy = ActorCriticPolicy(make_actor(ROOM, motors, (8,)), make_critic(ROOM, (8,)), motors)
    assert "action_mask" in refusal(policy.greedy, SEEN)
    assert "action_mask" in refusal(policy.evaluate_actions, SEEN, tf.zeros([64, 2]))
