"""Time limit, autoreset and the loop over time, against a slow loop and gymnasium's TimeLimit."""

import sys

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from reference import every_mode
from support.refusal import refusal

from tfppo.control.envs.classic import CartPole
from tfppo.control.envs.environment import (
    IN_GRAPH_ENVIRONMENTS,
    Episodes,
    collect_trajectory,
    registered_id,
    start_episodes,
    step_episodes,
)
from tfppo.control.envs.vector import InGraphVectorEnv, is_only_in_graph, make_vector_environment
from tfppo.ops.random import fold_in, normal, uniform

SEED = tf.constant([7, 8])


class Balanced(CartPole):
    """A CartPole that never falls."""

    def step(self, state, actions, seed):
        state, rewards, _ = super().step(state, actions, seed)
        return state, rewards, tf.zeros_like(rewards, tf.bool)


class Walk:
    """A noisy walk with a nested state; an episode terminates after `length` steps, or beyond 2."""

    max_episode_steps = 5
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, [2])
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, length=1000):
        self.length = length

    def reset(self, num_envs, seed):
        return {"place": uniform([num_envs, 2], seed), "clock": tf.zeros([num_envs], tf.int64)}

    def observe(self, state):
        return state["place"]

    def step(self, state, actions, seed):
        move = tf.cast(actions, tf.float32)[:, tf.newaxis] + normal(state["place"].shape, seed)
        place, clock = state["place"] + move / 4, state["clock"] + 1
        terminated = (tf.abs(place[:, 0]) > 1.5) | (clock >= self.length)
        return {"place": place, "clock": clock}, place[:, 1], terminated


def act_at_random(observations, noise, memory=()):
    return tf.argmax(noise, -1, output_type=tf.int32), observations * 2, memory


def noise_of(num_steps, num_envs):
    return normal([num_steps, num_envs, 2], fold_in(SEED, 5))


def slow_trajectory(environment, episodes, act, noise, seed):
    """The same, an environment and a step at a time; nine lists over time, and the episodes afterwards."""
    num_steps, num_envs = noise.shape[:2]
    fresh = environment.reset(num_steps * num_envs, fold_in(seed, 0))
    state, done = episodes.state, episodes.done.numpy()
    returns, lengths = episodes.returns.numpy().copy(), episodes.lengths.numpy().copy()
    columns = [[] for _ in range(9)]
    for t in range(num_steps):
        observations = environment.observe(state)
        actions, distribution, _ = act(observations, noise[t])
        stepped, rewards, fell = environment.step(state, actions, fold_in(fold_in(seed, 1), t))
        rows = {
            name: np.zeros(num_envs, dtype) for name, dtype in (("r", float), ("x", bool), ("u", bool), ("m", bool))
        }
        new = tf.nest.map_structure(lambda x: x.numpy().copy(), stepped)
        for b in range(num_envs):
            if done[b]:
                for flat, start in zip(tf.nest.flatten(new), tf.nest.flatten(fresh), strict=True):
                    flat[b] = start[t * num_envs + b]
                returns[b] = lengths[b] = 0
                done[b] = False
                continue
            returns[b] += rewards[b]
            lengths[b] += 1
            rows["r"][b], rows["x"][b], rows["m"][b] = rewards[b], fell[b], True
            rows["u"][b] = lengths[b] >= environment.max_episode_steps
            done[b] = rows["x"][b] or rows["u"][b]
        state = tf.nest.map_structure(tf.constant, new)
        record = (observations, actions, distribution, *rows.values(), returns.copy(), lengths.copy())
        for column, value in zip(columns, record, strict=True):
            column.append(np.array(value))
    return columns, state


