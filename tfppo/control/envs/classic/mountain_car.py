"""MountainCar-v0 and MountainCarContinuous-v0 as tensors: equal to gymnasium's, step by step."""

import gymnasium
import numpy as np
import tensorflow as tf

from tfppo.ops.random import uniform

# Lengths are in m, times in steps.
MIN_POSITION, MAX_POSITION = -1.2, 0.6
MAX_SPEED = 0.07
SLOPE = 0.0025  # the hills' largest deceleration
START_POSITION, START_WIDTH = -0.5, 0.2


class MountainCar:
    """Rock a car out of a valley that is too steep for its engine [Moore 1990, "Efficient memory-based learning for
    robot control"], pushing left (0), not at all (1) or right (2).

    The state is its own observation, [B, 2] float32: position (m) and velocity (m/step). Every step gives reward -1;
    an episode terminates where the car passes 0.5 m without moving back, and is truncated after 200 steps.
    """

    max_episode_steps = 200
    goal = 0.5  # m
    push = 0.001  # m/step^2

    def __init__(self) -> None:
        low, high = np.array([[MIN_POSITION, -MAX_SPEED], [MAX_POSITION, MAX_SPEED]], np.float32)
        self.observation_space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        self.action_space: gymnasium.Space = gymnasium.spaces.Discrete(3)

    def reset(self, num_envs: int, seed: tf.Tensor) -> tf.Tensor:
        position = START_POSITION + START_WIDTH * (uniform([num_envs], seed) - 0.5)
        return tf.stack([position, tf.zeros_like(position)], axis=-1)  # [B, 2]

    def observe(self, state: tf.Tensor) -> tf.Tensor:
        return state

    def step(self, state: tf.Tensor, actions: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """A step of unit time, with reward -1."""
        del seed  # the dynamics are deterministic
        state = drive(state, self.push * (tf.cast(actions, tf.float32) - 1.0))
        return state, -tf.ones_like(state[:, 0]), has_arrived(state, self.goal)


class MountainCarContinuous(MountainCar):
    """The same valley with an engine that pushes by degrees, and that costs what it burns.

    An action [B, 1] float32 is the throttle, of which +-1 has an effect; the reward is -0.1 of the square of the
    throttle asked for, beyond +-1 too, and 100 more at the goal. An episode terminates where the car passes 0.45 m
    without moving back, and is truncated after 999 steps.
    """

    max_episode_steps = 999
    goal = 0.45  # m
    push = 0.0015  # m/step^2

    def __init__(self) -> None:
        super().__init__()
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, [1], np.float32)

    def step(self, state: tf.Tensor, actions: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """A step of unit time, with reward 100 [arrived] - 0.1 throttle^2."""
        del seed  # the dynamics are deterministic
        throttle = actions[:, 0]
        state = drive(state, self.push * tf.clip_by_value(throttle, -1.0, 1.0))
        arrived = has_arrived(state, self.goal)
        return state, 100.0 * tf.cast(arrived, tf.float32) - 0.1 * tf.square(throttle), arrived


def drive(state: tf.Tensor, push: tf.Tensor) -> tf.Tensor:
    """Semi-implicit Euler step of unit time in a valley of height proportional to sin(3 position):

        velocity' = push - 0.0025 cos(3 position),  position' = velocity

    Both are clipped to their bounds; the left wall stops a car, the right one only holds it.

    Args:
      state: [B, 2], position (m) and velocity (m/step).
      push: [B], acceleration by the engine (m/step^2).

    Returns: the next state, [B, 2].
    """
    position, velocity = tf.unstack(state, axis=-1)
    velocity = tf.clip_by_value(velocity + push - SLOPE * tf.cos(3.0 * position), -MAX_SPEED, MAX_SPEED)
    position = tf.clip_by_value(position + velocity, MIN_POSITION, MAX_POSITION)
    velocity = tf.where(position <= MIN_POSITION, tf.maximum(velocity, 0.0), velocity)
    return tf.stack([position, velocity], axis=-1)  # [B, 2]


def has_arrived(state: tf.Tensor, goal: float) -> tf.Tensor:
    """Whether cars [B, 2] are at the goal (m) or beyond it and do not move back: [B] bool."""
    return (state[:, 0] >= goal) & (state[:, 1] >= 0.0)
