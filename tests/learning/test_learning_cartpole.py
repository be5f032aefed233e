"""CartPole-v1 is learnt: greedy policies on gymnasium's own environment, several seeds."""

import pytest

from tfppo.control.config import ControlConfig, ControlRunConfig
from tfppo.control.recipes import make_control_config
from tfppo.control.trainer import ControlTrainer
from tfppo.ppo.config import PPOConfig
from tfppo.training.config import RunConfig


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_the_default_recipe_solves_cartpole(seed, greedy_returns):
    assert greedy_returns(ControlTrainer(ControlRunConfig(RunConfig(seed=seed)))).mean() >= 475


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
def test_gymnasiums_own_environment_is_solved_by_the_same_code(seed, greedy_returns):
    trainer = ControlTrainer(ControlRunConfig(RunConfig(seed=seed), ControlConfig(backend="gymnasium")))
    assert greedy_returns(trainer).mean() >= 475


@pytest.mark.slow
def test_the_zoo_recipe_solves_cartpole(greedy_returns):
    """stable-baselines3's rl-zoo settings: greedy 500 by 20k steps, here within their 100k. One run in twenty ends
    lower: its learning rate has fallen to 0 behind a setback."""
    means = [
        greedy_returns(ControlTrainer(make_control_config("CartPole-v1", seed=seed))).mean() for seed in range(1, 6)
    ]
    assert sorted(means)[1] >= 475


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
def test_the_penalty_variant_solves_cartpole(seed, greedy_returns):
    """KL(old || new) with an adaptive coefficient in place of the clip (Schulman et al. 2017, eq. 8)."""
    ppo = PPOConfig(clip_ratio=1e6, kl_coeff=1.0, kl_controller="schulman", adaptive_kl_target=0.01)
    assert greedy_returns(ControlTrainer(ControlRunConfig(RunConfig(seed=seed), ppo=ppo))).mean() >= 475
