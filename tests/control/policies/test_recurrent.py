"""Recurrent policies: a whole rollout is evaluated again as it was sampled step by step (statement 24)."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

from tfppo.control.policies.heads import DiscreteHead, make_head
from tfppo.control.policies.policy import forget
from tfppo.control.policies.recurrent import RecurrentPolicy, make_recurrent
from tfppo.errors import UsageError

STEPS, BATCH = 6, 3
NUMBERS = spaces.Box(-1, 1, (4,), np.float32)
IMAGES = spaces.Box(0, 255, (36, 36, 1), np.uint8)
MASKED = spaces.Dict({"place": spaces.Discrete(5), "action_mask": spaces.MultiBinary(3)})
GSDE = make_head(spaces.Box(-1, 1, (2,), np.float32), "gsde", num_features=4, gsde_interval=1)
CASES = {
    "numbers": (NUMBERS, DiscreteHead(3)),
    "a grid": (spaces.Box(-1, 1, (2, 3), np.float32), make_head(spaces.Box(-1, 1, (2,), np.float32))),
    "images": (IMAGES, DiscreteHead(3)),
    "masked": (MASKED, DiscreteHead(3)),
    "keys of the memory": (spaces.Dict({"h": NUMBERS, "c": NUMBERS}), DiscreteHead(3)),
    "gSDE": (NUMBERS, GSDE),
}


def sampled(space):
    space.seed(0)
    samples = [[space.sample() for _ in range(BATCH)] for _ in range(STEPS)]
    if isinstance(space, spaces.Dict):
        types = {key: tf.float32 if isinstance(part, spaces.Box) else tf.int32 for key, part in space.items()}
        return {key: tf.constant([[x[key] for x in row] for row in samples], types[key]) for key in space}
    return tf.constant(np.array(samples))


@pytest.mark.representatives(2)
@pytest.mark.parametrize("case", CASES)
def test_a_review_and_an_evaluation_are_what_was_seen_step_by_step(case):
    space, head = CASES[case]
    policy = make_recurrent(space, head, lstm_units=5, hidden_units=(4,), seed=1)
    for variable in policy.trainable_variables:  # so that the outputs differ clearly
        variable.assign(variable + keras.random.normal(variable.shape, seed=3) / 3)
    observations = sampled(space)
    if case == "masked":
        observations["action_mask"] = tf.maximum(
            observations["action_mask"], [0, 1, 0]
        )  # at least one action is allowed
    mask = tf.constant(np.random.default_rng(1).random((STEPS, BATCH)) < 0.6)
    memory = first = tuple(
        tf.random.stateless_normal(x.shape, [5, n]) for n, x in enumerate(policy.initial_memory(BATCH))
    )
    seen, values, actions = [], [], []
    for time in range(STEPS):
        now = tf.nest.map_structure(lambda x, time=time: x[time], observations)
        values.append(policy._advance(now, memory)[1])
        action, distribution, memory = policy.step(now, policy.noise([BATCH], tf.constant([time, 7])), memory)
        memory = forget(memory, ~mask[time])
        seen.append(distribution)
        actions.append(action)
    actions, values = tf.stack(actions), tf.stack(values)
    reviewed, given = policy.evaluate_trajectory(observations, mask[:-1], first)
    for x, *parts in zip(tf.nest.flatten(reviewed), *map(tf.nest.flatten, seen), strict=True):
        np.testing.assert_allclose(x, tf.stack(parts), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(given, values, rtol=1e-4, atol=1e-5)
    items = policy.to_items((observations, mask, actions))  # [B, T, ...]
    for x, item in zip(*map(tf.nest.flatten, ((observations, mask, actions), items)), strict=True):
        np.testing.assert_array_equal(np.swapaxes(x, 0, 1), item)
    evaluation = policy.evaluate_actions(policy.item_inputs(*items[:2], first), items[2])
    assert policy.item_size(STEPS) == STEPS
    log_probs = tf.stack([d.log_prob(a) for d, a in zip(seen, actions, strict=True)])
    np.testing.assert_allclose(evaluation.log_probs, tf.transpose(log_probs), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(evaluation.values, tf.transpose(values), rtol=1e-4, atol=1e-5)


def test_a_model_without_a_cell_is_refused():
    inputs = [keras.Input((size,)) for size in (4, 5, 5)]
    model = keras.Model(inputs, [keras.layers.Dense(3)(inputs[0]), *inputs[1:]], name="actor")
    with pytest.raises(UsageError, match="actor has 0 layers of type keras.layers.LSTMCell; it must have exactly one"):
        RecurrentPolicy(model, model, DiscreteHead(3))
