"""Pendulum-v1 as tensors: equal to gymnasium's, step by step."""

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
    """Swing a rod up and hold it there, by a torque at its pivot too weak to lift it at once [the task of Doya 2000,
    "Reinforcement learning in continuous time and space", with a rod for its point mass and no friction].

    The state is [B, 2] float32: angle (rad, 0 upright, counter-clockwise) and angular velocity (rad/s). The angle is
    not wrapped, and so counts the turns. The observation is [B, 3] float32: cosine and sine of the angle, angular
    velocity. An action [B, 1] float32 is the torque in N m, clipped to +-2. An episode never terminates, and is
    truncated after 200 steps.
    """

    max_episode_steps = 200

    def __init__(self) -> None:
        bounds = np.array([1.0, 1.0, MAX_SPEED], np.float32)
        self.observation_space = gymnasium.spaces.Box(-bounds, bounds, dtype=np.float32)
        self.action_space = gymnasium.spaces.Box(-MAX_TORQUE, MAX_TORQUE, [1], np.float32)

    def reset(self, num_envs: int, seed: tf.Tensor) -> tf.Tensor:
        return (uniform([num_envs, 2], seed) * 2.0 - 1.0) * [np.pi, START_SPEED]

    def observe(self, state: tf.Tensor) -> tf.Tensor:
        angle, speed = tf.unstack(state, axis=-1)
        return tf.stack([tf.cos(angle), tf.sin(angle), speed], axis=-1)  # [B, 3]

    def step(self, state: tf.Tensor, actions: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Semi-implicit Euler step of a uniform rod, of moment of inertia m l^2 / 3 about its end:

            (m l^2 / 3) angle'' = (m g l / 2) sin(angle) + torque

        The reward is -(angle^2 + 0.1 angle'^2 + 0.001 torque^2) of the state the step starts from, its angle taken
        from the nearest upright, and of the clipped torque.
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
    """The same angle within [-pi, pi]; one that lies there already is left as it is, to the last bit."""
    return angle - 2.0 * np.pi * tf.round(angle / (2.0 * np.pi))
