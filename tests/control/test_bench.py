"""Measuring the compilation modes: equal work in each mode, the arithmetic, and no side effects."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tfppo.control import bench
from tfppo.control.bench import Comparison, Measurement, compare_modes
from tfppo.control.recipes import make_control_config
from tfppo.control.trainer import ControlTrainer
from tfppo.errors import UsageError

SMALL = {
    "num_envs": 4,
    "rollout_length": 8,
    "total_steps": 320,
    "minibatch_size": 16,
    "num_epochs": 2,
    "hidden_units": (8,),
    "device": "cpu",
}
GRAPHS = ("graph", "eager")  # these modes give the same bits


def config(env="CartPole-v1", **settings):
    return make_control_config(env, **SMALL | settings)


@pytest.fixture
def trainers(monkeypatch):
    """The trainers that the test makes."""
    made, make = [], bench.ControlTrainer

    def note(*arguments):
        made.append(make(*arguments))
        return made[-1]

    monkeypatch.setattr(bench, "ControlTrainer", note)
    return made


def state_of(trainer):
    learner = trainer.learner
    variables = [*trainer.policy.trainable_variables, *learner.optimizer.variables, learner.iteration]
    return [np.array(v) for v in (*variables, *trainer.collector.state, *trainer.normalization.state)]


def assert_same(actual, expected):
    for a, b in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_every_phase_is_measured_in_every_mode(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shares = []
    comparison = compare_modes(config(compile_update="eager"), repetitions=2, progress=shares.append)
    cells = [(m.phase, m.mode) for m in comparison.measurements]
    assert cells == list(itertools.product(("rollout", "update", "fused"), ("xla", "graph")))
    for m in comparison.measurements:
        assert len(m.seconds) == 2 and min(m.seconds) > 0
        assert m.first_seconds > max(m.seconds)  # the first call compiles
    assert (comparison.iterations, comparison.device) == (10, "/CPU:0")
    assert comparison.auto == {
        "rollout": "graph",
        "update": "graph",
    }  # the rule for a short run; the settings have no effect
    np.testing.assert_allclose(shares, np.arange(1, 19) / 18)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_auto_is_the_rule_of_a_long_run_and_follows_fused():
    settings = {"total_steps": 320 * 1000, "num_epochs": 10, "compile_rollout": "graph", "compile_update": "graph"}
    assert compare_modes(config(**settings), ("graph",), 1).auto == {"rollout": "xla", "update": "xla"}
    assert compare_modes(config(**settings, fused=True), ("graph",), 1).auto == {"fused": "xla"}


@pytest.mark.slow
def test_updates_and_fused_iterations_start_from_the_same_state_and_rollout(monkeypatch, trainers):
    """Every call sees the initial variables; every mode is compiled separately."""
    calls, programs = [], []

    def noting(make):
        def make_and_note(*arguments):
            program = make(*arguments)
            programs.append(program)

            def call(*given):
                calls.append((state_of(trainers[0]), given))
                result = program(*given)
                assert any((a != b).any() for a, b in zip(state_of(trainers[0]), calls[-1][0], strict=True))
                return result

            return call

        return make_and_note

    monkeypatch.setattr(bench, "compiled", noting(bench.compiled))
    monkeypatch.setattr(bench, "fuse", noting(bench.fuse))
    compare_modes(config("Acrobot-v1"), GRAPHS, 2)  # with normalization
    assert len(calls) == 12 and len({id(program) for program in programs}) == 4
    for state, _ in calls:
        assert_same(state, calls[0][0])
    assert_same(calls[0][0], state_of(ControlTrainer(config("Acrobot-v1"))))  # the state of an untrained run
    rollouts = [given[0] for _, given in calls[:6]]
    assert all(rollout is rollouts[0] for rollout in rollouts)
    assert rollouts[0].rewards.shape == (8, 4)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["gymnasium", "graph"])
def test_rollouts_are_the_same_iterations_from_the_same_start(monkeypatch, backend):
    yielded = []

    def note(*arguments):
        yielded.append([])
        for rollout in rollout_dataset(*arguments):
            yielded[-1].append(rollout)
            yield rollout

    rollout_dataset = bench.rollout_dataset
    monkeypatch.setattr(bench, "rollout_dataset", note)
    settings = {"backend": backend, "normalize_observations": True, "normalize_rewards": True}
    phases = compare_modes(config(**settings), GRAPHS, 2).measurements
    assert {m.phase for m in phases} == (
        {"rollout", "update", "fused"} if backend == "graph" else {"rollout", "update"}
    )
    first, second = yielded
    assert len(first) == 3
    assert_same(second, first)
    assert (first[1].observations.numpy() != first[0].observations.numpy()).any()  # episodes continue


@pytest.mark.slow
def test_environments_are_closed_and_their_errors_are_theirs(monkeypatch, trainers, motor_error):
    closed, close = [], ControlTrainer.close
    settings = SMALL | {"vectorization": "sync"}
    monkeypatch.setattr(ControlTrainer, "close", lambda self: closed.append(self) or close(self))
    with pytest.raises(UsageError, match="the motor is hot"):
        compare_modes(make_control_config("FailingLater-v0", **settings), ("graph",), 1)
    assert closed == trainers
    compare_modes(make_control_config("Counting-v0", **settings), ("graph",), 1)
    assert closed == trainers and len(closed) == 2


def test_what_a_trainer_refuses_is_refused():
    with pytest.raises(UsageError, match="fused needs an in-graph environment"):
        compare_modes(config(backend="gymnasium", fused=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("log", "checkpoint", "counts"),
    [
        (9, 3, [1, 3, 3]),
        pytest.param(4, 20, [1, 4, 4], marks=pytest.mark.slow),
        pytest.param(99, 99, [1, 10, 10], marks=pytest.mark.slow),
    ],
)
def test_fused_calls_are_as_long_as_in_a_run_and_an_iterations_share_counts(monkeypatch, log, checkpoint, counts):
    asked, clock = [], [0.0]

    def program(first, count):
        assert int(first) == 0
        asked.append(int(count))
        clock[0] += 2.0 * int(count)
        return {"loss/total": tf.constant(0.5)}

    monkeypatch.setattr(bench, "fuse", lambda *_: program)
    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock[0])
    measured = compare_modes(config(log_interval=log, checkpoint_interval=checkpoint), ("graph",), 2).measurements[-1]
    assert asked == counts
    assert measured == Measurement("fused", "graph", 2.0, (2.0, 2.0))


# ----- The arithmetic


def test_a_measurement_adds_up():
    m = Measurement("update", "xla", 7.0, (3.0, 1.0, 2.0, 9.0))
    assert m.spread == (1.0, 2.5, 9.0)
    assert m.compile_seconds == 4.5
    assert m.run_seconds(10) == 4.5 + 25.0
    assert Measurement("update", "eager", 1.0, (2.0,)).compile_seconds == 0.0  # never negative


def make(iterations, fused=None):
    """Makes a comparison with invented seconds.

    XLA compiles for 10 s and takes 1 s an iteration. A graph compiles for 1 s and takes 2 s an iteration, but the graph
    of a rollout is as fast as XLA.
    """
    cells = [("rollout", "xla", 10, 1), ("rollout", "graph", 1, 1), ("update", "xla", 10, 1), ("update", "graph", 1, 2)]
    cells += [("fused", "xla", *fused)] if fused else []
    measurements = (Measurement(phase, mode, compile + each, (each,) * 3) for phase, mode, compile, each in cells)
    return Comparison(tuple(measurements), iterations, "/CPU:0", {"rollout": "graph", "update": "graph"})


@pytest.mark.parametrize(
    ("iterations", "fused", "fastest", "seconds"),
    [
        (5, None, {"rollout": "graph", "update": "graph"}, 6 + 11),
        (100, None, {"rollout": "graph", "update": "xla"}, 101 + 110),
        (100, (30, 1), {"fused": "xla"}, 130),
        (5, (30, 1), {"rollout": "graph", "update": "graph"}, 6 + 11),
    ],
)
def test_the_fastest_choice_is_that_of_the_run_as_it_is_configured(iterations, fused, fastest, seconds):
    comparison = make(iterations, fused)
    assert comparison.fastest == fastest
    assert comparison.run_seconds(fastest) == seconds
    assert comparison.run_seconds({"rollout": "xla", "update": "graph"}) == 11 + 3 * iterations
