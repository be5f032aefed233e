"""Tuned settings of known environments.

`tfppo train control --env ID` uses them for all settings that the user does not give. This module imports no
TensorFlow, so that the command line starts fast.

Recipes marked "rl-zoo" are rows of rl-baselines3-zoo (hyperparams/ppo.yml), translated into the settings of this
package. A value that such a row does not name is the default of stable-baselines3. Its vf_coef is half of our
value_coeff, because its value loss has no factor 1/2. "CleanRL" stands for its script ppo_continuous_action.py. "Our
own" recipes were tuned here, and also have those defaults.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tfppo.control.config import ControlRunConfig
from tfppo.errors import UsageError, shown
from tfppo.settings import with_settings


class Recipe(NamedTuple):
    """Tuned settings of an environment."""

    source: str  # where the values come from
    settings: Mapping[str, object]  # by field name


SB3: dict[str, Any] = {  # the defaults of stable-baselines3
    "learning_rate": 3e-4,
    "learning_rate_schedule": "constant",
    "minibatch_size": 64,
    "num_epochs": 10,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "value_coeff": 1.0,
    "entropy_coeff": 0.0,
}
OWN = "our own"
NORMALIZED: dict[str, Any] = {"normalize_observations": True, "normalize_rewards": True}


def _zoo(source: str = "rl-zoo", **settings: object) -> Recipe:
    return Recipe(source, SB3 | settings)


def _own(**settings: object) -> Recipe:
    return _zoo(OWN, **settings)


# The recipe of LunarLander-v2. With a constant entropy bonus sampled actions have a lower mean return (206) than greedy
# ones (251).
LUNAR_LANDER = _zoo(
    "rl-zoo, but the entropy bonus falls to 0",
    num_envs=16,
    rollout_length=1024,
    total_steps=1_000_000,
    num_epochs=4,
    gamma=0.999,
    gae_lambda=0.98,
    entropy_coeff=0.01,
    entropy_coeff_schedule="linear",
)
MUJOCO = _zoo(
    "CleanRL",
    **NORMALIZED,
    num_envs=1,
    rollout_length=2048,
    total_steps=1_000_000,
    learning_rate_schedule="linear",
    value_coeff=0.5,
    value_clip=0.2,
    eval_episodes=10,
)
TABLE: dict[str, Any] = {  # of environments with numbered states
    "num_envs": 16,
    "rollout_length": 128,
    "minibatch_size": 256,
    "num_epochs": 4,
    "learning_rate": 1e-3,
}
# Random actions reach the goal in 2 % of episodes of 200 steps. With a small bonus two of seven seeds
# learned to avoid the cliff before they had seen the goal often enough, and then never went there.
CLIFF_WALKING = _own(
    **TABLE,
    env_kwargs=("max_episode_steps=200",),  # it has no time limit of its own
    normalize_rewards=True,
    total_steps=300_000,
    learning_rate_schedule="linear",
    gamma=0.97,
    entropy_coeff=0.2,
    entropy_coeff_schedule="linear",
)
MINIGRID = _zoo(
    **NORMALIZED,
    wrappers=("minigrid.wrappers:FlatObsWrapper",),  # the picture as 147 integers, the mission one-hot
    num_envs=8,
    rollout_length=128,
    total_steps=100_000,
    learning_rate=2.5e-4,
)
ATARI = _zoo(  # its wrappers are arguments of ale-py's vector environment
    env_kwargs=("repeat_action_probability=0.0", "episodic_life=true", "reward_clipping=true"),
    eval_env_kwargs=("episodic_life=false", "reward_clipping=false"),
    num_envs=8,
    rollout_length=128,
    total_steps=10_000_000,
    minibatch_size=256,
    num_epochs=4,
    learning_rate=2.5e-4,
    learning_rate_schedule="linear",
    clip_ratio=0.1,
    clip_ratio_schedule="linear",
    entropy_coeff=0.01,
    shared_trunk=True,
    hidden_units=(),  # NatureCNN has a layer of 512 units
    eval_episodes=10,
)
RECIPES: dict[str, Recipe] = {
    "CartPole-v1": _zoo(
        num_envs=8,
        rollout_length=32,
        total_steps=100_000,
        minibatch_size=256,
        num_epochs=20,
        learning_rate=1e-3,
        learning_rate_schedule="linear",
        clip_ratio_schedule="linear",
        gamma=0.98,
        gae_lambda=0.8,
    ),
    "Acrobot-v1": _zoo(
        **NORMALIZED, num_envs=16, rollout_length=256, total_steps=1_000_000, num_epochs=4, gae_lambda=0.94
    ),
    "Pendulum-v1": _zoo(
        "rl-zoo, but the learning rate falls to 0",
        num_envs=4,
        rollout_length=1024,
        total_steps=100_000,
        learning_rate=1e-3,
        learning_rate_schedule="linear",
        gamma=0.9,
        box_policy="gsde",
        gsde_interval=4,
    ),
    # rl-zoo's rollouts of 16 steps are a small part of an episode, and some seeds then learn one swing too many (return
    # -117). These rollouts are about as long as an episode. The learning rate is larger and falls to 0.
    "MountainCar-v0": _own(
        **NORMALIZED,
        num_envs=16,
        rollout_length=128,
        total_steps=1_000_000,
        minibatch_size=256,
        learning_rate=1e-3,
        learning_rate_schedule="linear",
        gae_lambda=0.98,
    ),
    # Noise that is constant for a whole rollout reaches the goal by chance. Noise of the usual standard deviation 1
    # saturates the motor: one seed of five then stayed at full throttle, with a return of 88.
    "MountainCarContinuous-v0": _own(
        **NORMALIZED,
        num_envs=16,
        rollout_length=256,
        total_steps=200_000,
        minibatch_size=256,
        learning_rate_schedule="linear",
        gamma=0.9999,
        box_policy="gsde",
        gsde_interval=0,
        log_std_init=-1.0,
        value_coeff=0.5,
    ),
    "FrozenLake-v1": _own(**TABLE, total_steps=200_000, entropy_coeff=0.01),
    # With a bonus of 0.01 one of three seeds never reached the goal.
    "FrozenLake8x8-v1": _own(
        **TABLE,
        total_steps=500_000,
        learning_rate_schedule="linear",
        entropy_coeff=0.1,
        entropy_coeff_schedule="linear",
    ),
    # Without the mask the return of a seed stayed at -200 for a million steps: the policy learns to avoid the -10 of a
    # wrong drop-off, and so never finds the right one.
    "Taxi-v4": _own(
        **TABLE,
        wrappers=("tfppo:MaskFromInfo",),
        normalize_rewards=True,
        total_steps=500_000,
        learning_rate_schedule="linear",
        entropy_coeff=0.01,
    ),
    "CliffWalking-v1": CLIFF_WALKING,
    "CliffWalkingSlippery-v1": CLIFF_WALKING,
    "Blackjack-v1": _own(
        **TABLE, total_steps=500_000, learning_rate_schedule="linear", gamma=1.0, eval_episodes=10_000
    ),
    "LunarLander-v3": LUNAR_LANDER,
    "LunarLanderContinuous-v3": LUNAR_LANDER,
    "BipedalWalker-v3": _zoo(
        **NORMALIZED, num_envs=32, rollout_length=2048, total_steps=5_000_000, gamma=0.999, clip_ratio=0.18
    ),
    "Ant-v5": MUJOCO,
    "HalfCheetah-v5": MUJOCO,
    "Hopper-v5": MUJOCO,
    "Humanoid-v5": MUJOCO,
    "HumanoidStandup-v5": MUJOCO,
    "InvertedDoublePendulum-v5": MUJOCO,
    "InvertedPendulum-v5": MUJOCO,
    "Pusher-v5": MUJOCO,
    "Reacher-v5": MUJOCO,
    "Swimmer-v5": MUJOCO,
    "Walker2d-v5": MUJOCO,
    "MiniGrid-Empty-Random-5x5-v0": MINIGRID,
    "MiniGrid-DoorKey-5x5-v0": MINIGRID,
    "MiniGrid-Unlock-v0": MINIGRID,
}
EVERY_ATARI = "ALE/"  # beginning of the IDs of all games
PACKAGES = ("ale_py", "minigrid")  # packages of tfppo's extras that register environments


def recipe_of(env: str, borrowed: str | None = None) -> Recipe | None:
    """Returns the tuned settings of an environment; None if there are none.

    Args:
      env: The environment ID. The packages of tfppo's extras may stand in front of it, as in ale_py:ALE/Pong-v5.
      borrowed: Another environment whose recipe is used, as in the setting `recipe`. Its arguments of the environment
        are left out.

    Raises:
      UsageError: If `borrowed` has no recipe.
    """
    module, _, name = (borrowed or env).rpartition(":")
    found = ATARI if name.startswith(EVERY_ATARI) else RECIPES.get(name)
    if borrowed is None:
        return found if module in ("", *PACKAGES) else None
    if found is None:
        raise UsageError(
            f"recipe is {shown(borrowed)}, which has no recipe; it must be one of {', '.join(RECIPES)}, or a game of "
            f"Atari such as {EVERY_ATARI}Pong-v5"
        )
    own = {key: value for key, value in found.settings.items() if key not in ("env_kwargs", "eval_env_kwargs")}
    return Recipe(found.source, own)


def describe_recipe(config: ControlRunConfig) -> str:
    """Says in one line which settings of a run are those of a recipe.

    Args:
      config: The settings of the run.
    """
    env, borrowed = config.control.env, config.control.recipe
    recipe = recipe_of(env, borrowed)
    if recipe is None:
        return (
            "settings: no recipe for this environment; those that you do not give are the defaults (--recipe takes "
            "those of another environment)"
        )
    differ = _differing(config, recipe)
    named = "our own recipe" if recipe.source == OWN else f"the recipe of {recipe.source}"
    if not _is_followed(recipe, differ):
        command = f"tfppo train control --env {borrowed or env}"
        return f"settings: the defaults and those that you gave; {command} uses {named} instead"
    of = "" if borrowed is None else f" for {borrowed}"
    but = f", except {', '.join(differ)}" if differ else ""
    return f"settings: {named}{of}{but}"


def lent_recipe(config: ControlRunConfig) -> str | None:
    """Returns the environment whose recipe the settings follow, for a run in another environment that has no name yet.

    Args:
      config: The settings, for example those of `make_control_config()` without a name, which are those of CartPole-v1.
    """
    env, borrowed = config.control.env, config.control.recipe
    recipe = recipe_of(env)
    if borrowed or recipe is None:
        return borrowed
    return env if _is_followed(recipe, _differing(config, recipe)) else None


def _differing(config: ControlRunConfig, recipe: Recipe) -> list[str]:
    """Returns the names of a recipe's settings that a config has other values of."""
    own = with_settings(config, recipe.settings)
    return [
        name
        for name in recipe.settings
        for part in ("control", "ppo")
        if getattr(getattr(own, part), name, None) != getattr(getattr(config, part), name, None)
    ]


def _is_followed(recipe: Recipe, differ: Sequence[str]) -> bool:
    """Returns whether settings are those of a recipe, of which at most half differ."""
    return 2 * len(differ) <= len(recipe.settings)


def make_control_config(env: str = "CartPole-v1", *, recipe: str | None = None, **settings: object) -> ControlRunConfig:
    """Makes the config of a control run.

    The settings of a known environment are its recipe; those of any other environment are the defaults.

    Args:
      env: The environment ID.
      recipe: ID of another environment, whose recipe is used.
      **settings: Replace the settings of the recipe, by field name.

    Returns:
      The config.

    Raises:
      UsageError: If a setting does not exist or its value is invalid, or `recipe` has no recipe.
    """
    found = recipe_of(env, recipe)
    own = dict(found.settings if found else {})
    return with_settings(ControlRunConfig(), {"env": env, "recipe": recipe} | own | settings)
