"""Recipes: each is a run that works, and a run says which one it has."""

from contextlib import closing

import gymnasium
import pytest
from support.refusal import refusal

import tfppo
from tfppo import cli
from tfppo.control.recipes import RECIPES, SB3, describe_recipe, recipe_of
from tfppo.errors import UsageError


def short(env, tmp_path):
    """Returns the settings of a recipe with two iterations."""
    recipe = tfppo.make_control_config(env).control
    steps = {"num_envs": min(recipe.num_envs, 4), "rollout_length": min(recipe.rollout_length, 32)}
    batch = steps["num_envs"] * steps["rollout_length"]
    return tfppo.make_control_config(
        env,
        runs_dir=tmp_path,
        total_steps=2 * batch,
        minibatch_size=batch // 2,
        num_epochs=1,
        eval_episodes=2,
        eval_max_steps=20,
        video_episodes=0,
        **steps,
    )


@pytest.mark.slow  # one of each kind is trained by other quick tests
@pytest.mark.parametrize("env", RECIPES)
def test_every_recipe_trains_evaluates_and_acts(env, tmp_path):
    if env.startswith("MiniGrid"):
        pytest.importorskip("minigrid")  # it registers its environments
    try:
        gymnasium.make(env).close()
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        pytest.skip(str(error))
    folder = tfppo.train_control(short(env, tmp_path))
    policy = tfppo.load_policy(folder)
    assert policy.action_space.contains(policy.predict(policy.observation_space.sample()))


def test_a_function_in_place_of_a_name_is_told_whose_settings_it_has():
    def described(config):
        with closing(tfppo.ControlTrainer(config, env=lambda: gymnasium.make("CartPole-v1"))) as trainer:
            return describe_recipe(trainer.config)

    unnamed = tfppo.make_control_config(total_steps=512)
    assert described(unnamed) == "settings: the recipe of rl-zoo for CartPole-v1, except total_steps"
    assert described(tfppo.make_control_config("mine", total_steps=8192)).startswith("settings: no recipe")
    borrowed = tfppo.make_control_config("mine", recipe="FrozenLake-v1")
    assert described(borrowed) == "settings: our own recipe for FrozenLake-v1"


def test_a_run_says_which_settings_are_those_of_a_recipe():
    make = tfppo.make_control_config
    assert describe_recipe(make("CartPole-v1")) == "settings: the recipe of rl-zoo"
    assert describe_recipe(make("CartPole-v1", gamma=0.5, num_envs=16)).endswith("rl-zoo, except gamma, num_envs")
    assert describe_recipe(make("CartPole-v1", seed=3)).endswith("rl-zoo")
    described = describe_recipe(tfppo.ControlRunConfig())
    assert described.endswith("tfppo train control --env CartPole-v1 uses the recipe of rl-zoo instead")
    assert "no recipe" in describe_recipe(make("my:Maze-v0")) and recipe_of("my:CartPole-v1") is None


def test_a_recipe_of_another_environment_can_be_used(capsys):
    config = tfppo.make_control_config("my:Robot-v0", recipe="HalfCheetah-v5", gamma=0.9)
    assert (config.control.num_envs, config.control.env, config.ppo.gamma) == (1, "my:Robot-v0", 0.9)
    assert describe_recipe(config) == "settings: the recipe of CleanRL for HalfCheetah-v5, except gamma"
    grid = tfppo.make_control_config("MiniGrid-FourRooms-v0", recipe="MiniGrid-Unlock-v0").control
    assert grid.wrappers == ("minigrid.wrappers:FlatObsWrapper",) and grid.env == "MiniGrid-FourRooms-v0"
    pixels = tfppo.make_control_config("CarRacing-v3", recipe="ALE/Pong-v5").control
    assert pixels.shared_trunk and pixels.env_kwargs == pixels.eval_env_kwargs == ()
    assert "recipe is 'Ant-v9', which has no recipe" in refusal(tfppo.make_control_config, "A-v0", recipe="Ant-v9")
    assert cli.main(["train", "cartpole", "--recipe", "Ant-v5"]) == 2
    assert "use tfppo train control" in capsys.readouterr().err
    assert cli.main(["train", "control", "--env", "Nope-v0", "--recipe", "Ant-v5", "--num-envs", "2"]) == 2
    assert "Nope" in capsys.readouterr().err


def test_recipes_name_settings_that_exist():
    for recipe in RECIPES.values():
        assert recipe.source and set(SB3) <= set(recipe.settings)
    with pytest.raises(UsageError, match="no_such"):
        tfppo.make_control_config("CartPole-v1", no_such=1)
