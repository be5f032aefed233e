"""Tuned settings for known environments: what `tfppo train control --env ID` uses where nothing else is said. No
TensorFlow here, so that the command line can answer at once.

Rows named after rl-zoo are those of rl-baselines3-zoo (hyperparams/ppo.yml) in our terms: what a row there does not
name is stable-baselines3's default, and its vf_coef is half our value_coeff, for its value loss lacks the 1/2.
"""

from tfppo.control.config import ControlRunConfig
from tfppo.settings import with_settings

SB3: dict[str, object] = {  # stable-baselines3's defaults
    "learning_rate": 3e-4,
    "learning_rate_schedule": "constant",
    "minibatch_size": 64,
    "num_epochs": 10,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "value_coeff": 1.0,
    "entropy_coeff": 0.0,
}
NORMALIZED: dict[str, object] = {"normalize_observations": True, "normalize_rewards": True}
MUJOCO = (
    SB3
    | NORMALIZED
    | {  # CleanRL, ppo_continuous_action.py
        "num_envs": 1,
        "rollout_length": 2048,
        "total_steps": 1_000_000,
        "learning_rate_schedule": "linear",
        "value_coeff": 0.5,
        "value_clip": 0.2,
        "eval_episodes": 10,
    }
)
RECIPES: dict[str, dict[str, object]] = {
    "CartPole-v1": SB3  # rl-zoo
    | {
        "num_envs": 8,
        "rollout_length": 32,
        "total_steps": 100_000,
        "minibatch_size": 256,
        "num_epochs": 20,
        "learning_rate": 1e-3,
        "learning_rate_schedule": "linear",
        "clip_ratio_schedule": "linear",
        "gamma": 0.98,
        "gae_lambda": 0.8,
    },
    "Acrobot-v1": SB3  # rl-zoo
    | NORMALIZED
    | {"num_envs": 16, "rollout_length": 256, "total_steps": 1_000_000, "num_epochs": 4, "gae_lambda": 0.94},
    "Pendulum-v1": SB3  # rl-zoo, with a learning rate that falls to 0
    | {
        "num_envs": 4,
        "rollout_length": 1024,
        "total_steps": 100_000,
        "learning_rate": 1e-3,
        "learning_rate_schedule": "linear",
        "gamma": 0.9,
        "box_policy": "gsde",
        "gsde_interval": 4,
    },
    "MountainCar-v0": SB3  # our own: rl-zoo's rollouts of 16 steps are a small part of an episode, and leave some seeds
    # with a swing too many (-117); these are as long as an episode, and the learning rate is larger but falls to 0
    | NORMALIZED
    | {
        "num_envs": 16,
        "rollout_length": 128,
        "total_steps": 1_000_000,
        "minibatch_size": 256,
        "learning_rate": 1e-3,
        "learning_rate_schedule": "linear",
        "gae_lambda": 0.98,
    },
    "MountainCarContinuous-v0": SB3  # our own: noise that stays for a whole rollout climbs the hill by chance; noise of
    # the usual size 1 saturates the motor, and one seed of five went on full throttle for good, at a return of 88
    | NORMALIZED
    | {
        "num_envs": 16,
        "rollout_length": 256,
        "total_steps": 200_000,
        "minibatch_size": 256,
        "learning_rate_schedule": "linear",
        "gamma": 0.9999,
        "box_policy": "gsde",
        "gsde_interval": 0,
        "log_std_init": -1.0,
        "value_coeff": 0.5,
    },
    "LunarLander-v3": SB3  # rl-zoo, of LunarLander-v2, with an entropy bonus that falls to 0: actions that are drawn
    # then land as well as greedy ones (before: 206 against 251)
    | {
        "num_envs": 16,
        "rollout_length": 1024,
        "total_steps": 1_000_000,
        "num_epochs": 4,
        "gamma": 0.999,
        "gae_lambda": 0.98,
        "entropy_coeff": 0.01,
        "entropy_coeff_schedule": "linear",
    },
    "HalfCheetah-v5": MUJOCO,
    "Hopper-v5": MUJOCO,
}


def make_control_config(env: str = "CartPole-v1", **settings: object) -> ControlRunConfig:
    """Makes the config of a control run: the recipe of a known environment, the defaults for another, except for the
    settings that are given by field name.

    Raises:
      UsageError: if no setting has such a name, or a value is invalid.
    """
    return with_settings(ControlRunConfig(), {"env": env} | RECIPES.get(env, {}) | settings)
