"""Python functions inside TensorFlow programs, and their exceptions."""

import numpy as np
import pytest
import tensorflow as tf

from tfppo.execution.host import HostFunction

SPECS = [tf.TensorSpec([2], tf.float32), tf.TensorSpec([], tf.int64)]


class Refused(Exception):
    """An exception that TensorFlow does not know."""


def halve(x):
    if x.min() < 0:
        raise Refused(f"{x.min():g} is negative")
    return [np.float32(x / 2), np.int64(len(x))]


@pytest.fixture
def host():
    return HostFunction(halve)


@pytest.fixture
def program(host):
    return tf.function(lambda x: host([x], SPECS), autograph=False)


def test_arrays_go_in_and_tensors_of_the_given_shapes_come_out(program):
    outputs = program.get_concrete_function(tf.TensorSpec([2], tf.float32)).outputs
    assert [tuple(x.shape) for x in outputs] == [(2,), ()]
    half, count = program(tf.constant([1.0, 4.0]))
    np.testing.assert_array_equal(half, [0.5, 2.0])
    assert count == 2


def test_its_own_exception_is_raised_again(host, program):
    with pytest.raises(Refused, match="-1 is negative"), host.reraising():
        program(tf.constant([1.0, -1.0]))


@pytest.mark.parametrize("stop", [SystemExit(3), KeyboardInterrupt()])
def test_exit_and_ctrl_c_reach_the_caller(stop):
    def stopping(x):
        raise stop

    host = HostFunction(stopping)
    rows = iter(tf.data.Dataset.from_tensors([1.0, 2.0]).map(lambda x: host([x], SPECS)))
    for call in (lambda: next(rows), lambda: host([tf.constant([1.0, 2.0])], SPECS)):  # compiled, and not
        with pytest.raises(type(stop)) as caught, host.reraising():
            call()
        assert caught.value is stop


def test_a_runtime_error_of_the_caller_stays_what_it_is(host):
    with pytest.raises(RuntimeError, match="mine"), host.reraising():
        raise RuntimeError("mine")


def test_its_own_exception_comes_through_tf_data(host):
    dataset = tf.data.Dataset.from_tensor_slices([[1.0, 2.0], [1.0, -2.0]]).map(lambda x: host([x], SPECS))
    rows = iter(dataset)
    with host.reraising():
        next(rows)
    with pytest.raises(Refused, match="-2 is negative"), host.reraising():
        next(rows)


def test_its_own_exception_is_raised_again_where_a_pipeline_ran_ahead(host, program):
    """`tf.data` prefetches, so the function can raise before the `reraising` block begins."""
    with pytest.raises(tf.errors.OpError) as report:
        program(tf.constant([1.0, -1.0]))
    with pytest.raises(Refused, match="-1 is negative"), host.reraising():
        raise report.value


def test_an_exception_that_nobody_heard_of_is_not_taken_for_another_one(host, program):
    with pytest.raises(tf.errors.OpError):
        program(tf.constant([1.0, -1.0]))
    with pytest.raises(tf.errors.InvalidArgumentError), host.reraising():
        tf.debugging.assert_equal(1, 2)


def test_other_errors_stay_what_they_are(host, program):
    with pytest.raises(tf.errors.OpError), host.reraising():
        tf.debugging.assert_equal(1, 2)
    with pytest.raises(Refused), host.reraising():
        program(tf.constant([1.0, -1.0]))
    with pytest.raises(tf.errors.InvalidArgumentError), host.reraising():  # not the exception of the call before
        tf.debugging.assert_equal(1, 2)
