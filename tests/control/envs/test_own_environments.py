"""`--env module:ID`: users' in-graph and Gymnasium environments, from the command line to the export."""

import csv
import json
import multiprocessing
import os
import signal
import sys

import gymnasium
import pytest
import tensorflow as tf

from tfppo import cli
from tfppo.control import bench, evaluate
from tfppo.control.config import ControlRunConfig
from tfppo.control.envs.environment import IN_GRAPH_ENVIRONMENTS
from tfppo.control.envs.vector import InGraphVectorEnv, make_vector_environment
from tfppo.settings import from_yaml
from tfppo.training import run_folder

MODULE = '''
import os

import gymnasium
import numpy as np
import tensorflow as tf

import spring_force
import tfppo

with open("imported_by", "a") as file:
    print(os.getpid(), file=file)


class Spring:
    """A mass on a spring, which is pushed; +1 for every step of 6, and 10 more for those that push to the right."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, [2], np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    max_episode_steps = 6

    def reset(self, num_envs, seed):
        return tf.zeros([num_envs, 2])

    def observe(self, state):
        return state

    def step(self, state, actions, seed):
        place, speed = tf.unstack(state, axis=-1)
        push = tf.cast(actions, tf.float32)
        speed = speed - 0.1 * place * spring_force.CONSTANT + push
        return tf.stack([place + speed, speed], axis=-1), 1.0 + 10.0 * push, tf.zeros_like(place, tf.bool)


class Lever(gymnasium.Env):
    """3 steps, with a reward of 7 for each."""

    observation_space = gymnasium.spaces.Box(-1, 1, [2])
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(2, np.float32), 7.0, self.steps == 3, False, {}


tfppo.register_environment("Spring-v0", Spring)
gymnasium.register("Lever-v0", "mine_own:Lever")


class Blind(Spring):
    """An in-graph environment with fewer observations than the Gymnasium environment of the same ID, a Lever."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, [1], np.float32)

    def observe(self, state):
        return state[:, :1]


class Free(Spring):
    """An in-graph environment with more actions than the Gymnasium environment of the same ID, a Lever."""

    action_space = gymnasium.spaces.Discrete(3)


class Heard(Lever):
    """An environment with observations of no fixed size."""

    observation_space = gymnasium.spaces.Dict(sounds=gymnasium.spaces.Sequence(gymnasium.spaces.Discrete(3)))


class Keyed(Spring):
    observation_space = gymnasium.spaces.Dict(sounds=gymnasium.spaces.Box(-np.inf, np.inf, [2], np.float32))


gymnasium.register("Keyed-v0", Heard)
tfppo.register_environment("Keyed-v0", Keyed)
for name, environment in {"Both-v0": Spring, "Blind-v0": Blind, "Free-v0": Free}.items():
    gymnasium.register(name, Lever)
    tfppo.register_environment(name, environment)
'''
TINY = [
    *("--num-envs", "2", "--rollout-length", "8", "--total-steps", "32", "--hidden-units", "4"),
    *("--minibatch-size", "16", "--num-epochs", "1", "--eval-episodes", "2", "--video-episodes", "1"),
    *("--device", "cpu", "--compile-rollout", "eager", "--compile-update", "eager", "--runs-dir", "runs"),
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Makes a current folder with a module of environments.

    After the test, the environments are removed from the registries.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (tmp_path / "mine_own.py").write_text(MODULE)
    (tmp_path / "spring_force.py").write_text("CONSTANT = 1.0\n")
    known = IN_GRAPH_ENVIRONMENTS, gymnasium.registry
    before = [dict(registry) for registry in known]
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] in ("mine_own", "mine_broken", "spring_force")]:
        del sys.modules[name]
    for registry, entries in zip(known, before, strict=True):
        registry.clear()
        registry.update(entries)


def tfppo(*arguments):
    return cli.main([str(argument) for argument in arguments])


def train(env, *options):
    return tfppo("train", "control", "--env", env, *TINY, *options)


