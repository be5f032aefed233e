"""Nests of NamedTuples with None parts, and the layouts of the time axis."""

import numpy as np
import pytest
import tensorflow as tf
from reference import every_mode

from tfppo.ops.distributions import Categorical
from tfppo.ops.nest import map_tensors, merge_time, swap_time
from tfppo.ppo.types import Batch


def test_map_tensors_keeps_the_structure_and_what_is_none():
    x = tf.range(4.0)
    batch = Batch({"image": x, "goal": (x, x)}, x, x, x, x, x, x > 1, old_distribution=Categorical(x[:, tf.newaxis]))
    mapped = map_tensors(lambda t: t[1:], batch)
    tf.nest.assert_same_structure(mapped, batch)
    assert isinstance(mapped.old_distribution, Categorical) and mapped.reference_log_probs is None
    np.testing.assert_array_equal(mapped.inputs["goal"][1], [1, 2, 3])
    np.testing.assert_array_equal(mapped.mask, [False, True, True])
    assert mapped.old_distribution.logits.shape == [3, 1]


def test_map_tensors_does_not_call_the_function_on_none():
    calls = []
    assert map_tensors(lambda t: calls.append(t) or 7, (None, 1, [None], ())) == (None, 7, [None], ())
    assert calls == [1]


@every_mode
@pytest.mark.parametrize("dtype", [np.float32, np.int32, bool])
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 2)])
def test_time_is_swapped_and_merged_as_numpy_does_it(compiled, dtype, shape):
    x = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    swapped = compiled(swap_time)(tf.constant(x))
    np.testing.assert_array_equal(swapped, np.swapaxes(x, 0, 1))
    assert swapped.dtype == x.dtype
    np.testing.assert_array_equal(compiled(swap_time)(swapped), x)
    np.testing.assert_array_equal(compiled(merge_time)(tf.constant(x)), x.reshape(6, *shape[2:]))
