"""Tuned settings of known environments.

`tfppo train control --env ID` uses them for all settings that the user does not give. This module imports no
TensorFlow, so that the command line starts fast.

Recipes marked "rl-zoo" are rows of rl-baselines3-zoo (hyperparams/ppo.yml), translated into the settings of this
package. A value that such a row does not name is the default of stable-baselines3. Its vf_coef is half of our
value_coeff, because its value loss has no factor 1/2.
"""

from tfppo.control.config import ControlRunConfig
from tfppo.settings import with_settings

SB3: dict[str, object] = {  # the defaults of stable-baselines3
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
    "Pendulum-v1": SB3  # rl-zoo, but the learning rate falls to 0
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
    "MountainCar-v0": SB3  # our own. rl-zoo's rollouts of 16 steps are a small part of an episode, and some seeds then
    # need one swing too many (return -117). These rollouts are about as long as an episode. The learning rate is larger
    # and falls to 0.
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
    "MountainCarContinuous-v0": SB3  # our own. Noise that is constant for a whole rollout reaches the goal by chance.
    # Noise of the usual standard deviation 1 saturates the motor: one seed of five then stayed at full throttle, with a
    # return of 88.
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
    "BipedalWalker-v3": SB3  # rl-zoo
    | NORMALIZED
    | {
        "num_envs": 32,
        "rollout_length": 2048,
        "total_steps": 5_000_000,
        "gamma": 0.999,
        "clip_ratio": 0.18,
    },
    "LunarLander-v3": SB3  # rl-zoo's LunarLander-v2, but the entropy bonus falls to 0. Sampled actions then land as
    # well as greedy actions (with a constant bonus: mean returns of 206 and 251).
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
}
MINIGRID = (
    SB3
    | NORMALIZED
    | {  # rl-zoo. The wrapper gives the picture as symbols and the mission as letters, all one-hot.
        "wrappers": ("minigrid.wrappers:FlatObsWrapper",),
        "num_envs": 8,
        "rollout_length": 128,
        "total_steps": 100_000,
        "learning_rate": 2.5e-4,
    }
)
ATARI = SB3 | {  # rl-zoo, with the settings of Gymnasium's environments that equal its wrappers
    "env_kwargs": ("repeat_action_probability=0.0", "episodic_life=true", "reward_clipping=true"),
    "eval_env_kwargs": ("episodic_life=false", "reward_clipping=false"),
    "num_envs": 8,
    "rollout_length": 128,
    "total_steps": 10_000_000,
    "minibatch_size": 256,
    "num_epochs": 4,
    "learning_rate": 2.5e-4,
    "learning_rate_schedule": "linear",
    "clip_ratio": 0.1,
    "clip_ratio_schedule": "linear",
    "entropy_coeff": 0.01,
    "shared_trunk": True,
    "hidden_units": (),  # NatureCNN has a layer of 512 units
    "eval_episodes": 10,
}
RECIPES |= {"LunarLanderContinuous-v3": RECIPES["LunarLander-v3"]}  # rl-zoo has the same row for both
RECIPES |= dict.fromkeys(
    (
        "Ant-v5",
        "HalfCheetah-v5",
        "Hopper-v5",
        "Humanoid-v5",
        "HumanoidStandup-v5",
        "InvertedDoublePendulum-v5",
        "InvertedPendulum-v5",
        "Pusher-v5",
        "Reacher-v5",
        "Swimmer-v5",
        "Walker2d-v5",
    ),
    MUJOCO,
)
RECIPES |= dict.fromkeys(
    ("MiniGrid-Empty-Random-5x5-v0", "MiniGrid-DoorKey-5x5-v0", "MiniGrid-Unlock-v0"),
    MINIGRID,
)
PACKAGES = ("ale_py", "minigrid")  # packages of tfppo's extras that register environments


def recipe_of(env: str) -> dict[str, object]:
    """Returns the tuned settings of an environment; an empty dictionary if there are none.

    Args:
      env: The environment ID. The packages of tfppo's extras may stand in front of it, as in ale_py:ALE/Pong-v5.
    """
    module, _, name = env.rpartition(":")
    if module in ("", *PACKAGES):
        return ATARI if name.startswith("ALE/") else RECIPES.get(name, {})
    return {}


def make_control_config(env: str = "CartPole-v1", **settings: object) -> ControlRunConfig:
    """Makes the config of a control run.

    The settings of a known environment are its recipe; those of any other environment are the defaults.

    Args:
      env: The environment ID.
      **settings: Replace the settings of the recipe, by field name.

    Returns:
      The config.

    Raises:
      UsageError: If a setting does not exist or its value is invalid.
    """
    return with_settings(ControlRunConfig(), {"env": env} | recipe_of(env) | settings)
