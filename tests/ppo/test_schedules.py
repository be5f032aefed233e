"""Schedules: their closed forms at every iteration, the warm-up, and invalid arguments."""

import math

import numpy as np
import pytest
import tensorflow as tf
from reference import every_mode

from tfppo.errors import UsageError
from tfppo.ppo.schedules import make_schedule

CURVES = {
    "constant": lambda share: 1.0,
    "linear": lambda share: 1 - share,
    "cosine": lambda share: (1 + math.cos(math.pi * share)) / 2,
}
every_kind = pytest.mark.parametrize("kind", CURVES)


def values(schedule, num_iterations):
    return [float(schedule(tf.constant(k, tf.int64))) for k in range(num_iterations)]


@every_kind
def test_schedule_equals_its_formula(kind):
    expected = [3e-4 * CURVES[kind](k / 10) for k in range(10)]
    np.testing.assert_allclose(values(make_schedule(kind, 3e-4, 10), 10), expected, rtol=1e-5)


@every_kind
def test_warmup_rises_from_above_zero_and_the_decay_takes_the_iterations_after_it(kind):
    schedule = values(make_schedule(kind, 0.4, 10, warmup_iterations=3), 10)
    np.testing.assert_allclose(schedule[:4], [0.1, 0.2, 0.3, 0.4], rtol=1e-6)
    np.testing.assert_allclose(schedule[3:], [0.4 * CURVES[kind](k / 7) for k in range(7)], rtol=1e-5)


@every_kind
def test_schedule_stays_at_its_end(kind):
    """After the planned end of a run, a schedule neither rises nor becomes negative."""
    end = CURVES[kind](1.0)
    schedule = make_schedule(kind, 2.0, 5)
    np.testing.assert_allclose([schedule(5), schedule(6), schedule(1000)], 2.0 * end, atol=1e-6)


@every_mode
def test_schedule_compiles(compiled):
    schedule = make_schedule("cosine", 1.0, 8, warmup_iterations=1)
    value = compiled(schedule)(tf.constant(4, tf.int64))
    np.testing.assert_allclose(value, CURVES["cosine"](3 / 7), rtol=1e-6)


def test_a_copy_made_from_its_config_is_the_same_schedule():
    schedule = make_schedule("linear", 1.0, 6, warmup_iterations=2)
    copy = type(schedule).from_config(schedule.get_config())
    assert values(copy, 6) == values(schedule, 6)


def test_unknown_kind_is_refused():
    with pytest.raises(UsageError, match="'exponential'; it must be one of constant, linear, cosine"):
        make_schedule("exponential", 1.0, 10)


@pytest.mark.parametrize("warmup_iterations", [10, 11])
def test_warmup_that_leaves_no_iteration_is_refused(warmup_iterations):
    with pytest.raises(
        UsageError, match=f"warmup_iterations is {warmup_iterations}; it must be below the 10 iterations"
    ):
        make_schedule("linear", 1.0, 10, warmup_iterations)
