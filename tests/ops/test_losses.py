"""The clipped surrogate loss and the value loss against a slow loop; gradients, masks and micro-batches."""

import numpy as np
import pytest
import reference
import tensorflow as tf
from reference import every_mode

from tfppo.ops import losses, masking

RNG = np.random.default_rng(3)
SHAPE = [6, 8]
OLD_LOG_PROBS = RNG.normal(-2.0, 0.5, SHAPE)
LOG_PROBS = OLD_LOG_PROBS + RNG.normal(0.0, 0.4, SHAPE)
ADVANTAGES = RNG.normal(size=SHAPE)
OLD_VALUES = RNG.normal(size=SHAPE)
VALUES = OLD_VALUES + RNG.normal(0.0, 0.4, SHAPE)
RETURNS = RNG.normal(size=SHAPE)
MASK = RNG.random(SHAPE) < 0.6
SURROGATE = (LOG_PROBS, OLD_LOG_PROBS, ADVANTAGES)
VALUE = (VALUES, OLD_VALUES, RETURNS)
every_mask = pytest.mark.parametrize("mask", [None, MASK], ids=["unmasked", "masked"])


def constants(arrays, dtype=tf.float32):
    return [tf.constant(array, dtype) for array in arrays]


def loss_and_gradient(loss, *arrays, **settings):
    """Returns the loss, its metrics and its gradient with respect to the first array."""
    arrays = [tf.convert_to_tensor(array) for array in arrays]
    with tf.GradientTape() as tape:
        tape.watch(arrays[0])
        value, metrics = loss(*arrays, **settings)
    return value, metrics, tape.gradient(value, arrays[0])


def surrogate(*arrays, **settings):
    return losses.clipped_surrogate_loss(*arrays, **{"clip_ratio": 0.2, **settings})


def value(*arrays, **settings):
    return losses.clipped_value_loss(*arrays, **settings)


@pytest.mark.representatives(6)
@every_mode
@every_mask
@pytest.mark.parametrize("dual_clip", [None, 1.5])
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_surrogate_equals_the_loop(compiled, mask, dual_clip, dtype):
    function = compiled(lambda *arrays: surrogate(*arrays, mask=mask, dual_clip=dual_clip))
    loss, metrics = function(*constants(SURROGATE, dtype))
    expected, expected_metrics = reference.clipped_surrogate_loss(*SURROGATE, 0.2, mask, dual_clip)
    assert loss.dtype == dtype and loss.shape == []
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert metrics.keys() == expected_metrics.keys()
    for name, metric in metrics.items():
        np.testing.assert_allclose(metric, expected_metrics[name], rtol=1e-4, err_msg=name)
    assert 0.1 < metrics["policy/clip_fraction"] < 0.9


@pytest.mark.representatives(4)
@every_mode
@every_mask
@pytest.mark.parametrize("high", [0.05, 0.2, 0.5])
def test_the_upper_bound_may_be_another(compiled, mask, high):
    function = compiled(lambda *arrays: surrogate(*arrays, mask=mask, clip_ratio_high=high))
    loss, metrics = function(*constants(SURROGATE))
    expected, expected_metrics = reference.clipped_surrogate_loss(*SURROGATE, 0.2, mask, clip_ratio_high=high)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for name, metric in metrics.items():
        np.testing.assert_allclose(metric, expected_metrics[name], rtol=1e-4, err_msg=name)
    same, _ = surrogate(*constants(SURROGATE), mask=mask)
    assert np.isclose(loss, same, rtol=1e-5) == (high == 0.2)


def test_the_upper_bound_stops_the_gradient_of_good_actions_and_the_lower_one_that_of_bad_actions():
    log_probs, old_log_probs, advantages = constants(SURROGATE)
    _, _, gradient = loss_and_gradient(surrogate, log_probs, old_log_probs, advantages, clip_ratio_high=0.5)
    ratio = np.exp(LOG_PROBS - OLD_LOG_PROBS)
    is_clipped = ((ratio > 1.5) & (ADVANTAGES > 0)) | ((ratio < 0.8) & (ADVANTAGES < 0))
    assert ((ratio > 1.2) & (ratio < 1.5) & (ADVANTAGES > 0)).sum() > 2 < is_clipped.sum()
    np.testing.assert_array_equal(gradient.numpy() == 0.0, is_clipped)


@pytest.mark.representatives(3)
@every_mode
@every_mask
@pytest.mark.parametrize("kind", ["surrogate", "value"])
def test_with_the_weights_of_sequences_each_counts_the_same(compiled, mask, kind):
    mask = np.ones(SHAPE, bool) if mask is None else mask
    loss, arrays, slow = {
        "surrogate": (surrogate, SURROGATE, lambda: reference.clipped_surrogate_loss(*SURROGATE, 0.2, mask, of="rows")),
        "value": (value, VALUE, lambda: reference.clipped_value_loss(*VALUE, 0.3, mask, of="rows")),
    }[kind]
    settings = {"value_clip": 0.3} if kind == "value" else {}
    function = compiled(lambda *a: loss(*a, mask=mask, weights=masking.sequence_weights(mask), **settings))
    total, metrics = function(*constants(arrays))
    expected, expected_metrics = slow()
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    for name, metric in metrics.items():
        np.testing.assert_allclose(metric, expected_metrics[name], rtol=1e-4, err_msg=name)


