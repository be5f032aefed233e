"""Greedy evaluation: on policies whose score is known, and on episodes whose returns are known."""

import numpy as np
import pytest
import tensorflow as tf

from tfppo.control import evaluate
from tfppo.control.evaluate import episode_returns, summarise


def linear_policy(make_policy, kernel, bias=(0.0, 0.0)):
    policy = make_policy(hidden_units=())
    policy.actor.set_weights([np.array(kernel, np.float32), np.array(bias, np.float32)])
    return policy


def test_a_good_policy_scores_500_on_cartpole(make_policy):
    """It pushes to the side that the pole falls to, and a little against the cart's own motion."""
    push_right = np.array([0.1, 0.3, 3.0, 1.0])
    policy = linear_policy(make_policy, np.stack([-push_right, push_right], -1))
    returns = episode_returns(policy, "CartPole-v1", 4, seed=0)
    np.testing.assert_array_equal(returns, np.full(4, 500.0))


def test_a_constant_policy_scores_badly_on_cartpole(make_policy):
    policy = linear_policy(make_policy, np.zeros([4, 2]), bias=(0.0, 1.0))
    returns = episode_returns(policy, "CartPole-v1", 8, seed=0)
    assert returns.shape == (8,) and returns.min() >= 7 and returns.max() < 15


def test_a_seed_fixes_the_returns(make_policy):
    policy = linear_policy(make_policy, [[0, 0], [0, 0], [-1, 1], [0, 0]])
    first, again, other = (episode_returns(policy, "CartPole-v1", 6, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert episode_returns(policy, "CartPole-v1", 1, 2**31 - 1).shape == (1,)


@pytest.mark.parametrize("episodes", [3, 4, 10])
def test_every_environment_plays_its_share(counting_policy, stream, monkeypatch, episodes):
    """Four environments: short episodes do not crowd out long ones, and no step counts for two episodes."""
    monkeypatch.setattr(evaluate, "MAX_ENVS", 4)
    expected = []
    seed = 4 - evaluate.SEED_OFFSET % 4  # environment n is counting environment n
    for number in range(min(episodes, 4)):
        _, rewards, terminated, truncated, _ = stream(number, 30)
        ends = np.flatnonzero(terminated | truncated)
        by_episode = [part.sum() for part in np.split(rewards, ends + 1)]
        expected += by_episode[: episodes // 4 + (number < episodes % 4)] if episodes > 4 else by_episode[:1]
    returns = episode_returns(counting_policy, "Counting-v0", episodes, seed)
    np.testing.assert_allclose(returns, expected)
    assert len(expected) == episodes


def test_a_new_episode_is_played_without_the_memory_of_the_old_one(make_counting, monkeypatch):
    """A policy that counts the steps that it remembers, and acts by their number."""

    class Remembering:
        def initial_memory(self, num_envs):
            return tf.zeros([num_envs], tf.int32)

        def greedy_step(self, observations, memory):
            return memory, memory + 1

        def to_environment(self, actions):
            return actions

    environment = make_counting(1)
    monkeypatch.setattr(evaluate, "make_vector_environment", lambda env, num_envs, vectorization: environment)
    monkeypatch.setattr(evaluate, "MAX_ENVS", 1)
    episode_returns(Remembering(), "Counting-v0", 4, 4 - evaluate.SEED_OFFSET % 4)
    assert environment.envs[0].actions == [0, 1, 2, 0, 1, 0, 1, 2, 3, 0]


def test_progress_is_told_after_every_step(counting_policy):
    told = []
    episode_returns(counting_policy, "Counting-v0", 8, 0, progress=told.append)
    assert told == [0, 2, 4, 6, 8]  # the longest episode has four steps


def test_environments_are_closed_even_when_the_policy_fails(counting_policy, make_counting, monkeypatch):
    environment = make_counting(2)
    monkeypatch.setattr(evaluate, "make_vector_environment", lambda env, num_envs, vectorization: environment)

    def fail(observations):
        raise RuntimeError("no idea")

    monkeypatch.setattr(counting_policy, "greedy", fail)
    with pytest.raises(RuntimeError, match="no idea"):
        episode_returns(counting_policy, "Counting-v0", 2, 0)
    assert environment.closed


def test_only_the_policy_decides(make_policy):
    """Two policies that differ in their critic alone score the same."""
    kernel = [[0, 0], [0, 0], [-1, 1], [0, 0]]
    policies = [linear_policy(make_policy, kernel), linear_policy(make_policy, kernel)]
    policies[1].critic.set_weights([w + 1 for w in policies[1].critic.get_weights()])
    returns = [episode_returns(policy, "CartPole-v1", 2, 0) for policy in policies]
    np.testing.assert_array_equal(*returns)


def test_summary():
    assert summarise(np.array([1.0, 2.0, 3.0, 6.0])) == {
        "episodes": 4,
        "mean": 3.0,
        "std": 3.5**0.5,
        "min": 1.0,
        "max": 6.0,
    }
