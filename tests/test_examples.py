"""The examples run as they are. tests/test_documentation.py runs the Python in README.md and in docs/."""

import importlib
import json
import runpy
import sys
from pathlib import Path

import gymnasium
import pytest
import tensorflow as tf
from support.pages import blocks

import tfppo
from tfppo.cli import main as command
from tfppo.control.envs.environment import IN_GRAPH_ENVIRONMENTS
from tfppo.control.envs.registration import registered_id

ROOT = Path(__file__).parent.parent


def documents_example():
    return runpy.run_path(str(ROOT / "examples" / "document_cartpole.py"))["main"]


@pytest.mark.slow
def test_the_documents_example_learns(capsys):
    assert documents_example()() >= 95
    assert "of 100" in capsys.readouterr().out


@pytest.mark.slow
def test_a_tenth_of_the_documents_example_learns_something(capsys):
    assert documents_example()(train_steps=40) >= 40  # chance: 22
    out = capsys.readouterr().out
    assert "of 100" in out and out.rstrip()[-2:] in (" 0", " 1")


TINY = {"iterations": 2, "batch_size": 8, "minibatch_size": 8, "response_length": 6, "eval_prompts": 6}


@pytest.mark.slow
def test_the_text_example_runs(preset, tmp_path, capsys):
    main = runpy.run_path(str(ROOT / "examples" / "text_reward.py"))["main"]
    main(**TINY, preset=preset, runs_dir=tmp_path)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["iteration"] == 2 and set(last) >= {"prompt", "reference", "policy"}
    assert (tmp_path / "questions" / "evaluation.json").exists()


@pytest.mark.slow
def test_the_three_steps_run(tmp_path, capsys):
    main = runpy.run_path(str(ROOT / "examples" / "instructgpt.py"))["main"]
    main(**TINY, folder=tmp_path, count=100)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["iteration"] == 2 and set(last) >= {"prompt", "reference", "policy"}
    for step in (1, 2, 3):
        assert (tmp_path / f"step-{step}" / "evaluation.json").exists()


@pytest.mark.slow
def test_an_opinion_is_drawn_over_time(preset, tmp_path, capsys):
    """With a model that was not trained on headlines, so its answers are no opinions."""
    settings = TINY | {"task": "finance", "preset": preset, "prompt_length": None, "runs_dir": tmp_path}
    run = tfppo.train_text(tfppo.make_text_config(**settings))
    main = runpy.run_path(str(ROOT / "examples" / "finance_stream.py"))["main"]
    assert main(run, days=3).exists()
    out = capsys.readouterr().out
    assert "reading 36 headlines" in out and "Garnet Bank: 0% of the headlines" in out


SMALL = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]


def use_to_its_end(folder, options, again):
    """Resumes, evaluates, samples from and exports a run, and starts a second run from the export."""
    assert command(["resume", str(folder), *options]) == 0
    assert command(["evaluate", str(folder), *options, "--prompts", "2"]) == 0
    assert command(["generate", str(folder), "--prompt", "It"]) == 0
    assert command(["export", str(folder)]) == 0
    runs = ["--runs-dir", str(folder.parent), "--name", "second", "--preset", str(folder / "export")]
    assert command(["train", "text", *again, *SMALL, *runs]) == 0
    assert (folder.parent / "second" / "evaluation.json").exists()


@pytest.mark.slow
def test_a_run_of_the_text_example_is_of_use_afterwards(preset, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT / "examples")
    monkeypatch.syspath_prepend(ROOT / "examples")
    importlib.import_module("text_reward").main(**TINY, preset=preset, runs_dir=tmp_path)
    options = ["--reward", "text_reward:asks"]
    use_to_its_end(tmp_path / "questions", options, [*options, "--task", "sentiment"])


@pytest.mark.slow
def test_a_run_of_the_guides_task_is_of_use_afterwards(preset, tmp_path, monkeypatch):
    page = blocks(ROOT / "docs" / "guide" / "language-models.md")
    (code,) = (block.code for block in page if block.marker == "file short_words.py")
    (tmp_path / "short_words.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--task", "short_words:task"]
    runs = ["--runs-dir", str(tmp_path), "--name", "first", "--preset", str(preset)]
    assert command(["train", "text", *options, *SMALL, *runs]) == 0
    use_to_its_end(tmp_path / "first", options, options)
    del sys.modules["short_words"]


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