@pytest.mark.representatives(6)
@every_mode
@every_mask
@pytest.mark.parametrize("value_clip", [None, 0.3])
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_value_loss_equals_the_loop(compiled, mask, value_clip, dtype):
    function = compiled(lambda *arrays: value(*arrays, value_clip=value_clip, mask=mask))
    loss, metrics = function(*constants(VALUE, dtype))
    expected, expected_metrics = reference.clipped_value_loss(*VALUE, value_clip, mask)
    assert loss.dtype == dtype and loss.shape == []
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert metrics.keys() == {"value/clip_fraction"}
    np.testing.assert_allclose(metrics["value/clip_fraction"], expected_metrics["value/clip_fraction"], rtol=1e-6)


def test_dual_clip_bounds_the_loss_of_bad_actions_that_became_likely():
    """With ratio 10, A = -1 costs 10 without the dual clip and at most c with it. A = 1 does not change."""
    ratio, advantages = tf.math.log([10.0, 10.0]), tf.constant([-1.0, 1.0])
    for dual_clip, expected in ((None, (10.0 - 1.2) / 2), (3.0, (3.0 - 1.2) / 2)):
        loss, _, gradient = loss_and_gradient(surrogate, ratio, tf.zeros([2]), advantages, dual_clip=dual_clip)
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
        np.testing.assert_allclose(gradient, [0.0 if dual_clip else 5.0, 0.0], rtol=1e-6)


@every_mode
def test_the_policy_that_sampled_has_ratio_1_no_kl_and_the_policy_gradient(compiled):
    log_probs, advantages = constants([LOG_PROBS, ADVANTAGES])
    function = compiled(lambda x: loss_and_gradient(surrogate, x, log_probs, advantages))
    loss, metrics, gradient = function(log_probs)
    np.testing.assert_allclose(loss, -ADVANTAGES.mean(), rtol=1e-5)
    assert metrics["policy/approx_kl"] == 0.0 and metrics["policy/clip_fraction"] == 0.0
    assert metrics["policy/ratio_max"] == 1.0
    np.testing.assert_allclose(gradient, -ADVANTAGES / ADVANTAGES.size, rtol=1e-5)


@every_mode
def test_the_surrogate_has_no_gradient_exactly_where_it_is_clipped(compiled):
    """The gradient is zero outside the range on the side of a gain: ratio > 1.2 with A > 0, ratio < 0.8 with A < 0."""
    log_probs, old_log_probs, advantages = constants(SURROGATE)
    function = compiled(lambda x: loss_and_gradient(surrogate, x, old_log_probs, advantages))
    _, _, gradient = function(log_probs)
    ratio = np.exp(LOG_PROBS - OLD_LOG_PROBS)
    is_clipped = ((ratio > 1.2) & (ADVANTAGES > 0)) | ((ratio < 0.8) & (ADVANTAGES < 0))
    assert 5 < is_clipped.sum() < is_clipped.size - 5
    np.testing.assert_array_equal(gradient.numpy()[is_clipped], 0.0)
    expected = -(ADVANTAGES * ratio / ratio.size)[~is_clipped]
    np.testing.assert_allclose(gradient.numpy()[~is_clipped], expected, rtol=1e-4)


@every_mode
def test_the_value_gradient_is_that_of_the_larger_error(compiled):
    values, old_values, targets = constants(VALUE)
    function = compiled(lambda x: loss_and_gradient(value, x, old_values, targets, value_clip=0.3))
    _, _, gradient = function(values)
    near = np.clip(VALUES, OLD_VALUES - 0.3, OLD_VALUES + 0.3)
    # Where the clipped error is larger, the loss does not depend on the value.
    is_stuck = np.abs(near - RETURNS) > np.abs(VALUES - RETURNS)
    assert 3 < is_stuck.sum() < is_stuck.size - 3
    np.testing.assert_allclose(gradient, np.where(is_stuck, 0.0, VALUES - RETURNS) / VALUES.size, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("difference", "ratio"), [(1000.0, np.exp(20.0)), (-1000.0, np.exp(-20.0))])
def test_the_log_ratio_is_clamped_so_that_nothing_overflows(difference, ratio):
    loss, metrics, gradient = loss_and_gradient(surrogate, [difference], [0.0], [-1.0])
    np.testing.assert_allclose(loss, max(ratio, 0.8), rtol=1e-5)
    np.testing.assert_allclose(metrics["policy/ratio_max"], ratio, rtol=1e-5)
    assert np.all(np.isfinite([*metrics.values(), *gradient.numpy()]))


