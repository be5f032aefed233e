"""Whole iterations as one program: the same numbers as the two programs."""

import numpy as np
import pytest

from tfppo.control.fused import fused_iterations
from tfppo.control.recipes import control_run
from tfppo.control.train import ControlTrainer

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
    return ControlTrainer(control_run(env, compile_rollout=mode, compile_update=mode, **SMALL | settings))


def state_of(trainer):
    variables = [*trainer.policy.trainable_variables, *trainer.learner.optimizer.variables]
    return [np.asarray(v) for v in (*variables, *trainer.collector.state, *trainer.normalization.state)]


@pytest.mark.parametrize("mode", ["graph", "xla"])
@pytest.mark.parametrize("env", ["Pendulum-v1", "Acrobot-v1"])  # gSDE; normalisation
def test_one_program_does_what_two_do(env, mode):
    apart, fused = make(env, mode), make(env, mode, fused=True)
    for (number, expected), (same, row) in zip(apart.iterations(), fused.iterations(), strict=True):
        assert number == same
        for name, value in row.items():
            if not name.startswith("time/"):
                np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
        assert set(row) == set(expected) - {"time/rollout_s", "time/update_s"}
    for a, b in zip(state_of(apart), state_of(fused), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


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


def test_no_interval_ends_within_a_call():
    trainer = make(fused=True)
    calls = fused_iterations(trainer.collector, trainer.learner, 11, "/CPU:0", "graph", (3, 5))
    assert [(number, count) for number, count, _, _ in calls] == [(2, 3), (4, 2), (5, 1), (8, 3), (9, 1), (10, 1)]
    assert int(trainer.learner.iteration) == 11


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
