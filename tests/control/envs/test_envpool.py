"""EnvPool's environments follow Gymnasium's interface; without EnvPool, a one-line error says what to do."""

import sys

import numpy as np
import pytest
import tensorflow as tf
from gymnasium.vector import AutoresetMode, VectorEnv

from tfppo import cli
from tfppo.control.envs.vector import autoreset_mode, make_vector_environment
from tfppo.control.recipes import make_control_config
from tfppo.control.rollouts.gymnasium import GymnasiumCollector
from tfppo.control.trainer import ControlTrainer
from tfppo.errors import UsageError


@pytest.fixture
def envpool():
    return pytest.importorskip("envpool", reason="EnvPool is an optional extra")


def play(environment, steps, seed, actions):
    observations = [environment.reset(seed=seed)[0]]
    records = []
    for t in range(steps):
        *result, _ = environment.step(actions(t))
        observations.append(result[0])
        records.append(result[1:])
    return np.array(observations), *map(np.array, zip(*records, strict=True))


def push(t, num_envs=3):
    return np.full(num_envs, t % 2, np.int32)


def test_without_envpool_one_line_says_what_to_install(monkeypatch, tmp_path, capfd):
    monkeypatch.setitem(sys.modules, "envpool", None)
    monkeypatch.chdir(tmp_path)
    assert (
        cli.main(["train", "control", "--env", "Pendulum-v1", "--backend", "gymnasium", "--vectorization", "envpool"])
        == 2
    )
    err = capfd.readouterr().err
    assert len(err.splitlines()) == 1 and "envpool extra" in err and "--vectorization sync" in err
    assert list(tmp_path.iterdir()) == []


def test_an_environment_that_envpool_lacks_is_refused_by_name(envpool):
    with pytest.raises(UsageError, match="env is 'Nope-v1'.*list_all_envs"):
        make_vector_environment("Nope-v1", 2, "envpool")


def test_options_go_to_envpool_and_unknown_ones_are_one_line(envpool):
    environment = make_vector_environment("CartPole-v1", 2, "envpool", max_episode_steps=5)
    records = play(environment, 6, 1, lambda t: push(t, 2))
    environment.close()
    assert np.argwhere(records[3]).tolist() == [[4, 0], [4, 1]]  # truncated in the fifth step
    with pytest.raises(UsageError, match="the constructor of CartPole-v1 raised TypeError: .*'nosuch'"):
        make_vector_environment("CartPole-v1", 2, "envpool", nosuch=3)


def test_a_reset_with_a_seed_starts_the_same_episodes(envpool, recwarn):
    environment = make_vector_environment("CartPole-v1", 3, "envpool")
    assert isinstance(environment, VectorEnv) and autoreset_mode(environment) == AutoresetMode.NEXT_STEP
    first, again, other = (play(environment, 30, seed, push)[0] for seed in (5, 5, 6))
    environment.close()
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert first.shape == (31, 3, 4) and first.dtype == np.float32
    assert [str(w.message) for w in recwarn if issubclass(w.category, UserWarning)] == []


def test_a_reset_without_a_seed_goes_on_from_the_last(envpool):
    environment = make_vector_environment("CartPole-v1", 2, "envpool")
    observations = [environment.reset()[0] for _ in range(2)]
    environment.close()
    assert (observations[0] != observations[1]).any() and np.abs(observations).max() < 0.05


def test_the_step_behind_an_end_only_starts_an_episode(envpool):
    """The last observation of an episode is the true successor.

    It is outside the bounds of CartPole; the observation after the next step is inside.
    """
    environment = make_vector_environment("CartPole-v1", 3, "envpool")
    observations, rewards, terminated, truncated = play(environment, 60, 1, lambda t: np.ones(3, np.int32))
    environment.close()
    starts = np.concatenate([np.zeros([1, 3], bool), (terminated | truncated)[:-1]])
    assert starts.sum() > 6 and not truncated.any()
    np.testing.assert_array_equal(rewards, ~starts)
    assert not (terminated & starts).any()
    assert (np.abs(observations[1:][terminated][:, 2]) > 0.2095).all()
    assert np.abs(observations[1:][starts]).max() <= 0.05


def test_a_time_limit_truncates_and_shows_the_true_successor(envpool):
    """Pendulum-v1 ends only by its limit of 200 steps; its last observation follows from the one before."""
    environment = make_vector_environment("Pendulum-v1", 2, "envpool")
    observations, rewards, terminated, truncated = play(environment, 402, 1, lambda t: np.zeros([2, 1], np.float32))
    environment.close()
    assert not terminated.any() and (np.flatnonzero(truncated[:, 0]) == [199, 400]).all()
    assert not rewards[200].any() and rewards[199].all() and rewards[201].all()
    cosine, sine, velocity = np.moveaxis(observations[199], -1, 0)
    expected = velocity + 0.05 * 15.0 * sine  # Gymnasium's dynamics without torque
    np.testing.assert_allclose(observations[200][:, 2], np.clip(expected, -8, 8), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_rollouts_are_the_same_for_the_same_seed(envpool, env):
    def rollouts():
        run = make_control_config(
            env,
            backend="gymnasium",
            vectorization="envpool",
            num_envs=3,
            rollout_length=40,
            total_steps=120,
            minibatch_size=120,
            num_epochs=1,
            device="cpu",
            compile_rollout="graph",
            compile_update="graph",
        )
        trainer = ControlTrainer(run)
        assert isinstance(trainer.collector, GymnasiumCollector)
        collected = [trainer.collector.collect(tf.constant(k, tf.int64)) for k in range(2)]
        trainer.close()
        return collected

    first, again = rollouts(), rollouts()
    for a, b in zip(tf.nest.flatten(first), tf.nest.flatten(again), strict=True):
        np.testing.assert_array_equal(a, b)
    masks = np.concatenate([r.mask for r in first])
    done = np.concatenate([r.terminated | r.truncated for r in first])
    np.testing.assert_array_equal(masks[1:], ~done[:-1])
    assert done.any() == (env == "CartPole-v1")