@every_mode
@pytest.mark.parametrize("clip_ratio", [0.0, 0.1, 0.3])
def test_the_clip_ratio_may_be_a_tensor(compiled, clip_ratio):
    arrays = constants(SURROGATE)
    function = compiled(lambda c: surrogate(*arrays, clip_ratio=c))
    loss, metrics = function(tf.constant(clip_ratio))
    expected, expected_metrics = reference.clipped_surrogate_loss(*SURROGATE, clip_ratio)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["policy/clip_fraction"], expected_metrics["policy/clip_fraction"], rtol=1e-6)


@every_mode
def test_the_largest_ratio_is_taken_inside_the_mask_only(compiled):
    log_probs, zeros = tf.math.log([0.5, 0.25, 4.0]), tf.zeros([3])
    _, metrics = compiled(lambda x: surrogate(x, zeros, zeros, mask=[True, True, False]))(log_probs)
    np.testing.assert_allclose(metrics["policy/ratio_max"], 0.5)


CASES = pytest.mark.parametrize(
    ("loss", "arrays", "settings"),
    [(surrogate, SURROGATE, {}), (surrogate, SURROGATE, {"dual_clip": 1.5}), (value, VALUE, {}),
     (value, VALUE, {"value_clip": 0.3})],
    ids=["surrogate", "dual clip", "value", "value clip"],
)  # fmt: skip


@pytest.mark.representatives(3)
@CASES
@every_mode
def test_nan_outside_the_mask_reaches_neither_loss_nor_metrics_nor_gradient(compiled, loss, arrays, settings):
    poisoned = constants([np.where(MASK, array, np.nan) for array in arrays])
    function = compiled(lambda *a: loss_and_gradient(loss, *a, mask=MASK, **settings))
    got, metrics, gradient = function(*poisoned)
    want, clean_metrics, clean_gradient = loss_and_gradient(loss, *constants(arrays), mask=MASK, **settings)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    np.testing.assert_allclose(gradient, clean_gradient, rtol=1e-5, atol=1e-8)
    np.testing.assert_array_equal(gradient.numpy()[~MASK], 0.0)
    for name, metric in metrics.items():
        np.testing.assert_allclose(metric, clean_metrics[name], rtol=1e-5, err_msg=name)


@CASES
def test_micro_batches_over_the_global_count_sum_to_the_whole_minibatch(loss, arrays, settings):
    arrays = constants(arrays, tf.float64)
    count = tf.math.count_nonzero(MASK)
    whole, whole_metrics, whole_gradient = loss_and_gradient(loss, *arrays, mask=MASK, **settings)
    parts = [
        loss_and_gradient(loss, *(a[i : i + 2] for a in arrays), mask=MASK[i : i + 2], normalizer=count, **settings)
        for i in range(0, 6, 2)
    ]
    np.testing.assert_allclose(sum(part for part, _, _ in parts), whole)
    np.testing.assert_allclose(np.concatenate([gradient for _, _, gradient in parts]), whole_gradient)
    for name, metric in whole_metrics.items():
        combine = max if name == "policy/ratio_max" else sum
        np.testing.assert_allclose(combine(metrics[name] for _, metrics, _ in parts), metric, err_msg=name)


@CASES
def test_the_gradient_flows_to_the_first_argument_only(loss, arrays, settings):
    arrays = constants(arrays)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(arrays)
        total, metrics = loss(*arrays, **settings)
    assert np.any(tape.gradient(total, arrays[0]) != 0)
    assert [tape.gradient(total, array) for array in arrays[1:]] == [None, None]
    assert [tape.gradient(metric, arrays[0]) for metric in metrics.values()] == [None] * len(metrics)


def test_without_clipping_the_old_values_are_not_needed():
    values, _, targets = constants(VALUE)
    loss, metrics = losses.clipped_value_loss(values, None, targets)
    np.testing.assert_allclose(loss, np.mean((VALUES - RETURNS) ** 2) / 2, rtol=1e-5)
    assert metrics["value/clip_fraction"] == 0.0


@pytest.mark.parametrize("dual_clip", [1.0, 0.5, -2.0, float("nan")])
def test_a_dual_clip_of_at_most_1_is_refused(dual_clip):
    with pytest.raises(ValueError, match="dual_clip"):
        surrogate(*constants(SURROGATE), dual_clip=dual_clip)


@pytest.mark.parametrize("position", ["0", "1", "2", "mask"])
@pytest.mark.parametrize("loss", [surrogate, value])
@pytest.mark.parametrize("odd", [[4, 1], [1]], ids=str)
def test_shapes_that_would_broadcast_are_refused(loss, position, odd):
    arrays = [tf.zeros(odd if position == str(i) else [4]) for i in range(3)]
    mask = tf.zeros(odd, tf.bool) if position == "mask" else None
    with pytest.raises(ValueError, match="has shape") as error:
        loss(*arrays, mask=mask)
    assert "(4,)" in str(error.value) and str(tf.TensorShape(odd)) in str(error.value)
