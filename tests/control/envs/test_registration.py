"""Environments that a function makes: in Python the function, on the command line its name."""

import pickle
import subprocess
import sys
from contextlib import closing

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from support.refusal import refusal

import tfppo
from tfppo import cli
from tfppo.control.envs.registration import EnvironmentFunction, register_function, registered_id
from tfppo.control.envs.vector import make_vector_environment

SMALL = {"num_envs": 2, "rollout_length": 8, "minibatch_size": 16, "total_steps": 32, "hidden_units": (4,)}
EAGER = {"compile_rollout": "eager", "compile_update": "eager", "device": "cpu", "num_epochs": 1}
OFF = {"eval_episodes": 2, "video_episodes": 0}


class Steps(gymnasium.Env):
    """Episodes of so many steps, each with a reward of 1."""

    observation_space = spaces.Box(-1, 1, [2], np.float32)
    action_space = spaces.Discrete(2)
    metadata = {"render_modes": []}

    def __init__(self, length=3):
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(2, np.float32), 1.0, self.steps >= self.length, False, {}


def make_steps(length=4):
    return gymnasium.wrappers.TransformReward(Steps(length), lambda reward: 2 * reward)


def config(tmp_path, **settings):
    return tfppo.make_control_config(runs_dir=tmp_path, **{**SMALL, **EAGER, **OFF, **settings})


@pytest.mark.parametrize(
    ("env", "mean", "vectorization"),
    [
        (make_steps, 8.0, "sync"),
        pytest.param(Steps, 3.0, "sync", marks=pytest.mark.slow),
        pytest.param(lambda: Steps(5), 5.0, "async", marks=pytest.mark.slow),
        pytest.param(make_steps, 8.0, "async", marks=pytest.mark.slow),
        pytest.param(Steps, 3.0, "async", marks=pytest.mark.slow),
        pytest.param(lambda: Steps(5), 5.0, "sync", marks=pytest.mark.slow),
    ],
)
def test_a_function_makes_the_environments_of_a_run(env, mean, vectorization, tmp_path):
    folder = tfppo.train_control(config(tmp_path, vectorization=vectorization), "mine", env=env)
    assert tfppo.evaluate(folder, episodes=2, env=env)["mean"] == mean
    assert tfppo.load_policy(folder, env=env).predict(np.zeros(2)).shape == ()


def test_the_trainer_takes_one_with_arguments(tmp_path):
    with closing(tfppo.ControlTrainer(config(tmp_path, env_kwargs={"length": 6}), env=make_steps)) as trainer:
        assert trainer.config.control.env == f"{__name__}:make_steps"
        assert trainer.evaluate(2)["mean"] == 12.0


def test_a_run_goes_on_with_its_function_only(tmp_path):
    folder = tfppo.train_control(config(tmp_path), "mine", env=lambda: Steps(5))
    assert "names the env" in refusal(tfppo.resume, folder) and "env=..." in refusal(tfppo.resume, folder)
    assert tfppo.resume(folder, env=lambda: Steps(5)) == folder
    assert "the run was made with" in refusal(tfppo.resume, folder, env=make_steps)
    assert "the run was made with" in refusal(tfppo.load_policy, folder, env=make_steps)


def test_the_command_line_takes_its_name(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_steps.py").write_text("from control.envs.test_registration import Steps, make_steps as make\n")
    monkeypatch.chdir(tmp_path)
    options = [f"--{name.replace('_', '-')}" for name in (*SMALL, *OFF)]
    values = ["2", "8", "16", "32", "4", "2", "0"]
    words = [word for pair in zip(options, values, strict=True) for word in pair]
    assert cli.main(["train", "control", "--env", "my_steps:make", "--env-kwargs", "length=7", *words]) == 0
    assert "14.00 +- 0.00" in capsys.readouterr().out
    assert cli.main(["evaluate", "runs/my_steps-make-seed1"]) == 2
    assert "add --env my_steps:make" in capsys.readouterr().err
    assert cli.main(["evaluate", "runs/my_steps-make-seed1", "--env", "my_steps:make", "--episodes", "2"]) == 0


def test_a_function_that_was_written_anew_replaces_the_old_one():
    def make():
        return Steps(1)

    old = register_function(make)

    def make():
        return Steps(2)

    assert register_function(make) == old
    with closing(make_vector_environment(old, 1)) as environment:
        assert environment.envs[0].unwrapped.length == 2


def test_what_is_no_environment_of_its_own_is_refused(tmp_path):
    shared = Steps()
    cases = {
        "returned the same environment twice": lambda: shared,
        "must return a gymnasium.Env": lambda: "CartPole-v1",
        "raised ValueError: no maze": lambda: (_ for _ in ()).throw(ValueError("no maze")),
        "unexpected keyword argument 'size'": lambda: Steps(),
    }
    for said, env in cases.items():
        for vectorization in ("sync", "async"):
            kwargs = {"size": 3} if "size" in said else {}
            if "twice" in said and vectorization == "async":
                continue  # each process has its own
            text = refusal(
                tfppo.ControlTrainer, config(tmp_path, vectorization=vectorization, env_kwargs=kwargs), env=env
            )
            assert said in text, text
    assert "it must be the ID of an environment, or a function" in refusal(
        tfppo.ControlTrainer, config(tmp_path), env=Steps()
    )


def test_other_processes_get_the_function():
    made = pickle.loads(pickle.dumps(EnvironmentFunction(make_steps, "make")))  # noqa: S301
    assert made().unwrapped.length == 4


@pytest.mark.slow  # another process
def test_a_script_may_give_its_own_function(tmp_path):
    script = tmp_path / "own.py"
    script.write_text(
        "import gymnasium, tfppo\n"
        "def make():\n    return gymnasium.make('CartPole-v1', max_episode_steps=5)\n"
        "if __name__ == '__main__':\n"
        f"    config = tfppo.make_control_config(runs_dir={str(tmp_path)!r}, name='a', **{SMALL | EAGER | OFF})\n"
        "    folder = tfppo.train_control(config, env=make)\n"
        "    print(tfppo.evaluate(folder, episodes=2, env=make)['mean'])\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "5.0", done.stderr
    assert "own:make" in (tmp_path / "a" / "config.yaml").read_text()


def test_ids_of_modules_are_as_before():
    assert registered_id("CartPole-v1") == "CartPole-v1"
    assert registered_id("gymnasium:CartPole-v1") == "CartPole-v1"
