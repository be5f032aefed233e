"""Evaluation of policies with a known score, and of episodes with known returns."""

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tfppo.control import evaluate
from tfppo.control.evaluate import Player, episode_returns, summarise
from tfppo.control.policies.actor_critic import ActorCriticPolicy
from tfppo.control.policies.heads import make_head
from tfppo.control.policies.networks import make_actor, make_critic


def linear_policy(make_policy, kernel, bias=(0.0, 0.0)):
    policy = make_policy(hidden_units=())
    policy.actor.set_weights([np.array(kernel, np.float32), np.array(bias, np.float32)])
    return policy


def test_a_good_policy_scores_500_on_cartpole(make_policy):
    """The policy pushes to the side to which the pole falls, and a little against the motion of the cart."""
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
    """Short episodes do not displace long ones, and no step counts for two episodes."""
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
    """The policy counts the steps in its memory, and acts by this number."""

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


@pytest.mark.parametrize("interval", [1, 3])
def test_noise_that_stays_for_some_steps_in_training_stays_in_evaluation(interval, monkeypatch):
    """The noise of gSDE, at a constant state, for more steps than one draw covers."""
    monkeypatch.setattr(evaluate, "NOISE_STEPS", 6)

    class Unmoved(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (3,))
        action_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))

        def __init__(self):
            self.actions = []

        def reset(self, seed=None, options=None):
            return np.full(3, 0.5, np.float32), {}

        def step(self, action):
            self.actions.append(action)
            return np.full(3, 0.5, np.float32), 0.0, False, False, {}

    head = make_head(Unmoved.action_space, "gsde", 4, interval)
    policy = ActorCriticPolicy(
        make_actor(Unmoved.observation_space, head, (4,)), make_critic(Unmoved.observation_space, (4,)), head
    )
    environment = SyncVectorEnv([Unmoved] * 2, autoreset_mode=AutoresetMode.NEXT_STEP)
    for _ in zip(range(13), Player(policy, environment, greedy=False).play(seed=1), strict=False):
        pass
    for copy in environment.envs:  # each has different noise
        actions = np.array(copy.actions)  # [12, 2]
        blocks = actions.reshape(12 // interval, interval, 2)
        np.testing.assert_array_equal(blocks, np.repeat(blocks[:, :1], interval, axis=1))
        assert len(np.unique(actions[:, 0])) == 12 // interval
    assert (np.array(environment.envs[0].actions) != environment.envs[1].actions).all()


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
    """Two policies that differ only in their critic have the same score."""
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
