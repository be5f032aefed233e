"""The optimizers: their steps against slow formulas, compiled and after a resume; optimizers of the user."""

import dataclasses
from contextlib import closing

import keras
import numpy as np
import pytest
from slow_learner import START, LinearPolicy, SlowLearner, make_batch, tensors
from support.refusal import refusal

from tfppo.control import run
from tfppo.control.recipes import make_control_config
from tfppo.control.trainer import CONTROL, ControlTrainer
from tfppo.execution.replicas import Replicas
from tfppo.ppo.config import PPOConfig
from tfppo.ppo.learner import PPOLearner
from tfppo.training import driver

CONFIG = PPOConfig(num_epochs=2, minibatch_size=6, learning_rate=0.05, max_grad_norm=0.5)
KINDS = {
    "adam": {},
    "adamw": {"weight_decay": 0.3},
    "rmsprop": {"rmsprop_rho": 0.7, "adam_epsilon": 1e-3},
    "sgd": {},
}
SMALL = {"num_envs": 4, "rollout_length": 8, "minibatch_size": 16, "total_steps": 128, "hidden_units": (4,)}
EAGER = {"compile_rollout": "eager", "compile_update": "eager", "device": "cpu", "num_epochs": 2}


class SlowOptimizer(SlowLearner):
    """The learner in NumPy with the other optimizers."""

    def apply(self, slopes, learning_rate):
        if self.config.optimizer in ("adam", "adamw"):
            decay = self.config.weight_decay if self.config.optimizer == "adamw" else 0.0
            for w in self.weights:
                w -= learning_rate * decay * w
            super().apply(slopes, learning_rate)
            return
        self.steps += 1
        for w, v, slope in zip(self.weights, self.second_moments, slopes, strict=True):
            if self.config.optimizer == "rmsprop":
                v += (1 - self.config.rmsprop_rho) * (slope**2 - v)
                w -= learning_rate * slope / np.sqrt(v + self.config.adam_epsilon)
            else:
                w -= learning_rate * slope


def trained(mode="eager", optimizer=None, config=CONFIG):
    learner = PPOLearner(LinearPolicy(START), config, 4, mode=mode, optimizer=optimizer)
    for seed in (1, 2):
        learner.update(tensors(make_batch((12,), seed=seed)))
    return learner.policy.weights, learner


@pytest.mark.parametrize(
    "mode", [pytest.param("eager", marks=pytest.mark.slow), "graph", pytest.param("xla", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_each_optimizer_steps_as_its_formula_says(kind, mode):
    config = dataclasses.replace(CONFIG, optimizer=kind, **KINDS[kind])
    slow = SlowOptimizer(config, 4)
    for seed in (1, 2):
        slow.update(make_batch((12,), seed=seed))
    weights, learner = trained(mode, config=config)
    for ours, wanted in zip(weights, slow.weights, strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-5)
    assert learner.optimizer.iterations == slow.steps == 8
    assert max(np.abs(ours - start).max() for ours, start in zip(weights, START, strict=True)) > 0.01


def test_an_optimizer_of_the_user_replaces_that_of_the_settings():
    config = dataclasses.replace(CONFIG, optimizer="rmsprop", learning_rate=0.02)
    wanted, _ = trained(config=config)
    given, learner = trained(optimizer=keras.optimizers.RMSprop(0.02, rho=0.9, epsilon=config.adam_epsilon))
    for a, b in zip(given, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    assert learner.config.learning_rate == pytest.approx(0.02)
    moved, _ = trained("graph", keras.optimizers.SGD(0.02, momentum=0.9, nesterov=True))
    assert max(np.abs(a - b).max() for a, b in zip(moved, wanted, strict=True)) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adamw", "rmsprop", "sgd"])
def test_a_run_is_resumed_to_the_same_bits(kind, tmp_path, monkeypatch):
    settings = SMALL | EAGER | {"optimizer": kind, "eval_episodes": 0, "video_episodes": 0, "checkpoint_interval": 1}
    whole, cut = (make_control_config(runs_dir=tmp_path, name=name, **settings) for name in ("whole", "cut"))
    run.train_control(whole)
    original = ControlTrainer.iterations

    def two(self):
        for _, row in zip(range(2), original(self), strict=False):
            yield row
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(ControlTrainer, "iterations", two)
        with pytest.raises(RuntimeError, match="power cut"):
            run.train_control(cut)
    driver.resume(CONTROL, tmp_path / "cut")
    states = []
    for name in ("whole", "cut"):
        with driver.opened(CONTROL, tmp_path / name, "latest") as trainer:
            states.append([np.array(x) for x in (*trainer.weights, *trainer.learner.optimizer.variables)])
    assert len(states[0]) > 4
    for a, b in zip(*states, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_trainer_takes_an_optimizer():
    optimizer = keras.optimizers.Lion(1e-3)
    with closing(ControlTrainer(make_control_config(**SMALL, **EAGER), optimizer=optimizer)) as trainer:
        rows = [row for _, row in trainer.iterations()]
    assert trainer.learner.optimizer is optimizer and optimizer.iterations == len(rows) * 4
    assert rows[0]["schedule/learning_rate"] == pytest.approx(1e-3)


def test_optimizers_that_cannot_be_used_are_refused():
    def make(optimizer, **options):
        return PPOLearner(LinearPolicy(START), CONFIG, 4, mode="eager", optimizer=optimizer, **options)

    used = keras.optimizers.Adam()
    used.build(LinearPolicy(START).trainable_variables)
    scheduled = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 10))
    assert "it must be a keras.optimizers.Optimizer" in refusal(make, "adam")
    assert "has already been used" in refusal(make, used)
    assert "has a learning rate schedule" in refusal(make, scheduled)
    two = type("Two", (Replicas,), {"count": 2, "divide": lambda *_: None})
    assert "there are 2 replicas" in refusal(make, keras.optimizers.Adam(), replicas=two.__new__(two))
