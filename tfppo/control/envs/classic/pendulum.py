"""Pendulum-v1 as an in-graph environment, equal to Gymnasium's in every step."""

import gymnasium
import numpy as np
import tensorflow as tf

from tfppo.ops.random import uniform

GRAVITY = 10.0  # m/s^2
MASS = 1.0  # kg
LENGTH = 1.0  # m
MAX_TORQUE = 2.0  # N m
MAX_SPEED = 8.0  # rad/s
START_SPEED = 1.0  # rad/s
TIME_STEP = 0.05  # s


class Pendulum:
    """The task of swinging a rod up and keeping it upright, by a torque that is too weak to lift it directly.

    The state is [B, 2] float32: angle (rad, 0 upright, counterclockwise) and angular velocity (rad/s). The angle is not
    wrapped, so it counts the turns. The observation is [B, 3] float32: cosine and sine of the angle, and angular
    velocity. An action [B, 1] float32 is the torque at the pivot in N m; it is clipped to [-2, 2].

    An episode never terminates; it is truncated after 200 steps.

    Source:
      The task of Doya 2000, "Reinforcement learning in continuous time and space", with a rod in place of the point
      mass and without friction.
    """

    max_episode_steps = 200

    def __init__(self) -> None:
        bounds = np.array([1.0, 1.0, MAX_SPEED], np.float32)
        self.observation_space = gymnasium.spaces.Box(-bounds, bounds, dtype=np.float32)
        self.action_space = gymnasium.spaces.Box(-MAX_TORQUE, MAX_TORQUE, [1], np.float32)

    def reset(self, num_envs: int, seed: tf.Tensor) -> tf.Tensor:
        """Draws angles uniformly from [-pi, pi] and velocities from [-1, 1]."""
        return (uniform([num_envs, 2], seed) * 2.0 - 1.0) * [np.pi, START_SPEED]

    def observe(self, state: tf.Tensor) -> tf.Tensor:
        """Computes observations [B, 3] of states [B, 2]."""
        angle, speed = tf.unstack(state, axis=-1)
        return tf.stack([tf.cos(angle), tf.sin(angle), speed], axis=-1)  # [B, 3]

    def step(self, state: tf.Tensor, actions: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Computes one semi-implicit Euler step of a uniform rod.

        Its moment of inertia about its end is m l^2 / 3. The equation of motion is::

            (m l^2 / 3) angle'' = (m g l / 2) sin(angle) + torque

        The reward is -(angle^2 + 0.1 velocity^2 + 0.001 torque^2), with the angle (wrapped to [-pi, pi]) and the
        velocity before the step, and the clipped torque.
        """
        del seed  # the dynamics are deterministic
        angle, speed = tf.unstack(state, axis=-1)
        torque = tf.clip_by_value(actions[:, 0], -MAX_TORQUE, MAX_TORQUE)
        rewards = -(tf.square(wrap_angle(angle)) + 0.1 * tf.square(speed) + 0.001 * tf.square(torque))
        inertia = MASS * LENGTH**2 / 3.0  # kg m^2
        acceleration = (MASS * GRAVITY * LENGTH / 2.0 * tf.sin(angle) + torque) / inertia
        speed = tf.clip_by_value(speed + TIME_STEP * acceleration, -MAX_SPEED, MAX_SPEED)
        state = tf.stack([angle + TIME_STEP * speed, speed], axis=-1)  # [B, 2]
        return state, rewards, tf.zeros_like(rewards, tf.bool)


def wrap_angle(angle: tf.Tensor) -> tf.Tensor:
    """Wraps angles to [-pi, pi]; angles in this interval do not change at all."""
    return angle - 2.0 * np.pi * tf.round(angle / (2.0 * np.pi))
