"""Every in-graph classic environment equals Gymnasium's, step by step."""

from collections.abc import Callable
from typing import NamedTuple

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from reference import every_mode

from tfppo.control.envs.classic import CLASSIC, Acrobot
from tfppo.control.envs.episodes import start_episodes, step_episodes
from tfppo.ops.random import fold_in

SEED = tf.constant([3, 4])
ANY, PLAYED = 3000, 400  # numbers of transitions from any state, and of transitions in episodes


class Case(NamedTuple):
    """Test data of an environment with D state variables."""

    starts: list  # [D] pairs: bounds of initial states
    states: list  # [D] pairs: bounds of any state
    edges: list  # [D] lists: values at which the dynamics change
    swing: Callable  # from observations to the direction in which the player pushes
    branches: Callable  # from states before, observations after and terminated to the rows that pass each branch
    tolerance: float  # rounding error in episodes; Gymnasium computes in float64
    tolerance_anywhere: float  # rounding error from any state


def car(goal):
    """Returns the case of MountainCar.

    Both variables are below 1.2 and a step is a few operations, so that float32 is accurate to 1e-7.
    """

    def branches(before, after, terminated):
        position, velocity = after.T
        stopped, held = position <= np.float32(-1.2), position >= np.float32(0.6)
        return [stopped, held, np.abs(velocity) >= 0.07, (position >= goal) & ~terminated, terminated, position < goal]

    walls, top = [(-1.2, 0.6), (-0.07, 0.07)], [[-1.2, goal, 0.6], [-0.07, 0.0, 0.07]]
    return Case([(-0.6, -0.4), (0, 0)], walls, top, lambda o: o[1], branches, 5e-7, 5e-7)


def pole_branches(before, after, terminated):
    left, fallen = np.abs(after[:, 0]) > 2.4, np.abs(after[:, 2]) > 12 * np.pi / 180
    return [left & ~fallen, fallen & ~left, ~terminated]


def acrobot_branches(before, after, terminated):
    return [np.abs(after[:, 4]) >= 12.566, np.abs(after[:, 5]) >= 28.274, terminated, ~terminated]


def pendulum_branches(before, after, terminated):
    return [np.abs(after[:, 2]) >= 8, np.abs(before[:, 0]) > np.pi, np.abs(before[:, 0]) < np.pi, ~terminated]


PI = np.pi
CASES = {
    "CartPole-v1": Case(
        [(-0.05, 0.05)] * 4,
        [(-2.45, 2.45), (-3, 3), (-0.22, 0.22), (-3, 3)],
        [[-2.4, 2.4], [0], [-PI / 15, PI / 15], [0]],
        lambda o: o[2],
        pole_branches,
        5e-7,
        5e-7,
    ),
    # If both links turn fast, a Runge-Kutta step turns them by radians, and multiplies an error by up to 9,000.
    "Acrobot-v1": Case(
        [(-0.1, 0.1)] * 4,
        [(-PI, PI), (-PI, PI), (-4 * PI, 4 * PI), (-9 * PI, 9 * PI)],
        [[-PI, 0, PI], [-PI, 0, PI], [-4 * PI, 0, 4 * PI], [-9 * PI, 0, 9 * PI]],
        lambda o: o[5],
        acrobot_branches,
        2e-6,
        4e-3,
    ),
    "MountainCar-v0": car(goal=0.5),
    "MountainCarContinuous-v0": car(goal=0.45),
    # The angle is at most 200 steps * 0.05 s * 8 rad/s = 80 rad, which float32 represents to 4e-6 rad.
    "Pendulum-v1": Case(
        [(-PI, PI), (-1, 1)],
        [(-80, 80), (-8, 8)],
        [[-3 * PI, -PI, 0, PI, 3 * PI], [-8, 0, 8]],
        lambda o: o[2],
        pendulum_branches,
        1e-5,
        1e-5,
    ),
}


class Transitions(NamedTuple):
    """N steps of Gymnasium's environment."""

    states: np.ndarray  # [N, D] float32, before the step
    actions: np.ndarray  # [N] int32 or [N, A] float32
    observations: np.ndarray  # [N, ...] float32, after the step
    rewards: np.ndarray  # [N]
    terminated: np.ndarray  # [N] bool
    tolerance: np.ndarray  # [N]


