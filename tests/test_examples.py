"""The examples, and the Python in README.md, run as they stand."""

import json
import re
import runpy
import sys
from pathlib import Path

import gymnasium
import pytest
import tensorflow as tf

from tfppo import ControlTrainer, cli, make_control_config
from tfppo.control.envs.environment import IN_GRAPH_ENVIRONMENTS, registered_id
from tfppo.text.tasks import task

ROOT = Path(__file__).parent.parent


def documents_example():
    return runpy.run_path(str(ROOT / "examples" / "document_cartpole.py"))["main"]


@pytest.mark.slow
def test_the_documents_example_learns(capsys):
    assert documents_example()() >= 95
    assert "of 100" in capsys.readouterr().out


def test_a_tenth_of_the_documents_example_learns_something(capsys):
    assert documents_example()(train_steps=40) >= 40  # chance: 22
    out = capsys.readouterr().out
    assert "of 100" in out and out.rstrip()[-2:] in (" 0", " 1")


TINY = {"iterations": 2, "batch_size": 8, "minibatch_size": 8, "response_length": 6, "eval_prompts": 6}


def test_the_text_example_runs(preset, tmp_path, capsys):
    main = runpy.run_path(str(ROOT / "examples" / "text_reward.py"))["main"]
    main(**TINY, preset=preset, runs_dir=tmp_path)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["iteration"] == 2 and set(last) >= {"prompt", "reference", "policy"}
    assert (tmp_path / "questions" / "evaluation.json").exists()


def test_the_task_of_the_readme_runs(preset, tmp_path, monkeypatch):
    (code,) = [code for code in python_of_the_readme() if "register_task" in code]
    assert len([line for line in code.splitlines() if line]) <= 15
    small = code.replace("iterations=50", "**tiny")
    assert small != code
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(task, "_TASKS", dict(task._TASKS))  # it stays registered here only
    exec(compile(small, "README.md", "exec"), {"tiny": TINY | {"preset": preset}})
    assert (tmp_path / "runs" / "short-words-seed1" / "evaluation.json").exists()


def python_of_the_readme():
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_the_environment_of_the_readme_learns(tmp_path, monkeypatch, capsys):
    """By the README's own commands, which find it in the folder that it is in."""
    (code,) = [code for code in python_of_the_readme() if "register_environment" in code]
    assert len(code.strip().splitlines()) <= 40
    (tmp_path / "catch.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    for known, name in ((sys.modules, "catch"), (IN_GRAPH_ENVIRONMENTS, "Catch-v0")):
        monkeypatch.setitem(known, name, None)  # it stays known here only
        monkeypatch.delitem(known, name)
    text = (ROOT / "README.md").read_text()
    verbs = ("train", "evaluate")
    train, evaluate = (re.search(f"tfppo {verb}[^`#\\n]*catch:Catch-v0[^`#\\n]*", text)[0] for verb in verbs)
    assert cli.main(train.split()[1:]) == 0
    assert "catch:Catch-v0 (in-graph)" in capsys.readouterr().out
    evaluation = json.loads((tmp_path / "runs" / "catch-Catch-v0-seed1" / "evaluation.json").read_text())
    assert evaluation["mean"] >= 0.95 and evaluation["stochastic"]["mean"] >= 0.9
    assert cli.main(evaluate.split()[1:]) == 0
    assert f"of catch:Catch-v0: {evaluation['mean']:.1f}" in capsys.readouterr().out
    assert (
        'tfppo.make_control_config("catch:Catch-v0")' in text
        and ControlTrainer(make_control_config("catch:Catch-v0")).in_graph
    )


@pytest.mark.parametrize(
    "env",
    [
        "examples.cartpole_variants:MaskedCartPole-v0",
        "examples.cartpole_variants:HalfBlindCartPole-v0",
        "examples.catch_from_pixels:PixelCatch-v0",
    ],
)
def test_the_example_environments_are_found_by_name(env):
    environment = IN_GRAPH_ENVIRONMENTS[registered_id(env)]()
    state = environment.reset(3, (1, 2))
    observations = environment.observe(state)
    for x, space in zip(tf.nest.flatten(observations), tf.nest.flatten(parts_of(environment)), strict=True):
        assert all(row in space for row in x.numpy().astype(space.dtype))
    state, rewards, terminated = environment.step(state, tf.zeros([3], tf.int32), (3, 4))
    assert rewards.shape == terminated.shape == (3,)


def parts_of(environment):
    space = environment.observation_space
    return dict(space.items()) if isinstance(space, gymnasium.spaces.Dict) else space


def test_the_readme_example_learns(tmp_path, monkeypatch, capsys):
    code = python_of_the_readme()[0]
    assert len(code.strip().splitlines()) <= 12
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    last = capsys.readouterr().out.strip().splitlines()[-1].split()
    assert float(last[1]) >= 475
    assert (tmp_path / "actor.keras").exists()
