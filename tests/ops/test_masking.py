"""Masked means, whitening and explained variance against slow NumPy; numbers outside a mask have no effect."""

import numpy as np
import pytest
import reference
import tensorflow as tf
from reference import every_mode

from tfppo.ops import masking

RNG = np.random.default_rng(0)
VALUES = RNG.normal(3.0, 2.0, [6, 5])
RETURNS = VALUES + RNG.normal(0.0, 1.0, [6, 5])
MASK = RNG.random([6, 5]) < 0.6
NOTHING = np.zeros([6, 5], bool)


def poisoned(values, mask, dtype=np.float32):
    """Returns the values with NaN outside the mask."""
    return tf.constant(np.where(mask, values, np.nan), dtype)


@every_mode
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_sum_and_mean_count_only_the_masked_entries(compiled, dtype):
    numbers = reference.counted(VALUES, MASK)
    values = poisoned(VALUES, MASK, dtype)
    total = compiled(masking.masked_sum)(values, MASK)
    mean = compiled(masking.masked_mean)(values, MASK)
    assert total.dtype == mean.dtype == dtype
    np.testing.assert_allclose(total, sum(numbers), rtol=1e-6)
    np.testing.assert_allclose(mean, reference.mean(numbers), rtol=1e-6)


def test_no_mask_counts_everything():
    np.testing.assert_allclose(masking.masked_sum(VALUES), VALUES.sum())
    np.testing.assert_allclose(masking.masked_mean(VALUES), VALUES.mean())


def test_an_empty_mask_gives_zero():
    values = poisoned(VALUES, NOTHING)
    assert masking.masked_mean(values, NOTHING) == 0.0
    np.testing.assert_array_equal(masking.masked_whiten(values, NOTHING), 0.0)
    np.testing.assert_array_equal(masking.masked_whiten(values, NOTHING, shift_mean=False), 0.0)


@every_mode
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_a_mean_with_weights_equals_the_loop(compiled, dtype):
    weights = np.abs(RETURNS)
    mean = compiled(lambda x: masking.masked_mean(x, MASK, weights=tf.constant(weights, tf.float32)))
    inside = [i for i in np.ndindex(MASK.shape) if MASK[i]]
    expected = sum(weights[i] * VALUES[i] for i in inside) / sum(weights[i] for i in inside)
    np.testing.assert_allclose(mean(poisoned(VALUES, MASK, dtype)), expected, rtol=1e-5)
    assert masking.masked_mean(poisoned(VALUES, NOTHING), NOTHING, weights=weights) == 0.0
    with pytest.raises(ValueError, match="weights has shape"):
        masking.masked_mean(VALUES, weights=weights[:, :1])


@every_mode
def test_the_weights_of_sequences_give_the_mean_over_sequences(compiled):
    mask = MASK.copy()
    mask[2] = False
    weights = compiled(masking.sequence_weights)(mask).numpy()
    lengths = mask.sum(axis=1)
    assert len(set(lengths)) > 2
    expected = [[mask[n, t] / lengths[n] if mask[n, t] else 0.0 for t in range(5)] for n in range(6)]
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    np.testing.assert_array_equal(compiled(masking.sequence_weights)(mask[0]), mask[0])  # sequences of one entry


@every_mode
def test_parts_divided_by_the_count_of_the_whole_add_up_to_the_mean_of_the_whole(compiled):
    count = tf.math.count_nonzero(MASK)
    mean = compiled(masking.masked_mean)
    parts = [mean(tf.constant(VALUES[i : i + 2]), MASK[i : i + 2], count) for i in range(0, 6, 2)]
    np.testing.assert_allclose(sum(parts), mean(tf.constant(VALUES), MASK))
    # The mean of the means of the parts differs from it. This is why normalizer exists.
    own = [masking.masked_mean(VALUES[i : i + 2], MASK[i : i + 2]) for i in range(0, 6, 2)]
    assert abs(np.mean(own) - masking.masked_mean(VALUES, MASK)) > 1e-3


