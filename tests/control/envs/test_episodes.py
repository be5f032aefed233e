"""Time limit and autoreset, compared with Gymnasium's TimeLimit."""

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from support.walk import Walk

from tfppo.control.envs.classic import CartPole
from tfppo.control.envs.episodes import Episodes, start_episodes, step_episodes

SEED = tf.constant([7, 8])


@pytest.mark.parametrize("length", [4, 5, 6])
def test_flags_at_the_time_limit_are_those_of_gymnasium(length):
    """An episode terminates one step before the limit, at the limit, and one step after it."""

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
        episodes.state["place"] *= 0.0  # the walk never reaches an end
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
        assert transition.terminated.numpy().tolist() == [False, True]  # the first environment was reset to the middle
        assert stepped.done.numpy().tolist() == [False, True]
        assert stepped.returns.numpy().tolist() == [0.0, 10.0] and stepped.lengths.numpy().tolist() == [0, 10]
        np.testing.assert_array_equal(stepped.state[0], fresh[0])
        assert np.abs(environment.observe(stepped.state)[0]).max() < 0.05
    assert not np.allclose(after[0].state[1], after[1].state[1])  # in a normal step the action has an effect
