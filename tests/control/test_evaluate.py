"""Evaluation of policies with a known score, and of episodes with known returns."""

from contextlib import closing

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tfppo.control import evaluate
from tfppo.control.evaluate import Acting, Player, describe, judge, play_episodes, summarise
from tfppo.control.policies.actor_critic import ActorCriticPolicy
from tfppo.control.policies.heads import make_head
from tfppo.control.policies.networks import make_actor, make_critic
from tfppo.control.recipes import make_control_config
from tfppo.control.trainer import ControlTrainer


def episode_returns(policy, *arguments, greedy=True, **options):
    return play_episodes(Acting(policy, greedy=greedy), *arguments, **options).returns


def both(policy):
    return Acting(policy), Acting(policy, greedy=False)


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
def test_every_environment_plays_its_share(counting_policy, stream, episodes):
    """Short episodes do not displace long ones, and no step counts for two episodes."""
    expected = []
    seed = 4 - evaluate.SEED_OFFSET % 4  # environment n is counting environment n
    for number in range(min(episodes, 4)):
        _, rewards, terminated, truncated, _ = stream(number, 30)
        ends = np.flatnonzero(terminated | truncated)
        by_episode = [part.sum() for part in np.split(rewards, ends + 1)]
        expected += by_episode[: episodes // 4 + (number < episodes % 4)] if episodes > 4 else by_episode[:1]
    returns = episode_returns(counting_policy, "Counting-v0", episodes, seed, num_envs=4)
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
    episode_returns(Remembering(), "Counting-v0", 4, 4 - evaluate.SEED_OFFSET % 4, num_envs=1)
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
    for _ in zip(range(13), Player(Acting(policy, greedy=False), environment).play(seed=1), strict=False):
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


# ----- Episodes that do not end by themselves


class Endless(gymnasium.Env):
    """An environment that ends an episode only at action 1. Each step gives reward 1."""

    observation_space = gymnasium.spaces.Box(-1, 1, [2], np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number = 0 if seed is None else seed
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 1.0, bool(action == 1), False, {}


gymnasium.register("Endless-v0", Endless, disable_env_checker=True)
gymnasium.register("Limited-v0", Endless, disable_env_checker=True, max_episode_steps=7)


def endless_policy(bias):
    """A policy that takes action 1 with probability 1 / (1 + exp(-bias)), and greedily if the bias is above 0."""
    actor = make_actor(Endless.observation_space, Endless.action_space, ())
    actor.set_weights([np.zeros([2, 2], np.float32), np.array([0, bias], np.float32)])
    return ActorCriticPolicy(actor, make_critic(Endless.observation_space, ()), make_head(Endless.action_space))


@pytest.mark.fault(
    "A policy walks in circles in an environment without a time limit",
    "The evaluation ends each episode after 10,000 steps, and says how many ended by themselves.",
)
def test_evaluation_ends_without_a_time_limit(monkeypatch):
    monkeypatch.setattr(evaluate, "MAX_STEPS", 50)
    judged = judge(*both(endless_policy(-4.0)), "Endless-v0", 12, 1, num_envs=4) | {"env": "Endless-v0", "weights": "w"}
    drawn = judged["stochastic"]
    assert (judged["mean"], judged["std"], judged["max_steps"], judged["unfinished"]) == (50.0, 0.0, 50, 12)
    assert 0 < drawn["unfinished"] < 12 and drawn["min"] < 50 == drawn["max"]
    last = describe(judged).splitlines()[-1]
    assert last.startswith(
        f"0 of 12 greedy episodes and {12 - drawn['unfinished']} of 12 episodes with sampled actions"
    )
    assert "within 50 steps (option --eval-max-steps)" in last


def test_the_limit_of_the_environment_is_kept_unless_another_is_given():
    policy = endless_policy(-30.0)
    own, shorter, longer = (judge(*both(policy), "Limited-v0", 3, 1, max_steps=steps) for steps in (None, 4, 9))
    assert (own["mean"], shorter["mean"], longer["mean"]) == (7.0, 4.0, 9.0)
    assert "unfinished" not in own and shorter["unfinished"] == 3 and longer["max_steps"] == 9


def test_an_episode_that_ends_with_the_last_step_is_finished():
    played = play_episodes(Acting(endless_policy(30.0)), "Endless-v0", 4, 1, max_steps=1)
    assert played.unfinished == 0 and played.returns.tolist() == [1.0] * 4


@pytest.mark.parametrize("env", ["CartPole-v1", "Endless-v0"])
def test_native_and_in_graph_forms_take_a_limit(env, make_policy):
    policy = linear_policy(make_policy, np.zeros([4, 2])) if env == "CartPole-v1" else endless_policy(-30.0)
    assert play_episodes(Acting(policy), env, 4, 1, max_steps=5).returns.tolist() == [5.0] * 4


@pytest.mark.parametrize(
    ("env", "vectorization", "num_envs", "wanted"),
    [
        ("Limited-v0", "auto", 2, 10),
        ("Limited-v0", "sync", 16, 16),
        ("Limited-v0", "async", 12, 12),
        ("Limited-v0", "auto", 512, 100),
        ("CartPole-v1", "auto", 2, 100),
    ],
)
def test_there_are_as_many_copies_as_suit_the_environment(env, vectorization, num_envs, wanted, monkeypatch):
    made = []

    def play(acting, env, episodes, seed, *, vectorization, num_envs, **options):
        made.append((vectorization, num_envs))
        return evaluate.Episodes(np.ones(episodes), 0)

    monkeypatch.setattr(evaluate, "play_episodes", play)
    judge(*both(endless_policy(0.0)), env, 200, 1, vectorization=vectorization, num_envs=num_envs)
    assert made == [("async" if vectorization == "async" else "auto", wanted)] * 2


def test_an_episode_that_goes_on_counts_as_a_part_of_the_progress():
    told = []
    play_episodes(Acting(endless_policy(-30.0)), "Endless-v0", 4, 1, num_envs=2, max_steps=4, progress=told.append)
    assert told == sorted(told) and told[:5] == [0.0, 0.5, 1.0, 1.5, 2.0] and told[-1] == 4


@pytest.mark.parametrize(
    ("mean", "std", "shown"),
    [
        (500.0, 0.0, "500.0 +- 0.0"),
        (-177.14, 12.3, "-177.1 +- 12.3"),
        (0.9554, 0.0123, "0.9554 +- 0.0123"),
        (12.345, 1.0, "12.35 +- 1.00"),
        (0.0, 0.0, "0.0 +- 0.0"),
        (-0.001234, 0.0002, "-0.001234 +- 0.000200"),
        (9231.17, 270.9, "9231.2 +- 270.9"),
    ],
)
def test_returns_have_four_significant_digits(mean, std, shown):
    summary = {"episodes": 2, "mean": mean, "std": std, "min": 1.0, "max": 2.0}
    text = describe(summary | {"env": "Some-v0", "weights": "w", "stochastic": summary})
    assert text.count(f"{shown}, from 1 to 2") == 2


def test_evaluation_ends_where_a_native_form_takes_no_limit():
    """Atari's native vector environment is of this kind."""

    class Native(SyncVectorEnv):
        def __init__(self, num_envs=1, render_mode=None):
            super().__init__([Endless] * num_envs, autoreset_mode=AutoresetMode.NEXT_STEP)

    gymnasium.register("NativeEndless-v0", Endless, vector_entry_point=Native, disable_env_checker=True)
    played = play_episodes(Acting(endless_policy(-30.0)), "NativeEndless-v0", 4, 1, num_envs=2, max_steps=5)
    assert played.unfinished == len(played.returns) == 2  # the second episodes of both copies never began
    assert (played.returns == 12.0).all()


def test_evaluations_of_a_policy_share_their_programs():
    config = make_control_config("CartPole-v1", num_envs=4, rollout_length=8, minibatch_size=32, total_steps=64)
    with closing(ControlTrainer(config)) as trainer:
        trainer.evaluate(episodes=4)
        counts = [acting.act.experimental_get_tracing_count() for acting in trainer._acting]
        trainer.evaluate(episodes=4, seed=2)
        assert [acting.act.experimental_get_tracing_count() for acting in trainer._acting] == counts == [1, 1]
