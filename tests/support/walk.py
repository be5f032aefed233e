"""An in-graph environment for tests of episodes and trajectories."""

import gymnasium
import numpy as np
import tensorflow as tf

from tfppo.ops.random import normal, uniform


class Walk:
    """A noisy walk with a nested state. An episode terminates after `length` steps, or if the walk leaves +-1.5."""

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
