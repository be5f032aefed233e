"""CartPole-v1 is learnt: greedy policies on gymnasium's own environment, several seeds."""

import pytest

from tfppo.config import ControlConfig, ControlRun, PPOConfig, RunConfig
from tfppo.control.evaluate import episode_returns
from tfppo.control.train import ControlTrainer


def greedy_mean(config: ControlRun) -> float:
    trainer = ControlTrainer(config)
    for _ in trainer.iterations():
        pass
    trainer.close()
    return episode_returns(trainer.policy, config.control.env, 100, config.run.seed).mean()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_the_default_recipe_solves_cartpole(seed):
    assert greedy_mean(ControlRun(RunConfig(seed=seed))) >= 475


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
def test_gymnasiums_own_environment_is_solved_by_the_same_code(seed):
    assert greedy_mean(ControlRun(RunConfig(seed=seed), ControlConfig(backend="gymnasium"))) >= 475


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
def test_the_zoo_recipe_solves_cartpole(seed):
    """stable-baselines3's rl-zoo settings: greedy 500 by 20k steps, here within their 100k."""
    control = ControlConfig(num_envs=8, rollout_length=32, total_steps=100_000)
    ppo = PPOConfig(
        learning_rate=1e-3,
        clip_ratio_schedule="linear",
        gamma=0.98,
        gae_lambda=0.8,
        entropy_coeff=0.0,
        value_coeff=1.0,
        num_epochs=20,
        minibatch_size=256,
    )
    assert greedy_mean(ControlRun(RunConfig(seed=seed), control, ppo)) >= 475


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
def test_the_penalty_variant_solves_cartpole(seed):
    """KL(old || new) with an adaptive coefficient in place of the clip (Schulman et al. 2017, eq. 8)."""
    ppo = PPOConfig(clip_ratio=1e6, kl_coeff=1.0, kl_rule="schulman", kl_target=0.01)
    assert greedy_mean(ControlRun(RunConfig(seed=seed), ppo=ppo)) >= 475
