"""Episode statistics, compared with a deque."""

from collections import deque

import numpy as np
import pytest
import tensorflow as tf
from reference import every_mode

from tfppo.control.rollouts.statistics import WINDOW, EpisodeStatistics
from tfppo.ppo.types import Trajectory

RNG = np.random.default_rng(2)


def make_trajectory(num_steps, num_envs, share_done):
    shape = [num_steps, num_envs]
    terminated, truncated = (RNG.random(shape) < share_done / 2 for _ in range(2))
    mask = RNG.random(shape) < 0.8
    terminated, truncated = terminated & mask, truncated & mask
    fields = dict.fromkeys(("observations", "actions", "distribution", "rewards"), tf.zeros(shape))
    return Trajectory(
        **fields,
        terminated=tf.constant(terminated),
        truncated=tf.constant(truncated),
        mask=tf.constant(mask),
        episode_returns=tf.constant(RNG.normal(size=shape).astype(np.float32)),
        episode_lengths=tf.constant(RNG.integers(1, 500, size=shape)),
        raw_observations={},
    )


@every_mode
def test_means_over_the_latest_episodes_equal_a_deque(compiled):
    statistics = EpisodeStatistics()
    update, metrics = compiled(statistics.update), compiled(statistics.metrics)
    returns_of, lengths_of = deque(maxlen=WINDOW), deque(maxlen=WINDOW)
    episodes = env_steps = 0
    for share_done in (0.0, 0.02, 0.1, 1.0, 0.0, 0.02, 0.5, 0.02):  # no episodes, few, and more than the window at once
        trajectory = make_trajectory(20, 16, share_done)
        update(trajectory)
        done = (trajectory.terminated | trajectory.truncated).numpy()
        for t, b in np.argwhere(done):  # in order of time
            returns_of.append(trajectory.episode_returns[t, b])
            lengths_of.append(trajectory.episode_lengths[t, b])
        episodes, env_steps = episodes + done.sum(), env_steps + trajectory.mask.numpy().sum()
        row = metrics()
        assert row["rollout/episodes"] == episodes and row["rollout/env_steps"] == env_steps
        if episodes:
            np.testing.assert_allclose(row["rollout/episode_return_mean"], np.mean(returns_of), rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(row["rollout/episode_length_mean"], np.mean(lengths_of), rtol=1e-5)
    assert episodes > 2 * WINDOW and len(returns_of) == WINDOW == 100


def test_means_are_nan_before_the_first_episode_has_finished():
    row = EpisodeStatistics().metrics()
    assert np.isnan(row["rollout/episode_return_mean"]) and np.isnan(row["rollout/episode_length_mean"])
    assert row["rollout/episodes"] == 0 == row["rollout/env_steps"]


@pytest.mark.parametrize("masked", [0, 3, 6])
def test_steps_that_only_start_an_episode_are_no_environment_steps(masked):
    trajectory = make_trajectory(3, 2, 0.0)._replace(mask=tf.reshape(tf.range(6) >= masked, [3, 2]))
    statistics = EpisodeStatistics()
    statistics.update(trajectory)
    assert statistics.env_steps == 6 - masked and statistics.env_steps.dtype == tf.int64
