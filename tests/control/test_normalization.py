"""Running statistics of observations and rewards."""

import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

from tfppo.control.normalization import Normalization, initial_moments, merge_moments
from tfppo.control.recipes import control_run
from tfppo.control.train import ControlTrainer
from tfppo.types import Trajectory

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("cuts", [[], [1], [3, 4, 50], list(range(1, 99))])
def test_merged_moments_are_those_of_everything_at_once(cuts):
    values = RNG.normal(size=[99, 2]) * [1, 100] + [1e3, -5]
    moments = initial_moments((2,))
    for part in np.split(values, cuts):
        moments = merge_moments(moments, tf.constant(part))
    assert moments.count == 99
    np.testing.assert_allclose(moments.mean, values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance, values.var(0), rtol=1e-9)


def trajectory_of(observations, rewards, ended):
    none = np.zeros_like(ended)
    return Trajectory(observations, (), (), *map(tf.constant, (rewards, ended, none, ~none)))


def test_switched_off_it_changes_nothing_and_keeps_nothing():
    normalization = Normalization()
    given = trajectory_of(tf.constant([[1.0], [2.0]]), np.float32([[3.0]]), np.array([[False]]))
    assert normalization.finish(given) is given and normalization.state == []
    assert normalization.observations(given.observations) is given.observations


def test_observations_of_a_dict():
    """Floats are normalised; choices, bytes and masks are not. The last row is left to the next trajectory."""
    space = spaces.Dict(
        speed=spaces.Box(-1, 1, [2]),
        place=spaces.Discrete(3),
        image=spaces.Box(0, 255, [40, 40, 3], np.uint8),
        action_mask=spaces.Box(0, 1, [3]),
    )
    normalization = Normalization(space, 2, observations=True)
    speeds = RNG.normal(size=[6, 2, 2]).astype(np.float32) * [5, 0.1] + [1, 2]
    raw = {
        "speed": tf.constant(speeds, tf.float32),
        "place": tf.ones([6, 2], tf.int32),
        "image": tf.ones([6, 2, 40, 40, 3], tf.uint8),
        "action_mask": tf.ones([6, 2, 3]),
    }
    rewards, ended = np.zeros([5, 2], np.float32), np.zeros([5, 2], bool)
    first = normalization.finish(trajectory_of(raw, rewards, ended))
    np.testing.assert_allclose(first.observations["speed"], np.clip(speeds, -10, 10), rtol=1e-6)  # nothing known yet
    second = normalization.finish(trajectory_of(raw, rewards, ended))
    seen = speeds[:-1].reshape(-1, 2)
    np.testing.assert_allclose(
        second.observations["speed"], (speeds - seen.mean(0)) / seen.std(0), rtol=1e-4, atol=1e-5
    )
    for key in ("place", "image", "action_mask"):
        assert second.observations[key] is raw[key]
    far = normalization.observations(raw | {"speed": tf.fill([1, 2], 1e6)})["speed"]
    np.testing.assert_array_equal(far, [[10.0, 10.0]])
    assert len(normalization.state) == 3


def test_rewards_are_divided_by_the_standard_deviation_of_the_discounted_return():
    """Against a slow loop over two trajectories in a row, with ends in both."""
    normalization = Normalization(None, 3, 0.9, rewards=True)
    running, seen = np.zeros(3), []
    for _ in range(2):
        rewards, ended = RNG.normal(size=[7, 3]).astype(np.float32) + 2, RNG.random([7, 3]) < 0.3
        for t in range(7):
            running = 0.9 * running + rewards[t]
            seen.append(running.copy())
            running[ended[t]] = 0
        scaled = normalization.finish(trajectory_of((), rewards, ended)).rewards
        np.testing.assert_allclose(scaled, rewards / np.std(seen), rtol=1e-5)  # the mean stays
    np.testing.assert_allclose(normalization.state[-1], running, rtol=1e-5)
    huge = normalization.finish(trajectory_of((), np.full([7, 3], 1e-3, np.float32), ended))
    assert np.abs(huge.rewards).max() < 10
    spike = np.zeros([7, 3], np.float32)
    spike[0, 0] = 1e6
    assert 4 < normalization.finish(trajectory_of((), spike, ended)).rewards[0, 0] <= 10


@pytest.mark.parametrize("backend", ["graph", "gymnasium"])
def test_the_policy_evaluates_what_it_acted_on(backend):
    """The stored observations are the normalised ones, and the ratio starts at 1 (statement 22)."""
    trainer = ControlTrainer(
        control_run(
            "Acrobot-v1",
            backend=backend,
            num_envs=4,
            rollout_length=16,
            total_steps=64 * 3,
            minibatch_size=64,
            num_epochs=1,
            hidden_units=(8,),
            device="cpu",
        )
    )
    for _, row in trainer.iterations():
        assert row["policy/ratio_max"] == pytest.approx(1, abs=1e-5)
        assert row["loss/kl"] == pytest.approx(0, abs=1e-9)
    count, mean = trainer.normalization.state[:2]
    assert count == 3 * 64 and np.abs(mean).max() > 0.1
    rollout = trainer.collector.collect(tf.constant(3, tf.int64))
    assert np.abs(rollout.observations).max() <= 10
    assert np.abs(np.mean(rollout.observations[..., 0])) < 5
    assert trainer.state["normalization"] is not None and len(trainer.normalization.state) == 7
    trainer.close()
