"""Arguments and wrappers of environments: from the command line to training, evaluation and a resumed run."""

from contextlib import closing

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces, wrappers
from support.refusal import refusal

import tfppo
from tfppo import cli
from tfppo.control import run
from tfppo.control.envs.options import format_env_kwargs, load_wrapper, parse_env_kwargs, parse_wrapper
from tfppo.control.envs.vector import make_vector_environment, time_limit
from tfppo.control.recipes import make_control_config
from tfppo.control.trainer import CONTROL, ControlTrainer
from tfppo.training import driver

SMALL = {"num_envs": 2, "rollout_length": 8, "minibatch_size": 16, "total_steps": 16, "hidden_units": (4,)}
EAGER = {"compile_rollout": "eager", "compile_update": "eager", "device": "cpu", "num_epochs": 1}


class Sized(gymnasium.Env):
    """An environment whose observations have the size that its constructor gets. Each step gives the reward."""

    action_space = spaces.Discrete(2)

    def __init__(self, size=2, reward=1.0, render_mode=None):
        self.observation_space, self.reward = spaces.Box(-1, 1, [size, 1], np.float32), reward

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(self.observation_space.shape, np.float32), {}

    def step(self, action):
        return np.zeros(self.observation_space.shape, np.float32), self.reward, False, False, {}


gymnasium.register("Sized-v0", Sized, disable_env_checker=True)


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["size=5", "reward=0.5", "name=a=b"], {"size": 5, "reward": 0.5, "name": "a=b"}),
        (["goal=[1, 2]", "is_slow=true", "seed=null"], {"goal": [1, 2], "is_slow": True, "seed": None}),
        (["text='5'"], {"text": "5"}),
        ([], {}),
    ],
)
def test_arguments_are_read_as_yaml(words, values):
    assert parse_env_kwargs(words) == values
    assert parse_env_kwargs(format_env_kwargs(values)) == values


@pytest.mark.parametrize(
    ("words", "said"),
    [(["size"], "form key=value"), (["2=3"], "form key=value"), (["a=1", "a=2"], "a twice"), (["a=[1"], "valid YAML")],
)
def test_other_words_are_refused(words, said):
    assert said in refusal(parse_env_kwargs, words)
    assert said in refusal(make_control_config, "Sized-v0", env_kwargs=tuple(words))


def test_a_wrapper_has_a_name_and_arguments():
    assert parse_wrapper("FlattenObservation") == ("FlattenObservation", (), {})
    assert parse_wrapper("TimeLimit(max_episode_steps=100)") == ("TimeLimit", (), {"max_episode_steps": 100})
    assert parse_wrapper("mine.own:Noise(0.1, kinds=['a', 'b'])") == ("mine.own:Noise", (0.1,), {"kinds": ["a", "b"]})


@pytest.mark.parametrize(
    "text", ["", "Time Limit", "TimeLimit(", "TimeLimit(f())", "TimeLimit(**{})", "a(1)(2)", "x.y()z"]
)
def test_other_wrappers_are_refused(text):
    assert "wrappers has" in refusal(make_control_config, "Sized-v0", wrappers=(text,))


def test_an_unknown_wrapper_and_wrong_arguments_are_one_line():
    assert "Gymnasium has AddRenderObservation" in refusal(load_wrapper, "NoSuch")
    wrong = load_wrapper("TimeLimit(steps=3)")
    assert "cannot wrap the environment (TypeError" in refusal(wrong, Sized())
    for vectorization in ("sync", "async"):
        text = refusal(make_vector_environment, "Sized-v0", 2, vectorization, wrappers=(wrong,))
        assert text.startswith("wrapper TimeLimit(steps=3) cannot wrap the environment"), text


@pytest.mark.parametrize("vectorization", ["sync", pytest.param("async", marks=pytest.mark.slow)])
def test_a_run_trains_and_evaluates_with_them(vectorization, tmp_path):
    config = make_control_config(
        "Sized-v0",
        runs_dir=tmp_path,
        env_kwargs={"size": 3, "reward": 0.5},
        wrappers=("FlattenObservation", "TimeLimit(max_episode_steps=6)"),
        vectorization=vectorization,
        eval_episodes=2,
        video_episodes=0,
        name="mine",
        **SMALL,
        **EAGER,
    )
    folder = run.train_control(config)
    with driver.opened(CONTROL, folder, "latest") as trainer:
        assert trainer.config.control.env_kwargs == ("size=3", "reward=0.5")
        assert trainer.observation_space.shape == (3,)
    evaluation = tfppo.evaluate(folder, episodes=3)
    assert evaluation["mean"] == evaluation["stochastic"]["mean"] == 3.0 and "unfinished" not in evaluation
    assert tfppo.load_policy(folder).predict(np.zeros(3)).shape == ()


