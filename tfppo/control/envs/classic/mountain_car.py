"""MountainCar-v0 and MountainCarContinuous-v0 as in-graph environments, equal to Gymnasium's in every step."""

import gymnasium
import numpy as np
import tensorflow as tf

from tfppo.ops.random import uniform

# Lengths are in m and times in steps.
MIN_POSITION, MAX_POSITION = -1.2, 0.6
MAX_SPEED = 0.07
SLOPE = 0.0025  # m/step^2, the largest deceleration by the slope
START_POSITION, START_WIDTH = -0.5, 0.2


class MountainCar:
    """The task of driving a car out of a valley that is too steep for its engine, by swinging back and forth.

    The actions 0, 1 and 2 push the car to the left, not at all, and to the right.

    State and observation are the same, [B, 2] float32: position (m) and velocity (m/step).

    The reward of every step is -1. An episode terminates when the position is at least 0.5 m and the velocity is not
    negative, and is truncated after 200 steps.

    Source:
      Moore 1990, "Efficient memory-based learning for robot control".
    """

    max_episode_steps = 200
    goal = 0.5  # m
    push = 0.001  # m/step^2

    def __init__(self) -> None:
        low, high = np.array([[MIN_POSITION, -MAX_SPEED], [MAX_POSITION, MAX_SPEED]], np.float32)
        self.observation_space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        self.action_space: gymnasium.Space = gymnasium.spaces.Discrete(3)

    def reset(self, num_envs: int, seed: tf.Tensor) -> tf.Tensor:
        """Draws positions uniformly from [-0.6, -0.4]; velocities are 0."""
        position = START_POSITION + START_WIDTH * (uniform([num_envs], seed) - 0.5)
        return tf.stack([position, tf.zeros_like(position)], axis=-1)  # [B, 2]

    def observe(self, state: tf.Tensor) -> tf.Tensor:
        """Returns the state."""
        return state

    def step(self, state: tf.Tensor, actions: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Computes one step, with reward -1."""
        del seed  # the dynamics are deterministic
        state = drive(state, self.push * (tf.cast(actions, tf.float32) - 1.0))
        return state, -tf.ones_like(state[:, 0]), has_arrived(state, self.goal)


class MountainCarContinuous(MountainCar):
    """The task of MountainCar with a continuous force of the engine, which has a cost.

    An action [B, 1] float32 is the throttle, which is clipped to [-1, 1] before it drives the car. The reward is -0.1
    throttle^2, with the throttle before clipping, plus 100 at the goal.

    An episode terminates when the position is at least 0.45 m and the velocity is not negative, and is truncated after
    999 steps.
    """

    max_episode_steps = 999
    goal = 0.45  # m
    push = 0.0015  # m/step^2

    def __init__(self) -> None:
        super().__init__()
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, [1], np.float32)

    def step(self, state: tf.Tensor, actions: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Computes one step, with reward 100 [arrived] - 0.1 throttle^2."""
        del seed  # the dynamics are deterministic
        throttle = actions[:, 0]
        state = drive(state, self.push * tf.clip_by_value(throttle, -1.0, 1.0))
        arrived = has_arrived(state, self.goal)
        return state, 100.0 * tf.cast(arrived, tf.float32) - 0.1 * tf.square(throttle), arrived


def drive(state: tf.Tensor, push: tf.Tensor) -> tf.Tensor:
    """Computes one semi-implicit Euler step of unit time in a valley of height proportional to sin(3 position).

    The equations of motion are::

        velocity' = push - 0.0025 cos(3 position)
        position' = velocity

    Velocity and position are clipped to their bounds. A car at the left bound stops; at the right bound it keeps its
    velocity.

    Args:
      state: [B, 2], position (m) and velocity (m/step).
      push: [B], acceleration by the engine (m/step^2).

    Returns:
      The next state, [B, 2].
    """
    position, velocity = tf.unstack(state, axis=-1)
    velocity = tf.clip_by_value(velocity + push - SLOPE * tf.cos(3.0 * position), -MAX_SPEED, MAX_SPEED)
    position = tf.clip_by_value(position + velocity, MIN_POSITION, MAX_POSITION)
    velocity = tf.where(position <= MIN_POSITION, tf.maximum(velocity, 0.0), velocity)
    return tf.stack([position, velocity], axis=-1)  # [B, 2]


def has_arrived(state: tf.Tensor, goal: float) -> tf.Tensor:
    """Returns bool [B], True where the position is at least `goal` (m) and the velocity is not negative."""
    return (state[:, 0] >= goal) & (state[:, 1] >= 0.0)