def refused(capsys, *arguments):
    capsys.readouterr()
    assert tfppo(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("tfppo: ") and len(err.splitlines()) == 1, err
    return err


def test_an_in_graph_environment_goes_all_the_way(here, capsys):
    env, folder = "mine_own:Spring-v0", here / "runs" / "mine_own-Spring-v0-seed1"
    assert train(env) == 0
    out, err = capsys.readouterr()
    assert err == "" and f"{env} (in-graph), 2 environments" in out
    (line,) = [line for line in out.splitlines() if line.startswith("no video")]
    assert f"{env} has only an in-graph form" in line
    evaluation = json.loads((folder / run_folder.EVALUATION).read_text())
    assert evaluation["env"] == env and 6 <= evaluation["mean"] <= 66
    assert f"episodes of {env}: " in out
    assert (folder / run_folder.CURVE).exists()
    with (folder / run_folder.METRICS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["rollout/episode_length_mean"]) == 6.0
    assert tfppo("resume", folder, "--env", env) == 0
    assert json.loads((folder / run_folder.EVALUATION).read_text())["weights"] == evaluation["weights"]
    capsys.readouterr()
    assert tfppo("evaluate", folder, "--env", env, "--episodes", "2") == 0
    assert evaluation["weights"] in capsys.readouterr().out
    assert tfppo("export", folder, "--env", env) == 0
    act = tf.saved_model.load(folder / run_folder.EXPORT).signatures["act"]
    assert act(observations=tf.zeros([3, 2]))["actions"].shape == [3]


def test_ctrl_c_in_the_evaluation_says_how_to_go_on(here, heard_ctrl_c, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "play_episodes", lambda *_, **__: signal.raise_signal(signal.SIGINT))
        assert train("mine_own:Spring-v0", "--name", "a") == 130
    command = "resume runs/a --env mine_own:Spring-v0"
    assert capsys.readouterr().err == f"tfppo: interrupted; resume with: tfppo {command}\n"
    assert tfppo(*command.split()) == 0
    assert (here / "runs" / "a" / run_folder.EVALUATION).exists()


@pytest.mark.slow
def test_seeds_and_the_bench_know_it_too(here, monkeypatch, capsys):
    whole = bench.compare_modes
    monkeypatch.setattr(
        bench, "compare_modes", lambda config, modes, *rest: whole(config, modes[1:], *rest)
    )  # fewer modes are faster
    assert train("mine_own:Spring-v0", "--seeds", "3,4", "--eval-episodes", "0") == 0
    names = [f"mine_own-Spring-v0-seed{seed}" for seed in (3, 4)]
    assert sorted(path.name for path in (here / "runs").iterdir()) == [*names, "plot-mine_own-Spring-v0.png"]
    sizes = ["--num-envs", "2", "--rollout-length", "8", "--total-steps", "16", "--minibatch-size", "16"]
    assert tfppo("bench", "--env", "mine_own:Spring-v0", *sizes, "--hidden-units", "4", "--repetitions", "1") == 0
    out, err = capsys.readouterr()
    assert "fused" in out and err == ""  # only in-graph environments have a fused program
    assert (here / "imported_by").read_text().split() == [str(os.getpid())]


@pytest.mark.parametrize(
    "vectorization",
    ["auto", pytest.param("sync", marks=pytest.mark.slow), pytest.param("async", marks=pytest.mark.slow)],
)
def test_gymnasiums_environment_goes_all_the_way(here, capsys, vectorization):
    env, folder = "mine_own:Lever-v0", here / "runs" / "mine_own-Lever-v0-seed1"
    assert train(env, "--vectorization", vectorization) == 0
    assert f"{env} (gymnasium)" in capsys.readouterr().out
    assert json.loads((folder / run_folder.EVALUATION).read_text())["mean"] == 21.0
    assert tfppo("resume", folder, "--env", env) == 0
    assert "all 2 environments continue exactly where they were" in capsys.readouterr().out
    assert tfppo("evaluate", folder, "--env", env, "--episodes", "1") == 0
    assert tfppo("export", folder, "--env", env) == 0


@pytest.mark.slow
def test_a_process_that_knows_nothing_imports_the_module(here, monkeypatch):
    method = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        (environment,) = [make_vector_environment("mine_own:Lever-v0", 2, "async")]
        environment.reset(seed=1)
        _, rewards, *_ = environment.step([0, 1])
        environment.close()
    finally:
        multiprocessing.set_start_method(method, force=True)
    assert rewards.tolist() == [7.0, 7.0]
    assert len(set((here / "imported_by").read_text().split())) == 3  # this process and two workers


def test_what_both_know_is_trained_in_graph_and_judged_by_gymnasium(here, capsys):
    assert train("mine_own:Both-v0") == 0
    assert "mine_own:Both-v0 (in-graph)" in capsys.readouterr().out
    folder = here / "runs" / "mine_own-Both-v0-seed1"
    assert json.loads((folder / run_folder.EVALUATION).read_text())["mean"] == 21.0
    assert train("mine_own:Both-v0", "--backend", "gymnasium", "--name", "other") == 0
    assert "mine_own:Both-v0 (gymnasium)" in capsys.readouterr().out


def test_an_in_graph_environment_is_stepped_from_python_where_that_is_asked_for(here):
    environment = make_vector_environment("mine_own:Spring-v0", 3, "sync")
    assert isinstance(environment, InGraphVectorEnv) and environment.num_envs == 3


def test_the_settings_keep_the_module(here):
    assert train("mine_own:Spring-v0", "--name", "a", "--eval-episodes", "0") == 0
    config = from_yaml(ControlRunConfig, (here / "runs" / "a" / run_folder.CONFIG).read_text())
    assert config.control.env == "mine_own:Spring-v0"


@pytest.mark.parametrize(
    ("env", "options", "words"),
    [
        ("mine_nowhere:Spring-v0", [], ["module mine_nowhere cannot be imported", "No module named 'mine_nowhere'"]),
        ("mine_own.py:Spring-v0", [], ["module mine_own.py cannot be imported", "dotted name"]),
        ("mine_broken:Spring-v0", [], ["mine_broken cannot be imported (RuntimeError: a spring broke in two)"]),
        ("mine_broken:Spring-v0", ["--backend", "graph"], ["mine_broken cannot be imported"]),
        ("mine_broken:Spring-v0", ["--backend", "gymnasium"], ["mine_broken cannot be imported"]),
        ("mine_own:Spring-v1", [], ["'mine_own:Spring-v1'", "does not register Spring-v1", "register_environment"]),
        ("mine_own:Lever-v7", ["--vectorization", "async"], ["does not register Lever-v7", "v0"]),
        ("mine_own:Lever-v0", ["--vectorization", "native"], ["mine_own:Lever-v0 has no native form"]),
        ("mine_own:Lever-v0", ["--vectorization", "envpool"], ["envpool"]),
        ("mine_own:Lever-v0", ["--backend", "graph"], ["backend graph allows only in-graph environments", "Spring-v0"]),
        ("mine_own:Lever-v0", ["--fused", "True"], ["fused", "mine_own:Lever-v0 is stepped by Gymnasium"]),
        ("mine_own:Blind-v0", [], ["mine_own:Blind-v0 has observation_space Box(", "another ID"]),
        ("mine_own:Keyed-v0", [], ["has observation_space Dict(", "Sequence"]),
        ("mine_own:Free-v0", [], ["action_space Discrete(3) in the graph and Discrete(2) in Gymnasium"]),
        ("mine_own:", [], ["module:CartPole-v1", "'mine_own:'"]),
        (":Spring-v0", [], ["module:CartPole-v1", "':Spring-v0'"]),
        ("mine_own:Spring:v0", [], ["module:CartPole-v1", "'mine_own:Spring:v0'"]),
    ],
)
@pytest.mark.parametrize("command", [["train", "control"], ["bench"]], ids=" ".join)
def test_a_mistake_is_one_line(here, capsys, command, env, options, words):
    (here / "mine_broken.py").write_text("raise RuntimeError('a spring\\n\\nbroke in two')\n")
    err = refused(capsys, *command, "--env", env, *options)
    assert all(word in err for word in words), err
    assert not (here / "runs").exists()


def test_a_run_wants_the_module_named_again(here, capsys):
    assert train("mine_own:Spring-v0", "--name", "a", "--eval-episodes", "0") == 0
    for command in ("resume", "evaluate", "export"):
        assert "--env mine_own:Spring-v0" in refused(capsys, command, here / "runs" / "a")
        assert "--env is 'Spring-v0'" in refused(capsys, command, here / "runs" / "a", "--env", "Spring-v0")
