"""Acrobot-v1 as tensors: equal to gymnasium's, step by step."""

import gymnasium
import numpy as np
import tensorflow as tf

from tfppo.control.envs.classic.pendulum import wrap_angle
from tfppo.ops.random import uniform

GRAVITY = 9.8  # m/s^2
LENGTH = 1.0  # m, of each link
CENTER = 0.5  # m, from a link's upper end to its centre of mass
MASS = 1.0  # kg, of each link
INERTIA = 1.0  # kg m^2, of each link about its centre of mass
MAX_SPEEDS = (4 * np.pi, 9 * np.pi)  # rad/s, of the shoulder and the elbow
HEIGHT = 1.0  # m, of the tip above the shoulder
TIME_STEP = 0.2  # s


class Acrobot:
    """Swing the tip of two hanging links up by a torque at the elbow of -1 (0), 0 (1) or 1 (2) N m [Sutton 1996,
    "Generalization in reinforcement learning", with the dynamics of Sutton & Barto's book].

    The state is [B, 4] float32: angle of the shoulder (rad from hanging down), angle of the elbow (rad from straight),
    and their velocities (rad/s). The observation is [B, 6] float32: cosine and sine of the first, of the second, and
    the velocities. A step gives reward -1, or 0 where the tip rises above 1 m over the shoulder, which terminates the
    episode; it is truncated after 500 steps.
    """

    max_episode_steps = 500

    def __init__(self) -> None:
        bounds = np.array([1.0, 1.0, 1.0, 1.0, *MAX_SPEEDS], np.float32)
        self.observation_space = gymnasium.spaces.Box(-bounds, bounds, dtype=np.float32)
        self.action_space = gymnasium.spaces.Discrete(3)

    def reset(self, num_envs: int, seed: tf.Tensor) -> tf.Tensor:
        return uniform([num_envs, 4], seed) * 0.2 - 0.1

    def observe(self, state: tf.Tensor) -> tf.Tensor:
        angles, speeds = state[:, :2], state[:, 2:]
        turned = tf.stack([tf.cos(angles), tf.sin(angles)], axis=-1)  # [B, 2, 2]
        return tf.concat([tf.reshape(turned, [-1, 4]), speeds], axis=-1)  # [B, 6]

    def step(self, state: tf.Tensor, actions: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Runge-Kutta step of fourth order under a constant torque; then the angles are wrapped to [-pi, pi] and the
        velocities clipped."""
        del seed  # the dynamics are deterministic
        torque = tf.cast(actions, tf.float32) - 1.0
        k1 = derivative(state, torque)
        k2 = derivative(state + TIME_STEP / 2.0 * k1, torque)
        k3 = derivative(state + TIME_STEP / 2.0 * k2, torque)
        k4 = derivative(state + TIME_STEP * k3, torque)
        state = state + TIME_STEP / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
        angles = wrap_angle(state[:, :2])
        speeds = tf.clip_by_value(state[:, 2:], [-speed for speed in MAX_SPEEDS], MAX_SPEEDS)
        height = -LENGTH * (tf.cos(angles[:, 0]) + tf.cos(angles[:, 0] + angles[:, 1]))  # [B]
        terminated = height > HEIGHT
        return tf.concat([angles, speeds], axis=-1), tf.cast(terminated, tf.float32) - 1.0, terminated


def derivative(state: tf.Tensor, torque: tf.Tensor) -> tf.Tensor:
    """Equations of motion of the acrobot [Sutton & Barto 1998, "Reinforcement Learning", section 11.3].

    With p, q the angles of shoulder and elbow, m11, m12, m22 the mass matrix of the linkage, and gravity1, gravity2 the
    torques of its weight about the two joints:

        m11 p'' + m12 q'' + gravity1 - m l c (2 p' + q') q' sin(q) = 0
        m12 p'' + m22 q'' + gravity2 + m l c p'^2 sin(q) = torque

    Args:
      state: [B, 4], angles (rad) and velocities (rad/s).
      torque: [B], at the elbow (N m).

    Returns: its time derivative, [B, 4] (rad/s, rad/s^2).
    """
    shoulder, elbow, shoulder_speed, elbow_speed = tf.unstack(state, axis=-1)
    coupling = MASS * LENGTH * CENTER  # kg m^2
    m22 = MASS * CENTER**2 + INERTIA
    m12 = m22 + coupling * tf.cos(elbow)
    m11 = MASS * CENTER**2 + INERTIA + MASS * LENGTH**2 + m22 + 2.0 * coupling * tf.cos(elbow)
    whirl = coupling * tf.sin(elbow)
    gravity2 = MASS * CENTER * GRAVITY * tf.sin(shoulder + elbow)
    gravity1 = MASS * (CENTER + LENGTH) * GRAVITY * tf.sin(shoulder) + gravity2
    force1 = whirl * (2.0 * shoulder_speed + elbow_speed) * elbow_speed - gravity1
    force2 = torque - whirl * tf.square(shoulder_speed) - gravity2
    elbow_acceleration = (force2 - m12 / m11 * force1) / (m22 - tf.square(m12) / m11)
    shoulder_acceleration = (force1 - m12 * elbow_acceleration) / m11
    return tf.stack([shoulder_speed, elbow_speed, shoulder_acceleration, elbow_acceleration], axis=-1)  # [B, 4]
