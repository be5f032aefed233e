"""CartPole as tensors against gymnasium's."""

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from reference import every_mode

from tfppo.control.cartpole import CartPole

SEED = tf.constant([3, 4])


@pytest.fixture(scope="module")
def theirs():
    environment = gymnasium.make("CartPole-v1")
    environment.reset(seed=0)
    return environment.unwrapped


@every_mode
def test_ten_thousand_random_transitions_equal_those_of_gymnasium(compiled, theirs):
    rng = np.random.default_rng(1)
    states = rng.uniform(-1, 1, [10_000, 4]) * [2.45, 3.0, 0.22, 3.0]  # some of them leave the limits
    states = states.astype(np.float32)
    actions = rng.integers(2, size=10_000).astype(np.int32)
    expected = []
    for state, action in zip(states, actions, strict=True):
        theirs.state, theirs.steps_beyond_terminated = state, None
        observation, reward, terminated, _, _ = theirs.step(action)
        expected.append((observation, reward, terminated))
    state, rewards, terminated = compiled(CartPole().step)(tf.constant(states), tf.constant(actions), SEED)
    expected_states, expected_rewards, expected_terminated = map(np.array, zip(*expected, strict=True))
    np.testing.assert_allclose(state, expected_states, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(rewards, expected_rewards)
    np.testing.assert_array_equal(terminated, expected_terminated)
    assert 500 < expected_terminated.sum() < 9_500
    left, angle = np.abs(expected_states[:, 0]) > 2.4, np.abs(expected_states[:, 2]) > 12 * np.pi / 180
    assert (left & ~angle).sum() > 50 < (angle & ~left).sum()  # each limit ended some


def test_spaces_and_time_limit_are_those_of_gymnasium(theirs):
    environment = CartPole()
    assert environment.observation_space == theirs.observation_space
    assert environment.action_space == theirs.action_space
    assert environment.max_episode_steps == gymnasium.spec("CartPole-v1").max_episode_steps == 500


def test_episodes_start_near_zero_like_those_of_gymnasium():
    """Uniform in +-0.05 in every coordinate, and independent of each other."""
    states = CartPole().reset(20_000, SEED).numpy()
    assert states.shape == (20_000, 4) and np.abs(states).max() < 0.05
    np.testing.assert_allclose(states.mean(0), 0, atol=0.001)
    np.testing.assert_allclose(states.std(0), 0.1 / 12**0.5, rtol=0.02)
    np.testing.assert_allclose(np.corrcoef(states.T), np.eye(4), atol=0.03)


def test_a_seed_fixes_the_starts():
    environment = CartPole()
    np.testing.assert_array_equal(environment.reset(5, SEED), environment.reset(5, SEED))
    assert not np.allclose(environment.reset(5, SEED), environment.reset(5, SEED + 1))


def test_a_state_is_its_own_observation():
    environment = CartPole()
    state = environment.reset(5, SEED)
    np.testing.assert_array_equal(environment.observe(state), state)
    assert all(environment.observation_space.contains(row) for row in state.numpy())
