"""Tests that equal seeds give equal runs, and that all compilation modes compute the same update."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from tfppo import ControlRunConfig, ControlTrainer, TextTrainer, make_text_config
from tfppo.control import run as control
from tfppo.control.config import ControlConfig
from tfppo.execution.variables import weights_hash
from tfppo.ppo.config import PPOConfig
from tfppo.training.config import RunConfig
from tfppo.training.pipeline import prompt_dataset

GRAPH = {"compile_rollout": "graph", "compile_update": "graph", "device": "cpu"}
SMALL = {"num_envs": 4, "rollout_length": 16, "total_steps": 64 * 3, "hidden_units": (8,), "video_episodes": 0}
KINDS = {
    "in the graph": {},
    "gymnasium": {"backend": "gymnasium", "vectorization": "sync"},
    "processes and a memory": {"backend": "gymnasium", "vectorization": "async", "lstm_units": 4},
    "densities": {"env": "Pendulum-v1", "box_policy": "gsde", "normalize_observations": True},
}


def control_config(seed=1, folder=None, name=None, modes=GRAPH, **settings):
    run = RunConfig(seed=seed, name=name, **modes, **({} if folder is None else {"runs_dir": folder}))
    sizes = PPOConfig(num_epochs=2, minibatch_size=32)
    return ControlRunConfig(run, ControlConfig(**SMALL | {"eval_episodes": 1} | settings), sizes)


def text_config(preset, seed=1, modes=GRAPH):
    small = {"iterations": 2, "batch_size": 8, "minibatch_size": 4, "response_length": 6, "eval_prompts": 4}
    return make_text_config(task="length", preset=preset, seed=seed, num_epochs=1, **small, **modes)


def assert_only_the_seed_counts(train):
    """Returns `train(seed, name)`, which returns the hash of the final weights."""
    one, same, other = (train(seed, name) for seed, name in ((1, "one"), (1, "same"), (2, "other")))
    assert one == same != other


@pytest.mark.slow  # quick: resumed runs end with the same bits
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_is_the_same_run_of_control(kind, tmp_path):
    def train(seed, name):
        folder = control.train_control(control_config(seed, tmp_path, name, **KINDS[kind]))
        return json.loads((folder / "evaluation.json").read_text())["weights"]

    assert_only_the_seed_counts(train)


@pytest.mark.slow
def test_the_same_seed_is_the_same_run_of_text(preset):
    def train(seed, _):
        trainer = TextTrainer(text_config(preset, seed))
        list(trainer.iterations())
        return weights_hash(trainer.weights)

    assert_only_the_seed_counts(train)


def updated(trainer, rollout):
    """Returns the weights after one update."""
    before = [v.numpy() for v in trainer.weights]
    trainer.learner.update(rollout)
    return before, [v.numpy() for v in trainer.weights]


def assert_modes_agree(make, rollout):
    """Returns `make(modes)`, which makes a trainer. All trainers train on the same rollout."""
    results = {}
    for mode in ("eager", "graph", "xla"):
        results[mode] = updated(make({"device": "cpu", "compile_rollout": "graph", "compile_update": mode}), rollout)
    before, eager = results["eager"]
    assert max(np.abs(a - b).max() for a, b in zip(before, eager, strict=True)) > 1e-3
    for mode in ("graph", "xla"):
        assert all(np.array_equal(a, b) for a, b in zip(before, results[mode][0], strict=True))
        for a, b in zip(eager, results[mode][1], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5, err_msg=mode)


@pytest.mark.slow
def test_control_is_updated_alike_however_it_is_compiled():
    rollout = ControlTrainer(control_config()).collector.collect(tf.constant(0, tf.int64))
    assert_modes_agree(lambda modes: ControlTrainer(control_config(modes=modes)), rollout)


@pytest.mark.slow
def test_text_is_updated_alike_however_it_is_compiled(preset):
    def make(modes):
        config = text_config(preset, modes=modes)
        return TextTrainer(dataclasses.replace(config, ppo=dataclasses.replace(config.ppo, learning_rate=3e-3)))

    trainer = make(GRAPH)
    (batch,) = prompt_dataset(*trainer.prompts[:2], 8, 1).take(1)
    assert_modes_agree(make, trainer.collector.collect(tf.constant(0, tf.int64), *batch))
