"""What a control run says about its spaces, and about what has no effect."""

from contextlib import closing

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces, wrappers

from tfppo import cli
from tfppo.control import run
from tfppo.control.notices import describe_spaces
from tfppo.control.recipes import make_control_config
from tfppo.control.rollouts.normalization import Normalization
from tfppo.control.trainer import ControlTrainer

SMALL = {"num_envs": 2, "rollout_length": 8, "minibatch_size": 16, "total_steps": 16, "hidden_units": (4,)}
EAGER = {"compile_rollout": "eager", "compile_update": "eager", "device": "cpu", "num_epochs": 1}
OFF = {"eval_episodes": 0, "video_episodes": 0}
GRID = spaces.Box(0, 9, [2, 3], np.int64)
IMAGE = spaces.Box(0, 255, [40, 40, 3], np.uint8)


class World(gymnasium.Env):
    """An environment of any observation space, which may give a mask in its infos."""

    def __init__(self, space=GRID, infos=None, action_space=None):
        self.observation_space, self.infos = space, infos or {}
        self.action_space = action_space or spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), self.infos

    def step(self, action):
        return self.observation_space.sample(), 1.0, False, True, self.infos


gymnasium.register("Grid-v0", World, disable_env_checker=True)
gymnasium.register("Pictures-v0", lambda: World(IMAGE), disable_env_checker=True)
gymnasium.register("Bytes-v0", lambda: World(spaces.Box(0, 255, [7, 7, 3], np.uint8)), disable_env_checker=True)
gymnasium.register("Hinting-v0", lambda: World(infos={"action_mask": np.ones(2, np.int8)}), disable_env_checker=True)
gymnasium.register("Floats-v0", lambda: World(spaces.Box(0, 1, [40, 40, 3])), disable_env_checker=True)
gymnasium.register("Force-v0", lambda: World(action_space=spaces.Box(-50, 50, [1])), disable_env_checker=True)
gymnasium.register(
    "Scaled-v0",
    lambda: wrappers.NormalizeReward(wrappers.NormalizeObservation(World())),
    disable_env_checker=True,
)


def printed(env, tmp_path, capsys, **settings):
    run.train_control(make_control_config(env, runs_dir=tmp_path, **SMALL, **EAGER, **OFF, **settings), "mine")
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("space", "is_on", "wanted"),
    [
        (spaces.Box(-1, 1, [147]), True, "Box(147,), normalized"),
        (spaces.Box(-1, 1, [147]), False, "Box(147,)"),
        (spaces.Box(0, 9, [147], np.int64), True, "Box(147,) of integers, normalized"),
        (IMAGE, True, "image 40 x 40 x 3"),
        (spaces.Discrete(5), True, "Discrete(5) as one-hot"),
        (
            spaces.Dict(arm=spaces.Box(-1, 1, [2]), action_mask=spaces.MultiBinary(3), wheel=spaces.Discrete(4)),
            True,
            "arm Box(2,), normalized, action_mask MultiBinary(3), the mask of actions, wheel Discrete(4) as one-hot",
        ),
    ],
    ids=str,
)
def test_spaces_are_described_in_one_line(space, is_on, wanted):
    line = describe_spaces(space, spaces.Discrete(7), Normalization(space, observations=is_on))
    assert line == f"observations: {wanted}; actions: Discrete(7)"


def test_a_run_says_what_it_makes_of_the_spaces(tmp_path, capsys):
    said = printed("Grid-v0", tmp_path, capsys, normalize_observations=True)
    assert "observations: Box(2, 3) of integers, normalized; actions: Discrete(2)\n" in said
    assert "no effect" not in said


def test_integers_are_normalized():
    config = make_control_config("Grid-v0", **SMALL | {"total_steps": 160}, **EAGER, normalize_observations=True)
    with closing(ControlTrainer(config)) as trainer:
        list(trainer.iterations())
        count, mean, variance = (x.numpy() for x in trainer.normalization.state)
    assert count == trainer.env_steps and mean.min() > 2 and mean.max() < 7 and variance.min() > 1


@pytest.mark.representatives(4)
@pytest.mark.parametrize(
    ("env", "settings", "said"),
    [
        ("Pictures-v0", {"normalize_observations": True}, "normalize_observations has no effect here"),
        ("Hinting-v0", {}, "Hinting-v0 gives an action_mask in its infos, which the policy does not see"),
        ("Hinting-v0", {"box_policy": "squashed"}, "box_policy squashed has no effect here: the actions are Discrete("),
        ("Bytes-v0", {}, "observations reach from 0 to 255 and are not normalized"),
        (
            "Floats-v0",
            {},
            "observations have the shape of an image, (40, 40, 3), and are float32: they are 4,800 numbers",
        ),
        (
            "Force-v0",
            {},
            "actions reach from -50 to 50, and the policy begins with a standard deviation of 1: consider",
        ),
        ("Scaled-v0", {}, "Scaled-v0 contains Gymnasium's wrapper NormalizeReward"),
    ],
)
def test_what_has_no_effect_is_said(env, settings, said, tmp_path, capsys):
    assert said in printed(env, tmp_path, capsys, **settings)


def test_actions_that_are_squashed_may_be_wide(tmp_path, capsys):
    assert "actions reach" not in printed("Force-v0", tmp_path, capsys, box_policy="squashed")


def test_the_target_return_ends_training_in_python_too():
    config = make_control_config("Grid-v0", **SMALL | {"total_steps": 1600}, **EAGER, target_return=0.5)
    with closing(ControlTrainer(config)) as trainer:
        done = [number for number, _ in trainer.iterations()]
    assert done[-1] < trainer.num_iterations - 1 and "reaches target_return" in trainer.stop_reason


def test_train_cartpole_is_for_cartpole(capsys):
    assert cli.main(["train", "cartpole", "--env", "Pendulum-v1"]) == 2
    assert "use tfppo train control --env Pendulum-v1" in capsys.readouterr().err