@pytest.fixture(scope="module", params=list(CLASSIC))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def ours(name):
    return CLASSIC[name]()


@pytest.fixture(scope="module")
def theirs(name):
    environment = gymnasium.make(name, disable_env_checker=True)  # the checker warns about actions out of bounds
    environment.reset(seed=0)
    return environment


@pytest.fixture(scope="module")
def transitions(name, theirs):
    """Steps from any states, then steps of episodes whose player mostly pushes in the direction of the swing."""
    case, rng = CASES[name], np.random.default_rng(1)
    rows = []
    for state, action in zip(any_states(case, rng), any_actions(theirs.action_space, rng, ANY), strict=True):
        theirs.unwrapped.state, theirs.unwrapped.steps_beyond_terminated = state.astype(float), None
        rows.append((state, action, *theirs.unwrapped.step(action)[:3], case.tolerance_anywhere))
    observation, _ = theirs.reset()
    for action in any_actions(theirs.action_space, rng, PLAYED):
        action = push(theirs.action_space, case.swing(observation)) if rng.random() < 0.8 else action
        before = np.array(theirs.unwrapped.state, np.float32)
        observation, reward, terminated, truncated, _ = theirs.step(action)
        rows.append((before, action, observation, reward, terminated, case.tolerance))
        if terminated or truncated:
            observation, _ = theirs.reset()
    return Transitions(*(np.array(column) for column in zip(*rows, strict=True)))


def any_states(case, rng):
    """Draws uniform states, with half of their variables next to an edge."""
    low, high = np.array(case.states).T
    states = rng.uniform(low, high, [ANY, len(low)])
    edges = np.stack([rng.choice(places, ANY) for places in case.edges], axis=-1)
    beside = edges + rng.uniform(-0.02, 0.02, states.shape) * (high - low)
    return np.clip(np.where(rng.random(states.shape) < 0.5, beside, states), low, high).astype(np.float32)


def any_actions(space, rng, count):
    """Draws all discrete actions; continuous actions within the bounds, at them, and beyond them."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return rng.integers(space.n, size=count, dtype=np.int32)
    scale = rng.choice([1.0, 1.0, 5.0], [count, 1])
    actions = rng.uniform(-scale, scale, [count, *space.shape])
    return (space.high * np.where(rng.random(actions.shape) < 0.1, np.sign(actions), actions)).astype(np.float32)


def push(space, direction):
    """Returns the strongest action in a direction."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return np.int32(0 if direction < 0 else space.n - 1)
    return space.high * np.float32(np.sign(direction))


def within(actual, expected, tolerance):
    """Returns whether every row is within its absolute and relative tolerance."""
    tolerance = tolerance.reshape([-1] + [1] * (expected.ndim - 1))
    excess = np.abs(actual - expected) / (tolerance * (1 + np.abs(expected)))
    assert np.shape(actual) == expected.shape and excess.max() <= 1, f"{excess.max():.3g} times the tolerance"


def test_every_environment_has_a_case():
    assert list(CASES) == list(CLASSIC)


def test_spaces_and_time_limit_are_those_of_gymnasium(name, ours, theirs):
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.max_episode_steps == gymnasium.spec(name).max_episode_steps


@every_mode
def test_steps_equal_those_of_gymnasium(compiled, ours, transitions):
    states, rewards, terminated = compiled(ours.step)(*map(tf.constant, transitions[:2]), SEED)
    assert (states.dtype, rewards.dtype, terminated.dtype) == (tf.float32, tf.float32, tf.bool)
    assert states.shape == transitions.states.shape
    observations = compiled(ours.observe)(states).numpy()
    within(observations, transitions.observations, transitions.tolerance)
    within(rewards.numpy(), transitions.rewards, 2 * transitions.tolerance)
    np.testing.assert_array_equal(terminated, transitions.terminated)
    assert (observations >= ours.observation_space.low).all() and (observations <= ours.observation_space.high).all()


