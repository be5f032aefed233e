"""Rollouts of in-graph environments: distributions, states of the environments, and inputs of the learner."""

import numpy as np
import pytest
import reference
import tensorflow as tf

from tfppo.control.envs.classic import CartPole
from tfppo.control.envs.episodes import fresh_states, start_episodes
from tfppo.control.rollouts.batches import make_rollout, revalue, to_batch
from tfppo.control.rollouts.graph import GraphCollector
from tfppo.control.rollouts.normalization import Normalization
from tfppo.control.rollouts.trajectory import collect_trajectory
from tfppo.ops.random import fold_in, normal

NUM_ENVS, LENGTH = 3, 40


@pytest.fixture
def make_collector(make_policy):
    def make_collector(mode="graph", seed=0, length=LENGTH):
        return GraphCollector(make_policy(), CartPole(), NUM_ENVS, length, seed=seed, mode=mode)

    return make_collector


def collect(collector, count, start=0):
    return [collector.collect(tf.constant(k, tf.int64)) for k in range(start, start + count)]


def flat(x):
    return tf.reshape(x, [-1, *x.shape[2:]])


def test_log_probs_and_values_are_what_the_policy_says(make_collector):
    collector = make_collector()
    for rollout in collect(collector, 2):
        evaluation = collector.policy.evaluate_actions(flat(rollout.observations), flat(rollout.actions))
        np.testing.assert_allclose(flat(rollout.log_probs), evaluation.log_probs, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(flat(rollout.values), evaluation.values, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(flat(rollout.distribution.logits), evaluation.distribution.logits, 1e-5, 1e-6)


def test_successors_are_the_next_observations_and_nothing_is_reset_between_rollouts(make_collector):
    """The environment's step leads from each observation to the next one, also from one rollout to the next."""
    collector = make_collector()
    rollouts = collect(collector, 3)

    def join(name):
        return np.concatenate([getattr(rollout, name) for rollout in rollouts])  # [3 T, B, ...]

    observations, mask, last = join("observations"), join("mask"), 3 * LENGTH - 1
    step = CartPole().step(flat(observations[:-1]), flat(join("actions")[:-1]), tf.constant([0, 0]))
    expected, _, terminated = (np.reshape(x, [last, NUM_ENVS, *x.shape[1:]]) for x in step)
    counts = mask[:-1]
    np.testing.assert_allclose(observations[1:][counts], expected[counts], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(join("terminated")[:-1], terminated & counts)
    values = np.reshape(collector.policy.value(flat(observations[1:])), [last, NUM_ENVS])
    np.testing.assert_allclose(join("next_values")[:-1], values, rtol=1e-4, atol=1e-5)
    assert np.abs(observations[1:][~counts]).max() < 0.05
    assert mask[LENGTH - 1].any() and mask[2 * LENGTH - 1].any() and (~mask).sum() > 3


def test_counts_go_on_from_rollout_to_rollout(make_collector):
    collector = make_collector()
    env_steps = episodes = 0
    for rollout in collect(collector, 3):
        env_steps += np.sum(rollout.mask)
        episodes += np.sum(rollout.terminated | rollout.truncated)
        assert rollout.metrics["rollout/env_steps"] == env_steps
        assert rollout.metrics["rollout/episodes"] == episodes
        assert rollout.rewards.numpy().sum() == rollout.mask.numpy().sum()
    assert collector.statistics.env_steps == env_steps < 3 * NUM_ENVS * LENGTH and episodes > 3
    mean = rollout.metrics["rollout/episode_return_mean"]
    assert 5 < mean < 60 and mean == rollout.metrics["rollout/episode_length_mean"]


def test_eager_graph_and_xla_collect_the_same(make_collector):
    expected = collect(make_collector("eager", length=12), 2)
    assert not expected[1].mask.numpy().all()
    for mode in ("graph", "xla"):
        for rollout, wanted in zip(collect(make_collector(mode, length=12), 2), expected, strict=True):
            tf.nest.assert_same_structure(rollout, wanted)
            for a, b in zip(tf.nest.flatten(rollout), tf.nest.flatten(wanted), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_iteration_and_seed_fix_the_noise(make_collector):
    first, again, other = (collect(make_collector("eager", seed, length=4), 2) for seed in (1, 1, 2))
    for a, b in zip(tf.nest.flatten(first), tf.nest.flatten(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first[0].actions != other[0].actions).numpy().any()
    assert not np.allclose(first[0].observations[0], other[0].observations[0])
    noise = [x.actions.numpy().tobytes() for x in first]
    assert noise[0] != noise[1]


def test_state_that_is_put_back_goes_on_the_same_way(make_collector):
    collector = make_collector()
    collect(collector, 1)
    saved = [variable.numpy() for variable in collector.state]
    (expected,) = collect(collector, 1, start=1)
    for variable, value in zip(collector.state, saved, strict=True):
        variable.assign(value)
    (again,) = collect(collector, 1, start=1)
    for a, b in zip(tf.nest.flatten(again), tf.nest.flatten(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_successors_of_the_trajectory_go_before_the_next_observations(make_policy):
    """If an environment resets in the same step, the value of the true successor is used."""
    policy = make_policy()
    episodes = start_episodes(CartPole(), 2, tf.constant([1, 1]))
    noise, fresh = policy.noise([5, 2], tf.constant([2, 2])), fresh_states(CartPole(), 5, 2, tf.constant([3, 3]))
    _, _, trajectory = collect_trajectory(
        CartPole(), policy, Normalization(), episodes, (), noise, fresh, tf.constant([3, 3])
    )
    without = make_rollout(policy, trajectory, {})
    successors = trajectory.observations[1:] + 1.0
    rollout = make_rollout(policy, trajectory._replace(successors=successors), {})
    np.testing.assert_allclose(flat(rollout.next_values), policy.value(flat(successors)), rtol=1e-5)
    np.testing.assert_allclose(without.next_values[:-1], without.values[1:], rtol=1e-5)
    assert np.abs(rollout.next_values - without.next_values).min() > 1e-3


@pytest.mark.parametrize("apart", [False, True], ids=["successors are next", "successors apart"])
def test_a_rollout_is_valued_anew(make_collector, apart):
    collector = make_collector()
    (rollout,) = collect(collector, 1)
    policy = collector.policy
    if apart:
        rollout = rollout._replace(successors=rollout.observations + 1.0)
    for weights in policy.critic.trainable_variables:
        weights.assign(weights + 0.3)
    anew = revalue(policy, rollout)
    successors = rollout.successors if apart else rollout.all_observations[1:]
    np.testing.assert_allclose(flat(anew.values), policy.value(flat(rollout.observations)), rtol=1e-5)
    np.testing.assert_allclose(flat(anew.next_values), policy.value(flat(successors)), rtol=1e-5)
    assert np.abs(anew.values - rollout.values).min() > 1e-3
    for name in set(rollout._fields) - {"values", "next_values"}:
        for a, b in zip(*(tf.nest.flatten(getattr(x, name)) for x in (anew, rollout)), strict=True):
            np.testing.assert_array_equal(a, b)


def test_batch_has_the_advantages_of_the_slow_loop_and_time_before_environments(make_collector):
    collector = make_collector()
    (rollout,) = collect(collector, 1)
    shape = [LENGTH, NUM_ENVS]
    rollout = rollout._replace(rewards=normal(shape, fold_in([1, 2], 0)), next_values=normal(shape, fold_in([1, 2], 1)))
    batch = to_batch(collector.policy, rollout, 0.9, 0.8)
    arrays = [np.array(getattr(rollout, n), float) for n in ("rewards", "values", "next_values")]
    arrays += [rollout.terminated.numpy(), rollout.truncated.numpy(), 0.9, 0.8]
    advantages, returns = reference.for_each_column(reference.generalized_advantage_estimation, *arrays)
    np.testing.assert_allclose(batch.advantages, advantages.reshape(-1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(batch.returns, returns.reshape(-1), rtol=1e-4, atol=1e-5)
    for item, (t, b) in enumerate(np.ndindex(LENGTH, NUM_ENVS)):
        np.testing.assert_array_equal(batch.inputs[item], rollout.observations[t, b])
        np.testing.assert_array_equal(batch.old_distribution.logits[item], rollout.distribution.logits[t, b])
        row = [batch.actions, batch.old_log_probs, batch.old_values, batch.mask]
        source = [rollout.actions, rollout.log_probs, rollout.values, rollout.mask]
        assert [x[item].numpy() for x in row] == [x[t, b].numpy() for x in source]
    assert batch.reference_log_probs is None
