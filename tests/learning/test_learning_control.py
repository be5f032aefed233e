"""Tests that control is learned with recipes, with action masks, from images, and in tasks that need memory."""

import pytest
import tensorflow as tf

from tfppo.control.config import ControlConfig, ControlRunConfig
from tfppo.control.recipes import make_control_config
from tfppo.control.trainer import ControlTrainer
from tfppo.ppo.config import PPOConfig
from tfppo.training.config import RunConfig

GOALS = {"Pendulum-v1": -200, "Acrobot-v1": -85, "MountainCar-v0": -115, "MountainCarContinuous-v0": 90}
MASKED, HALF_BLIND = (f"examples.cartpole_variants:{name}CartPole-v0" for name in ("Masked", "HalfBlind"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.parametrize("env", GOALS)
def test_a_recipe_reaches_its_goal(env, seed, greedy_returns):
    assert greedy_returns(ControlTrainer(make_control_config(env, seed=seed))).mean() >= GOALS[env]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
def test_a_task_with_forbidden_actions_is_solved_and_none_of_them_is_taken(seed, greedy_returns):
    trainer = ControlTrainer(ControlRunConfig(RunConfig(seed=seed), ControlConfig(env=MASKED)))
    collect, taken, forbidden = trainer.collector.collect, tf.Variable(0), tf.Variable(0)

    def watched(iteration):
        rollout = collect(iteration)
        is_allowed = tf.gather(rollout.observations["action_mask"], rollout.actions, batch_dims=2)
        taken.assign_add(tf.size(is_allowed))
        forbidden.assign_add(tf.reduce_sum(1 - is_allowed))
        return rollout

    trainer.collector.collect = watched
    returns = greedy_returns(trainer)
    control = trainer.config.control
    assert taken.numpy() == control.num_iterations * control.batch_size
    assert forbidden.numpy() == 0
    assert returns.mean() >= 475


PIXELS = {
    "env": "examples.catch_from_pixels:PixelCatch-v0",
    **{"shared_trunk": True, "hidden_units": (), "num_envs": 32, "rollout_length": 32, "total_steps": 30_000},
    **{"minibatch_size": 128, "learning_rate": 5e-4, "entropy_coeff": 0.05, "entropy_coeff_schedule": "linear"},
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
def test_a_ball_is_caught_from_its_image(seed, greedy_returns):
    assert greedy_returns(ControlTrainer(make_control_config(**PIXELS, seed=seed))).mean() >= 0.9


@pytest.mark.slow
def test_no_ball_is_caught_from_a_black_image(greedy_returns, monkeypatch):
    """The ball falls in one of twelve columns, so a paddle that ignores it has a mean return of -0.83."""
    trainer = ControlTrainer(make_control_config(**PIXELS | {"total_steps": 8192}, seed=1))
    observe = trainer.environment.observe
    monkeypatch.setattr(type(trainer.environment), "observe", lambda self, state: tf.zeros_like(observe(state)))
    assert greedy_returns(trainer).mean() < -0.5


def half_blind(seed, **control):
    control = ControlConfig(env=HALF_BLIND, total_steps=400_000, **control)
    return ControlTrainer(ControlRunConfig(RunConfig(seed=seed), control, PPOConfig(minibatch_size=512)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
def test_a_policy_with_a_memory_does_without_velocities(seed, greedy_returns):
    assert greedy_returns(half_blind(seed, lstm_units=64)).mean() >= 400


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
def test_a_policy_without_one_does_not(seed, greedy_returns):
    assert greedy_returns(half_blind(seed)).mean() < 150
