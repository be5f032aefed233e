"""Iterations as one program: the results equal those of two programs."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from tfppo.control.envs.classic import CartPole
from tfppo.control.recipes import make_control_config
from tfppo.control.rollouts import fused
from tfppo.control.rollouts.batches import to_batch
from tfppo.control.rollouts.fused import fuse, fused_iterations
from tfppo.control.rollouts.graph import GraphCollector
from tfppo.control.rollouts.normalization import Normalization
from tfppo.control.trainer import ControlTrainer
from tfppo.execution.variables import named_variables
from tfppo.ppo.config import PPOConfig
from tfppo.ppo.learner import PPOLearner

SMALL = {
    "num_envs": 4,
    "rollout_length": 16,
    "total_steps": 64 * 11,
    "minibatch_size": 32,
    "num_epochs": 2,
    "hidden_units": (8,),
    "device": "cpu",
}


def make(env="Pendulum-v1", mode="graph", **settings):
    return ControlTrainer(make_control_config(env, compile_rollout=mode, compile_update=mode, **SMALL | settings))


def state_of(trainer):
    variables = [*trainer.policy.trainable_variables, *trainer.learner.optimizer.variables]
    return [np.asarray(v) for v in (*variables, *trainer.collector.state, *trainer.normalization.state)]


@pytest.mark.parametrize(
    ("env", "mode"),  # with gSDE; with normalization
    [
        ("Pendulum-v1", "graph"),
        pytest.param("Acrobot-v1", "graph", marks=pytest.mark.slow),
        pytest.param("Pendulum-v1", "xla", marks=pytest.mark.slow),
        pytest.param("Acrobot-v1", "xla", marks=pytest.mark.slow),
    ],
)
def test_one_program_does_what_two_do(env, mode):
    """Each iteration starts from the same state in both, so that rounding errors do not add up over iterations.

    Only the number of gradient steps in one iteration then bounds the errors, on any processor.
    """
    apart, together = make(env, mode), make(env, mode, fused=True)
    for (number, expected), (same, row) in zip(apart.iterations(), together.iterations(), strict=True):
        assert number == same
        for name, value in row.items():
            if not name.startswith("time/"):
                np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
        assert set(row) == set(expected) - {"time/rollout_s", "time/update_s"}
        for a, b in zip(state_of(apart), state_of(together), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
        for name, variable in named_variables(together.state).items():
            variable.assign(named_variables(apart.state)[name])


@pytest.mark.slow
def test_several_iterations_a_call_are_those_of_one_a_call():
    often, seldom = make(fused=True), make(fused=True, log_interval=4)
    rows = dict(often.iterations())
    fewer = dict(seldom.iterations())
    assert list(rows) == list(range(11)) and list(fewer) == [3, 7, 10]
    for number, row in fewer.items():
        for name, value in row.items():
            if not name.startswith("time/"):
                np.testing.assert_array_equal(value, rows[number][name], err_msg=name)
    for a, b in zip(state_of(often), state_of(seldom), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_one_program_has_one_mode():
    assert make().modes == {"rollout": "graph", "update": "graph"}
    modes = {"compile_rollout": "xla", "compile_update": "graph"}
    trainer = ControlTrainer(make_control_config("Pendulum-v1", **SMALL | modes | {"fused": True}))
    assert trainer.modes == {"fused": "graph"}


@pytest.mark.slow
def test_no_interval_ends_within_a_call():
    trainer = make(fused=True)
    calls = fused_iterations(trainer.collector, trainer.learner, 11, "/CPU:0", "graph", (3, 5))
    assert [(number, count) for number, count, _, _ in calls] == [(2, 3), (4, 2), (5, 1), (8, 3), (9, 1), (10, 1)]
    assert int(trainer.learner.iteration) == 11


@pytest.mark.slow
def test_a_fused_run_goes_on_where_it_was_left():
    trainer, whole = make(fused=True), make(fused=True)
    for number, _ in trainer.iterations():
        if number == 4:
            break
    assert [number for number, _ in trainer.iterations()] == list(range(5, 11))
    for _ in whole.iterations():
        pass
    for a, b in zip(state_of(trainer), state_of(whole), strict=True):
        np.testing.assert_array_equal(a, b)


# ----- The program itself

ITERATIONS, NUM_ENVS, LENGTH = 4, 4, 8
PPO = PPOConfig(
    minibatch_size=16,
    num_epochs=2,
    learning_rate=0.02,
    clip_ratio_schedule="linear",
    gamma=0.9,
    kl_controller="schulman",
    kl_coeff=0.5,
    adaptive_kl_target=1e-4,
)


@pytest.fixture
def make_trainer(make_policy):
    """Makes the collector and the learner of a small run."""

    def make_trainer():
        policy, environment = make_policy(), CartPole()
        normalization = Normalization(environment.observation_space, NUM_ENVS, PPO.gamma, True, True)
        collector = GraphCollector(
            policy, environment, NUM_ENVS, LENGTH, normalization=normalization, seed=5, mode="graph"
        )
        prepare = lambda rollout: to_batch(policy, rollout, PPO.gamma, PPO.gae_lambda)  # noqa: E731
        return collector, PPOLearner(policy, PPO, ITERATIONS, prepare=prepare, seed=5, mode="graph")

    return make_trainer


def variables(collector, learner):
    """Returns all variables that training changes, by name."""
    return {
        "policy": learner.policy.trainable_variables,
        "optimizer": learner.optimizer.variables,
        "learner": [learner.iteration, learner.kl_coeff],
        "collector": collector.state,
        "normalization": collector.normalization.state,
    }


def values(collector, learner):
    return {name: [x.numpy() for x in held] for name, held in variables(collector, learner).items()}


def floats(metrics):
    return {name: float(value) for name, value in metrics.items()}


def integer(number):
    return tf.constant(number, tf.int64)


def assert_same(actual, expected):
    assert set(actual) == set(expected)
    for name, wanted in expected.items():
        for a, b in zip(tf.nest.flatten(actual[name]), tf.nest.flatten(wanted), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_all_that_changes_is_the_same_after_every_iteration(make_trainer):
    """Weights, optimizer, episodes, statistics and metrics are the same after every iteration.

    They are also the same after all iterations in one call. There is one trace for every number of iterations.
    """
    collector, learner = make_trainer()
    start, expected = values(collector, learner), []
    for k in range(ITERATIONS):
        rollout = collector.collect(integer(k))
        metrics = floats(rollout.metrics | learner.update(rollout))
        expected.append((metrics, values(collector, learner)))
    for name, before in start.items():
        assert any(not np.array_equal(a, b) for a, b in zip(expected[-1][1][name], before, strict=True)), name
    assert metrics["rollout/episodes"] > 3

    collector, learner = make_trainer()
    program = fuse(collector, learner, "graph")
    for k, (metrics, after) in enumerate(expected):
        assert_same(floats(program(integer(k), integer(1))), metrics)
        assert_same(values(collector, learner), after)
    for name, held in variables(collector, learner).items():
        for variable, value in zip(held, start[name], strict=True):
            variable.assign(value)
    metrics, after = expected[-1]
    assert_same(floats(program(integer(0), integer(ITERATIONS))), metrics)
    assert_same(values(collector, learner), after)
    assert program.experimental_get_tracing_count() == 1


@pytest.mark.parametrize(
    ("first", "stop", "intervals", "ends"),
    [
        (0, 13, (3, 5), [3, 5, 6, 9, 10, 12, 13]),
        (0, 6, (1, 20), [1, 2, 3, 4, 5, 6]),
        (0, 7, (100, 200), [7]),
        (4, 12, (3, 5), [5, 6, 9, 10, 12]),
        (5, 10, (5, 5), [10]),
        (7, 7, (3, 5), []),
    ],
)
def test_calls_end_where_the_first_interval_does(monkeypatch, first, stop, intervals, ends):
    """Rows and checkpoints are due between calls, for any first iteration."""
    calls = []

    def note(first, count):
        calls.append((int(first), int(count)))
        return {"loss/total": tf.constant(0.5), "guard/skipped_updates": tf.constant(0.0)}

    monkeypatch.setattr(fused, "fuse", lambda collector, learner, mode: note)
    learner = SimpleNamespace(iteration=tf.Variable(first, dtype=tf.int64))
    rows = list(fused_iterations(None, learner, stop, "/CPU:0", "graph", intervals))
    starts = [first, *ends[:-1]] if ends else []
    assert calls == [(start, end - start) for start, end in zip(starts, ends, strict=True)]
    assert [(number, count) for number, count, *_ in rows] == [(start + count - 1, count) for start, count in calls]
    assert all(row == {"loss/total": 0.5, "guard/skipped_updates": 0.0} for *_, row, _ in rows)
