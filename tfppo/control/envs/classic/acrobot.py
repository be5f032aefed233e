"""Acrobot-v1 as an in-graph environment, equal to Gymnasium's in every step."""

import gymnasium
import numpy as np
import tensorflow as tf

from tfppo.control.envs.classic.pendulum import wrap_angle
from tfppo.ops.random import uniform

GRAVITY = 9.8  # m/s^2
LENGTH = 1.0  # m, of each link
CENTER = 0.5  # m, from a link's upper end to its center of mass
MASS = 1.0  # kg, of each link
INERTIA = 1.0  # kg m^2, of each link about its center of mass
MAX_SPEEDS = (4 * np.pi, 9 * np.pi)  # rad/s, of the shoulder and the elbow
HEIGHT = 1.0  # m, of the free end above the shoulder
TIME_STEP = 0.2  # s


class Acrobot:
    """The task of swinging the free end of two hanging links up, by a torque at the joint between them.

    The actions 0, 1 and 2 are torques of -1, 0 and 1 N m at this joint, the elbow.

    The state is [B, 4] float32: the angle of the shoulder (rad, 0 hanging down), the angle of the elbow (rad, 0
    straight), and both angular velocities (rad/s). The observation is [B, 6] float32: cosine and sine of the first
    angle, cosine and sine of the second angle, and both angular velocities.

    An episode terminates when the free end is more than 1 m above the shoulder, and is truncated after 500 steps. The
    reward of a step is 0 if it terminates the episode, -1 otherwise.

    Source:
      Sutton 1996, "Generalization in reinforcement learning", with the dynamics of Sutton and Barto 1998,
      "Reinforcement Learning".
    """

    max_episode_steps = 500

    def __init__(self) -> None:
        bounds = np.array([1.0, 1.0, 1.0, 1.0, *MAX_SPEEDS], np.float32)
        self.observation_space = gymnasium.spaces.Box(-bounds, bounds, dtype=np.float32)
        self.action_space = gymnasium.spaces.Discrete(3)

    def reset(self, num_envs: int, seed: tf.Tensor) -> tf.Tensor:
        """Draws all angles and velocities uniformly from [-0.1, 0.1]."""
        return uniform([num_envs, 4], seed) * 0.2 - 0.1

    def observe(self, state: tf.Tensor) -> tf.Tensor:
        """Computes observations [B, 6] of states [B, 4]."""
        angles, speeds = state[:, :2], state[:, 2:]
        turned = tf.stack([tf.cos(angles), tf.sin(angles)], axis=-1)  # [B, 2, 2]
        return tf.concat([tf.reshape(turned, [-1, 4]), speeds], axis=-1)  # [B, 6]

    def step(self, state: tf.Tensor, actions: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Integrates the equations of motion by one Runge-Kutta step of order 4, with constant torque.

        Then the angles are wrapped to [-pi, pi], and the velocities are clipped.
        """
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
    """Computes the equations of motion of the acrobot.

    p and q are the angles of the shoulder and the elbow, and m, l and c are mass, length and center of mass of a link.
    m11, m12 and m22 are the mass matrix of the links, and gravity1 and gravity2 the torques of gravity at the joints::

        m11 p'' + m12 q'' + gravity1 - m l c (2 p' + q') q' sin(q) = 0
        m12 p'' + m22 q'' + gravity2 + m l c p'^2 sin(q) = torque

    Args:
      state: [B, 4], angles (rad) and angular velocities (rad/s).
      torque: [B], at the elbow (N m).

    Returns:
      The time derivative of the state, [B, 4] (rad/s, rad/s^2).

    Source:
      Sutton and Barto 1998, "Reinforcement Learning", section 11.3.
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
