"""CartPole-v1 as an in-graph environment, equal to Gymnasium's in every step."""

import gymnasium
import numpy as np
import tensorflow as tf

from tfppo.ops.random import uniform

GRAVITY = 9.8  # m/s^2
CART_MASS = 1.0  # kg
POLE_MASS = 0.1  # kg
HALF_POLE_LENGTH = 0.5  # m
FORCE = 10.0  # N
TIME_STEP = 0.02  # s
POSITION_LIMIT = 2.4  # m
ANGLE_LIMIT = 12 * 2 * np.pi / 360  # rad


class CartPole:
    """The task of balancing a pole on a cart by pushing the cart left (0) or right (1).

    State and observation are the same, [B, 4] float32: position (m), velocity (m/s), angle (rad) and angular velocity
    (rad/s).

    The reward of every step is 1. An episode terminates when the position is outside +-2.4 m or the angle is outside
    +-12 degrees, and is truncated after 500 steps.

    Source: Barto, Sutton and Anderson 1983.
    """

    max_episode_steps = 500

    def __init__(self) -> None:
        bounds = np.array([2 * POSITION_LIMIT, np.inf, 2 * ANGLE_LIMIT, np.inf], np.float32)
        self.observation_space = gymnasium.spaces.Box(-bounds, bounds, dtype=np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)

    def reset(self, num_envs: int, seed: tf.Tensor) -> tf.Tensor:
        """Draws all entries of the state uniformly from [-0.05, 0.05]."""
        return uniform([num_envs, 4], seed) * 0.1 - 0.05

    def observe(self, state: tf.Tensor) -> tf.Tensor:
        """Returns the state."""
        return state

    def step(self, state: tf.Tensor, actions: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Integrates the equations of motion, without friction, by one Euler step.

        Source:
          Florian 2007, "Correct equations for the dynamics of the cart-pole system".
        """
        del seed  # the dynamics are deterministic
        position, velocity, angle, angular_velocity = tf.unstack(state, axis=-1)
        force = tf.where(actions == 1, FORCE, -FORCE)
        sine, cosine = tf.sin(angle), tf.cos(angle)
        total_mass = CART_MASS + POLE_MASS
        pushed = (force + POLE_MASS * HALF_POLE_LENGTH * tf.square(angular_velocity) * sine) / total_mass
        angular_acceleration = (GRAVITY * sine - cosine * pushed) / (
            HALF_POLE_LENGTH * (4.0 / 3.0 - POLE_MASS * tf.square(cosine) / total_mass)
        )
        acceleration = pushed - POLE_MASS * HALF_POLE_LENGTH * angular_acceleration * cosine / total_mass
        state = tf.stack(
            [
                position + TIME_STEP * velocity,
                velocity + TIME_STEP * acceleration,
                angle + TIME_STEP * angular_velocity,
                angular_velocity + TIME_STEP * angular_acceleration,
            ],
            axis=-1,
        )  # [B, 4]
        terminated = (tf.abs(state[:, 0]) > POSITION_LIMIT) | (tf.abs(state[:, 2]) > ANGLE_LIMIT)
        return state, tf.ones_like(position), terminated
