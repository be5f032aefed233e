"""The examples run as they are. tests/test_documentation.py runs the Python in README.md and in docs/."""

import json
import runpy
from pathlib import Path

import gymnasium
import pytest
import tensorflow as tf

from tfppo.control.envs.environment import IN_GRAPH_ENVIRONMENTS, registered_id

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
