"""Catch with image observations (bsuite; Osband et al. 2020).

A ball falls through a grid, and a paddle at the bottom must catch it. The environment draws its images in the graph,
and the policy reads them with NatureCNN. The command that trains it::

    tfppo train control --env examples.catch_from_pixels:PixelCatch-v0 --shared-trunk True --hidden-units \
        --num-envs 32 --rollout-length 32 --minibatch-size 128 --learning-rate 5e-4 --total-steps 30000 \
        --entropy-coeff 0.05 --entropy-coeff-schedule linear

With a smaller entropy bonus, some seeds never learn to catch the ball in one of the twelve columns, which lowers the
mean return by one sixth.
"""

import gymnasium
import numpy as np
import tensorflow as tf

from tfppo import register_environment
from tfppo.ops.random import uniform

ROWS, COLUMNS, CELL = 12, 12, 7  # images of 84 x 84 pixels, the usual size for Atari


class PixelCatch:
    """An environment whose episodes last ROWS - 1 steps and end with reward 1 or -1.

    The state is int32 [B, 3]: the row and the column of the ball, and the column of the paddle. The actions 0, 1 and 2
    are left, stay and right.
    """

    observation_space = gymnasium.spaces.Box(0, 255, (ROWS * CELL, COLUMNS * CELL, 1), np.uint8)
    action_space = gymnasium.spaces.Discrete(3)
    max_episode_steps = ROWS

    def reset(self, num_envs, seed):
        column = tf.cast(uniform([num_envs], seed) * COLUMNS, tf.int32)
        return tf.stack([tf.zeros_like(column), column, tf.fill([num_envs], COLUMNS // 2)], axis=-1)

    def observe(self, state):
        row, column, paddle = tf.unstack(state[:, :, None, None], axis=1)  # [B, 1, 1] each
        rows, columns = tf.range(ROWS)[:, None], tf.range(COLUMNS)[None, :]
        is_lit = ((rows == row) & (columns == column)) | (
            (rows == ROWS - 1) & (columns == paddle)
        )  # [B, ROWS, COLUMNS]
        pixels = tf.repeat(tf.repeat(tf.where(is_lit, 255, 0), CELL, axis=1), CELL, axis=2)
        return tf.cast(pixels[..., None], tf.uint8)

    def step(self, state, actions, seed):
        row, column, paddle = tf.unstack(state, axis=-1)
        row, paddle = row + 1, tf.clip_by_value(paddle + actions - 1, 0, COLUMNS - 1)
        terminated = row == ROWS - 1
        rewards = tf.where(terminated, tf.where(paddle == column, 1.0, -1.0), 0.0)
        return tf.stack([row, column, paddle], axis=-1), rewards, terminated


register_environment("PixelCatch-v0", PixelCatch)
