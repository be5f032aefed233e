"""Control is learnt by the recipes of known environments, under action masks, and where memory is needed."""

import gymnasium
import pytest
import tensorflow as tf

from tfppo.config import ControlConfig, ControlRun, PPOConfig, RunConfig
from tfppo.control.classic import CartPole
from tfppo.control.environments import register_environment
from tfppo.control.recipes import control_run
from tfppo.control.train import ControlTrainer

GOALS = {"Pendulum-v1": -200, "Acrobot-v1": -85, "MountainCar-v0": -115, "MountainCarContinuous-v0": 90}
MASKED, HALF_BLIND = "MaskedCartPole-v0", "HalfBlindCartPole-v0"


class MaskedCartPole(CartPole):
    """CartPole with four buttons: left and right by 0 and 1 while the cart is left of the middle, by 2 and 3 elsewhere.
    A button that is not allowed ends the episode."""

    def __init__(self):
        super().__init__()
        parts = {"state": self.observation_space, "action_mask": gymnasium.spaces.MultiBinary(4)}
        self.observation_space = gymnasium.spaces.Dict(parts)
        self.action_space = gymnasium.spaces.Discrete(4)

    def observe(self, state):
        return {"state": state, "action_mask": tf.cast(self._allowed(state), tf.int32)}

    def step(self, state, actions, seed):
        is_allowed = tf.gather(self._allowed(state), actions, batch_dims=1)
        state, rewards, terminated = super().step(state, actions % 2, seed)
        return state, tf.where(is_allowed, rewards, 0.0), terminated | ~is_allowed

    @staticmethod
    def _allowed(state):
        is_left = state[:, :1] < 0
        return tf.concat([is_left, is_left, ~is_left, ~is_left], axis=1)  # [B, 4]


class HalfBlindCartPole(CartPole):
    """CartPole without its velocities, which only a memory can make up for."""

    def __init__(self):
        super().__init__()
        space = self.observation_space
        self.observation_space = gymnasium.spaces.Box(space.low[::2], space.high[::2])

    def observe(self, state):
        return state[:, ::2]


register_environment(MASKED, MaskedCartPole)
register_environment(HALF_BLIND, HalfBlindCartPole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.parametrize("env", GOALS)
def test_a_recipe_reaches_its_goal(env, seed, greedy_returns):
    assert greedy_returns(ControlTrainer(control_run(env, seed=seed))).mean() >= GOALS[env]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
def test_a_task_with_forbidden_actions_is_solved_and_none_of_them_is_taken(seed, greedy_returns):
    trainer = ControlTrainer(ControlRun(RunConfig(seed=seed), ControlConfig(env=MASKED)))
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


def half_blind(seed, **control):
    control = ControlConfig(env=HALF_BLIND, total_steps=400_000, **control)
    return ControlTrainer(ControlRun(RunConfig(seed=seed), control, PPOConfig(minibatch_size=512)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
def test_a_policy_with_a_memory_does_without_velocities(seed, greedy_returns):
    assert greedy_returns(half_blind(seed, lstm_units=64)).mean() >= 400


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
def test_a_policy_without_one_does_not(seed, greedy_returns):
    assert greedy_returns(half_blind(seed)).mean() < 150