def test_the_evaluation_may_have_arguments_of_its_own(tmp_path):
    config = make_control_config(
        "Sized-v0",
        runs_dir=tmp_path,
        env_kwargs={"size": 3, "reward": 0.5},
        eval_env_kwargs={"reward": 2.0},
        wrappers=("FlattenObservation", "TimeLimit(max_episode_steps=4)"),
        eval_episodes=2,
        video_episodes=0,
        **SMALL,
        **EAGER,
    )
    folder = run.train_control(config)
    assert tfppo.evaluate(folder, episodes=2)["mean"] == 8.0
    assert (folder / "metrics.csv").read_text().splitlines()[1].split(",")[1] == "2"  # return of a training episode
    assert "eval_env_kwargs has 'reward'" in refusal(make_control_config, "Sized-v0", eval_env_kwargs=("reward",))


def test_the_command_line_takes_them(tmp_path, capsys):
    words = "train control --env Sized-v0 --env-kwargs size=4 reward=2 --wrappers FlattenObservation TimeLimit(5)"
    options = "--num-envs 2 --rollout-length 8 --minibatch-size 16 --total-steps 16 --hidden-units 4 --eval-episodes 2"
    arguments = [*words.split(), *options.split(), "--video-episodes", "0", "--runs-dir", str(tmp_path)]
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert "observations: Box(4,)" in out and "10.00 +- 0.00" in out


def test_classic_environments_with_wrappers_are_stepped_by_gymnasium():
    config = make_control_config("CartPole-v1", wrappers=("TimeLimit(9)",), **SMALL, **EAGER)
    with closing(ControlTrainer(config)) as trainer:
        assert not trainer.in_graph
        assert trainer.evaluate(3)["stochastic"]["max"] <= 9
    for settings in ({"backend": "graph"}, {"vectorization": "native"}):
        wrapped = make_control_config("CartPole-v1", wrappers=("TimeLimit(9)",), **SMALL, **EAGER, **settings)
        assert "leave" in refusal(ControlTrainer, wrapped)


def test_a_wrapper_of_gymnasium_sets_the_time_limit():
    assert time_limit("Sized-v0") is None
    assert time_limit("Sized-v0", {"wrappers": (load_wrapper("TimeLimit(7)"),)}) == 7
    assert time_limit("CartPole-v1", {"max_episode_steps": 12}) == 12


WRAPPERS = """
import gymnasium

class Doubled(gymnasium.Wrapper):
    def __init__(self, env, factor=2.0):
        super().__init__(env)
        self.factor = factor

    def step(self, action):
        observation, reward, *rest = self.env.step(action)
        return observation, reward * self.factor, *rest
"""


def test_wrappers_of_the_user_must_be_named_again(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_wrappers.py").write_text(WRAPPERS)
    monkeypatch.syspath_prepend(tmp_path)
    own = "my_wrappers:Doubled(factor=3.0)"
    names = ("TimeLimit(4)", own)
    config = make_control_config(
        "Sized-v0", runs_dir=tmp_path, wrappers=names, eval_episodes=2, video_episodes=0, name="mine", **SMALL, **EAGER
    )
    folder = run.train_control(config)
    assert "12.00 +- 0.00" in capsys.readouterr().out
    text = refusal(tfppo.evaluate, folder, episodes=2)
    assert f"names the wrappers '{own}', which imports a module" in text and f"--wrappers '{own}'" in text
    assert cli.main(["evaluate", str(folder), "--episodes", "2", "--wrappers", own]) == 0
    assert tfppo.evaluate(folder, episodes=2, wrappers=[own])["mean"] == 12.0
    assert "leave --wrappers out, or give the wrappers of the run" in refusal(
        tfppo.evaluate, folder, episodes=2, wrappers=["my_wrappers:Other"]
    )


def test_vector_environments_are_wrapped_inside_of_what_restores_them():
    environment = make_vector_environment("Sized-v0", 2, wrappers=(load_wrapper("FlattenObservation"),), size=5)
    assert environment.single_observation_space.shape == (5,)
    assert isinstance(environment.envs[0].env.env, wrappers.FlattenObservation)
    environment.close()


@pytest.mark.slow
@pytest.mark.parametrize("env", ["MiniGrid-Empty-Random-5x5-v0", "MiniGrid-Unlock-v0", "MiniGrid-DoorKey-5x5-v0"])
def test_minigrid_is_trained_by_its_recipe_and_evaluated_without_naming_its_wrapper(env, tmp_path):
    small = {"total_steps": 2048, "eval_episodes": 2, "video_episodes": 0, "num_epochs": 1, "name": "grid"}
    folder = run.train_control(make_control_config(env, runs_dir=tmp_path, **small))
    with driver.opened(CONTROL, folder, "latest") as trainer:
        assert trainer.observation_space.shape == (2835,) and trainer.normalization.is_active
    assert tfppo.evaluate(folder, episodes=2)["episodes"] == 2