def test_steps_pass_every_branch(name, transitions):
    branches = CASES[name].branches(transitions.states, transitions.observations, transitions.terminated)
    assert min(np.sum(rows) for rows in branches) >= 20, [int(np.sum(rows)) for rows in branches]
    assert transitions.terminated[ANY:].any() == (name != "Pendulum-v1")  # episodes of the player terminate, too


@every_mode
def test_episodes_start_where_those_of_gymnasium_do(compiled, name, ours, theirs):
    """Initial states are uniform within the bounds, and independent of each other."""
    states = compiled(lambda seed: ours.reset(20_000, seed))(SEED)
    np.testing.assert_allclose(
        states, ours.reset(20_000, SEED), rtol=1e-6, atol=1e-7
    )  # a fused multiply-add may differ
    low, high = np.array(CASES[name].starts, float).T
    drawn = [theirs.reset() and np.array(theirs.unwrapped.state) for _ in range(1000)]
    for starts in (states.numpy().astype(float), np.array(drawn)):
        assert starts.shape[1:] == low.shape
        places = (starts - low) / np.where(high > low, high - low, 1)
        assert places.min() > -1e-6 and places.max() < 1 + 1e-6
        error = 4 / len(starts) ** 0.5  # error of a mean, in standard deviations
        places = places[:, high > low]
        np.testing.assert_allclose(places.mean(0), 0.5, atol=error * 12**-0.5)
        np.testing.assert_allclose(places.std(0), 12**-0.5, rtol=error)
        np.testing.assert_allclose(np.atleast_2d(np.corrcoef(places.T)), np.eye(places.shape[1]), atol=error)
        np.testing.assert_array_equal(starts[:, high == low], 0)
    assert all(ours.observation_space.contains(row) for row in ours.observe(states)[:100].numpy())


def test_a_seed_fixes_the_episodes(ours, theirs):
    actions = any_actions(theirs.action_space, np.random.default_rng(3), 12 * 3)
    actions = actions.reshape([12, 3, *actions.shape[1:]])

    @tf.function
    def advance(episodes, actions, seed):
        episodes, _ = step_episodes(ours, episodes, actions, ours.reset(3, seed), seed)
        return episodes, ours.observe(episodes.state)

    def play(seed):
        episodes = start_episodes(ours, 3, seed)
        observations = [ours.observe(episodes.state)]
        for time, now in enumerate(actions):
            episodes, observation = advance(episodes, tf.constant(now), fold_in(seed, time))
            observations.append(observation)
        return tf.stack(observations), episodes  # [T + 1, B, ...]

    first, again, other = play(SEED), play(SEED), play(SEED + 1)
    for one, same in zip(tf.nest.flatten(first), tf.nest.flatten(again), strict=True):
        np.testing.assert_array_equal(one, same)
    assert np.isfinite(first[0]).all() and not np.isclose(first[0], other[0]).all(-1).any()
    assert len(np.unique(first[0][0], axis=0)) == 3  # the copies differ


def test_a_batch_equals_its_rows(ours, transitions):
    states, actions = (tf.constant(column[ANY::80]) for column in transitions[:2])
    for whole, *rows in zip(
        ours.step(states, actions, SEED),
        *(ours.step(states[i : i + 1], actions[i : i + 1], SEED) for i in range(len(states))),
        strict=True,
    ):
        np.testing.assert_allclose(tf.cast(whole, tf.float32), tf.cast(tf.concat(rows, 0), tf.float32), 1e-6, 1e-6)


def test_angles_of_the_acrobot_are_wrapped():
    """Angles of more than a turn are wrapped; angles within +-pi do not change."""
    angles = np.random.default_rng(2).uniform(-PI, PI, [2000, 2])
    speeds = np.array([[12.0, -28.0]] * 1000 + [[0.0, 0.0]] * 1000)
    states = tf.constant(np.hstack([angles, speeds]), tf.float32)
    after, _, _ = Acrobot().step(states, tf.ones([2000], tf.int32), SEED)
    assert np.abs(after[:, :2]).max() < PI + 1e-6
    moved = np.abs(after - states)[:, :2].max(1)
    assert (moved[:1000] > PI).sum() > 100 < (moved[1000:] < 1).sum()