@every_mode
def test_trajectory_equals_a_slow_loop(compiled):
    """Over two trajectories in a row, the second of which goes on where the first one ended."""
    environment, num_envs, num_steps = Walk(), 6, 24
    episodes = start_episodes(environment, num_envs, SEED)
    noise = noise_of(num_steps, num_envs)
    collect = compiled(lambda episodes, seed: collect_trajectory(environment, episodes, act_at_random, noise, seed))
    ends = 0
    for k in range(2):
        expected, state = slow_trajectory(environment, episodes, act_at_random, noise, fold_in(SEED, k))
        episodes, trajectory, totals = collect(episodes, fold_in(SEED, k))
        fields = (trajectory.actions, trajectory.distribution, trajectory.rewards)
        fields += (trajectory.terminated, trajectory.truncated, trajectory.mask)
        for actual, wanted in zip((trajectory.observations[:-1], *fields, *totals), expected, strict=True):
            np.testing.assert_allclose(actual, np.stack(wanted), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(trajectory.observations[-1], environment.observe(state), rtol=1e-4, atol=1e-4)
        assert trajectory.successors == ()
        ends += np.sum(trajectory.terminated | trajectory.truncated)
    assert ends > 3


def test_starts_are_new_in_every_step_and_place():
    """Four environments that end together every second step never start twice from the same place."""
    environment = Walk(length=1)
    episodes = start_episodes(environment, 4, SEED)
    _, trajectory, _ = collect_trajectory(environment, episodes, act_at_random, noise_of(8, 4), SEED)
    starts = trajectory.observations[::2]  # [5, 4, 2]
    assert not trajectory.mask[1::2].numpy().any() and trajectory.mask[::2].numpy().all()
    assert len(np.unique(starts)) == 5 * 4 * 2


def test_truncation_comes_after_exactly_500_steps():
    environment = Balanced()
    episodes = start_episodes(environment, 2, SEED)
    collect = tf.function(collect_trajectory, autograph=False)
    episodes, trajectory, (returns, lengths) = collect(environment, episodes, act_at_random, noise_of(503, 2), SEED)
    assert np.flatnonzero(trajectory.truncated[:, 0]).tolist() == [499]
    assert np.flatnonzero(~trajectory.mask.numpy()[:, 0]).tolist() == [500]
    assert not trajectory.terminated.numpy().any()
    assert returns[499, 0] == 500 == lengths[499, 0]
    assert returns[500, 0] == 0 == lengths[500, 0] and returns[501, 0] == 1 == lengths[501, 0]


@pytest.mark.parametrize("length", [4, 5, 6])
def test_flags_at_the_time_limit_are_those_of_gymnasium(length):
    """Terminating one step before the limit, at it, and one step after it."""

    class Clock(gymnasium.Env):
        observation_space, action_space = gymnasium.spaces.Discrete(1), gymnasium.spaces.Discrete(1)

        def reset(self, *, seed=None, options=None):
            self.clock = 0
            return 0, {}

        def step(self, action):
            self.clock += 1
            return 0, 0.0, self.clock >= length, False, {}

    theirs = gymnasium.wrappers.TimeLimit(Clock(), Walk.max_episode_steps)
    theirs.reset()
    environment = Walk(length)
    episodes = start_episodes(environment, 1, SEED)._replace(
        state={"place": tf.fill([1, 2], -1e-3), "clock": tf.zeros([1], tf.int64)}
    )
    still = tf.zeros([1], tf.int32)
    for _ in range(min(length, Walk.max_episode_steps)):
        episodes.state["place"] *= 0.0  # it never walks away
        episodes, transition = step_episodes(environment, episodes, still, environment.reset(1, SEED), SEED)
        _, _, terminated, truncated, _ = theirs.step(0)
        assert (bool(transition.terminated), bool(transition.truncated)) == (terminated, truncated)
    assert bool(episodes.done)


def test_autoreset_step_ignores_the_action_and_gives_nothing():
    environment = CartPole()
    over = tf.constant([[3.0, 1.0, 0.5, 1.0]] * 2)
    episodes = Episodes(over, tf.constant([9.0, 9.0]), tf.constant([9, 9], tf.int64), tf.constant([True, False]))
    fresh = environment.reset(2, SEED)
    after = []
    for action in (0, 1):
        stepped, transition = step_episodes(environment, episodes, tf.fill([2], action), fresh, SEED)
        after.append(stepped)
        assert transition.rewards.numpy().tolist() == [0.0, 1.0]
        assert transition.mask.numpy().tolist() == [False, True]
        assert transition.terminated.numpy().tolist() == [False, True]  # the first one is back in the middle
        assert stepped.done.numpy().tolist() == [False, True]
        assert stepped.returns.numpy().tolist() == [0.0, 10.0] and stepped.lengths.numpy().tolist() == [0, 10]
        np.testing.assert_array_equal(stepped.state[0], fresh[0])
        assert np.abs(environment.observe(stepped.state)[0]).max() < 0.05
    assert not np.allclose(after[0].state[1], after[1].state[1])  # elsewhere the action does count


MODULE = """
import gymnasium
from tfppo import register_environment
from tfppo.control.envs.classic import CartPole

register_environment("{graph}", CartPole)
gymnasium.register("{python}", "gymnasium.envs.classic_control:CartPoleEnv", max_episode_steps=9)
"""


def test_a_module_registers_environments_of_both_kinds_when_its_name_is_given(tmp_path, monkeypatch):
    """In the graph, in this process, and in processes of their own."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_worlds.py").write_text(MODULE.format(graph="OnlyGraph-v0", python="OnlyPython-v0"))
    assert "OnlyGraph-v0" not in IN_GRAPH_ENVIRONMENTS
    assert registered_id("my_worlds:OnlyGraph-v0") == "OnlyGraph-v0"
    assert IN_GRAPH_ENVIRONMENTS["OnlyGraph-v0"] is CartPole and "OnlyPython-v0" not in IN_GRAPH_ENVIRONMENTS
    assert is_only_in_graph("my_worlds:OnlyGraph-v0") and not is_only_in_graph("my_worlds:OnlyPython-v0")
    assert isinstance(make_vector_environment("my_worlds:OnlyGraph-v0", 2), InGraphVectorEnv)
    for vectorization in ("sync", "async"):
        environment = make_vector_environment("my_worlds:OnlyPython-v0", 2, vectorization)
        assert environment.reset(seed=1)[0].shape == (2, 4)
        environment.close()
    assert "cannot make environment 'my_worlds:Other-v0'" in refusal(
        make_vector_environment, "my_worlds:Other-v0", 2, "async"
    )
    del IN_GRAPH_ENVIRONMENTS["OnlyGraph-v0"], gymnasium.registry["OnlyPython-v0"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (None, "ModuleNotFoundError: No module named 'my_broken_worlds'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(1)", "SystemExit: 1"),
        ("raise ValueError", "(ValueError)"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(code, reason, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    if code:
        (tmp_path / "my_broken_worlds.py").write_text(code)
    said = refusal(registered_id, "my_broken_worlds:World-v0")
    assert said.startswith("env 'my_broken_worlds:World-v0': module my_broken_worlds cannot be imported")
    assert reason in said