@pytest.mark.representatives(4)
@every_mode
@pytest.mark.parametrize("function", [masking.masked_sum, masking.masked_mean, masking.masked_whiten])
def test_nan_outside_the_mask_reaches_neither_value_nor_gradient(compiled, function):
    # The gradient of the plain sum of whitened values is zero, so a weighted sum is used.
    weights = tf.constant(RETURNS, tf.float32)

    def value_and_gradient(values):
        with tf.GradientTape() as tape:
            tape.watch(values)
            result = function(values, MASK)
            weighted = tf.reduce_sum(result * weights)
        return result, tape.gradient(weighted, values)

    value, gradient = compiled(value_and_gradient)(poisoned(VALUES, MASK))
    clean_value, clean_gradient = value_and_gradient(tf.constant(np.where(MASK, VALUES, 7.0), tf.float32))
    assert np.all(np.isfinite(value)) and np.all(np.isfinite(gradient))
    np.testing.assert_allclose(value, clean_value, rtol=1e-5)
    np.testing.assert_allclose(gradient, clean_gradient, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(gradient[~MASK], 0.0)


@every_mode
@pytest.mark.parametrize("shift_mean", [True, False])
@pytest.mark.parametrize("mask", [None, MASK], ids=["unmasked", "masked"])
def test_whiten_equals_the_loop(compiled, shift_mean, mask):
    whitened = compiled(lambda x: masking.masked_whiten(x, mask, shift_mean))(tf.constant(VALUES, tf.float32))
    np.testing.assert_allclose(whitened, reference.whiten(VALUES, mask, shift_mean), rtol=1e-4, atol=1e-5)


def test_whiten_matches_the_published_numbers():
    """Huang et al. 2023, "The N implementation details of RLHF with PPO", policy training detail 9 (TensorFlow)."""
    rewards = tf.constant([[1.2, 1.3, 1.4], [1.5, 1.6, 1.7], [1.8, 1.9, 2.0]])
    golden = [
        [0.05080712, 0.4381051, 0.8254035],
        [1.2127019, 1.6000004, 1.9872988],
        [2.3745968, 2.7618952, 3.1491938],
    ]
    np.testing.assert_allclose(masking.masked_whiten(rewards, shift_mean=False), golden, atol=1e-6)


def test_whitened_values_have_mean_0_and_population_variance_1():
    whitened = masking.masked_whiten(VALUES, MASK).numpy()
    np.testing.assert_allclose(reference.mean(reference.counted(whitened, MASK)), 0.0, atol=1e-12)
    np.testing.assert_allclose(reference.variance(reference.counted(whitened, MASK)), 1.0, rtol=1e-7)


@every_mode
@pytest.mark.parametrize("constant", [0.1, -3.7e5])
def test_constant_values_whiten_to_exactly_zero_with_a_finite_gradient(compiled, constant):
    def whiten(values):
        with tf.GradientTape() as tape:
            tape.watch(values)
            whitened = masking.masked_whiten(values)
            total = tf.reduce_sum(whitened)
        return whitened, tape.gradient(total, values)

    whitened, gradient = compiled(whiten)(tf.fill([1001], constant))
    np.testing.assert_array_equal(whitened, 0.0)
    assert np.all(np.isfinite(gradient))


@every_mode
@pytest.mark.parametrize("mask", [None, MASK], ids=["unmasked", "masked"])
def test_explained_variance_equals_the_loop(compiled, mask):
    outside = np.zeros([6, 5], bool) if mask is None else ~mask
    values, returns = (tf.constant(np.where(outside, np.nan, x), tf.float32) for x in (VALUES, RETURNS))
    explained = compiled(lambda v, r: masking.explained_variance(v, r, mask))(values, returns)
    np.testing.assert_allclose(explained, reference.explained_variance(VALUES, RETURNS, mask), rtol=1e-4)


@pytest.mark.parametrize(
    ("values", "expected"),
    [(RETURNS, 1.0), (RETURNS + 5.0, 1.0), (np.full_like(RETURNS, 4.2), 0.0), (-RETURNS, -3.0)],
    ids=["perfect", "off by a constant", "constant", "inverted"],
)
def test_explained_variance_of_known_cases(values, expected):
    np.testing.assert_allclose(masking.explained_variance(values, RETURNS), expected, atol=1e-9)


@every_mode
def test_explained_variance_of_constant_returns_is_zero(compiled):
    returns = tf.fill([1001], 0.1)
    assert compiled(masking.explained_variance)(tf.linspace(0.0, 1.0, 1001), returns) == 0.0


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (masking.masked_sum, ([4], [4, 1])),
        (masking.masked_mean, ([4, 1], [4])),
        (masking.masked_whiten, ([4], [5])),
        (lambda values, mask: masking.explained_variance(values, values, mask), ([4], [4, 1])),
        (lambda values, returns: masking.explained_variance(values, tf.cast(returns, values.dtype)), ([4, 1], [4])),
    ],
)
def test_shapes_that_would_broadcast_are_refused(function, shapes):
    first, second = shapes
    with pytest.raises(ValueError) as error:
        function(tf.zeros(first), tf.zeros(second, tf.bool))
    assert str(tf.TensorShape(first)) in str(error.value) and str(tf.TensorShape(second)) in str(error.value)


def test_a_normalizer_that_is_no_scalar_is_refused():
    with pytest.raises(ValueError, match=r"\(1,\)"):
        masking.masked_mean(tf.zeros([4]), None, tf.ones([1]))


@every_mode
def test_only_what_is_outside_and_not_finite_is_replaced(compiled):
    values = tf.constant([[1.0, np.nan], [np.inf, 4.0], [-np.inf, np.nan]])
    mask = tf.constant([True, False, False])
    given = compiled(lambda x, m: masking.finite_outside(x, m, 7.0))(values, mask)
    np.testing.assert_array_equal(given, [[1.0, np.nan], [7.0, 4.0], [7.0, 7.0]])
    whole = tf.constant([1, 2, 3])
    assert masking.finite_outside(whole, mask) is whole
