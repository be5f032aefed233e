"""Portable random numbers: the same bits however compiled, and the right distribution."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from reference import every_mode

from tfppo import random

SEED = (7, 11)


@every_mode
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
@pytest.mark.parametrize("seed_dtype", [tf.int32, tf.int64])
def test_uniforms_are_bit_equal_however_compiled(compiled, dtype, seed_dtype):
    seed = tf.constant(SEED, seed_dtype)
    drawn = compiled(lambda s: random.uniform([1000, 3], s, dtype))(seed)
    assert drawn.dtype == dtype
    np.testing.assert_array_equal(drawn, random.uniform([1000, 3], SEED, dtype))


@every_mode
@pytest.mark.parametrize("n", [1, 2, 1000])
def test_permutations_are_permutations_and_equal_however_compiled(compiled, n):
    order = compiled(lambda seed: random.permutation(n, seed))(tf.constant(SEED))
    assert order.dtype == tf.int32 and order.shape == [n]
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
    np.testing.assert_array_equal(order, random.permutation(n, SEED))


@every_mode
def test_normals_and_gumbels_agree_to_rounding_however_compiled(compiled):
    def draw(seed):
        return random.normal([1000], seed), random.gumbel([1000], seed)

    for drawn, eager in zip(compiled(draw)(tf.constant(SEED)), draw(SEED), strict=True):
        np.testing.assert_allclose(drawn, eager, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
@pytest.mark.parametrize("extreme", ["min", "max"])
def test_the_interval_is_open_for_every_random_word(monkeypatch, dtype, extreme):
    def constant_words(shape, seed, minval, maxval, dtype, alg):
        return tf.fill(shape, tf.constant(getattr(dtype, extreme), dtype))

    monkeypatch.setattr(tf.random, "stateless_uniform", constant_words)
    uniform = random.uniform([2], SEED, dtype).numpy()
    assert np.all(uniform > 0) and np.all(uniform < 1)
    gap = 2.0**-24 if dtype == tf.float32 else 2.0**-53
    np.testing.assert_array_equal(uniform if extreme == "min" else 1 - uniform, gap)
    for draw in (random.gumbel, random.normal):
        assert np.all(np.isfinite(draw([2], SEED, dtype)))


def test_uniforms_fill_the_interval_evenly():
    counts, _ = np.histogram(random.uniform([100_000], SEED), bins=20, range=(0, 1))
    chi_squared = np.sum((counts - 5000) ** 2 / 5000)
    assert chi_squared < 43.8  # the 0.1% point of 19 degrees of freedom


@pytest.mark.parametrize(
    ("draw", "mean", "std"),
    [(random.normal, 0.0, 1.0), (random.gumbel, np.euler_gamma, math.pi / math.sqrt(6))],
    ids=["normal", "gumbel"],
)
def test_moments(draw, mean, std):
    drawn = draw([100_000], SEED).numpy()
    np.testing.assert_allclose(drawn.mean(), mean, atol=4 * std / math.sqrt(100_000))
    np.testing.assert_allclose(drawn.std(), std, rtol=0.02)


def test_every_permutation_is_equally_likely():
    num_draws = 3000
    seeds = tf.stack([tf.range(num_draws), tf.zeros([num_draws], tf.int32)], axis=1)
    draw = tf.function(lambda s: tf.map_fn(lambda seed: random.permutation(3, seed), s))
    counts = dict.fromkeys(itertools.permutations(range(3)), 0)
    for order in draw(seeds).numpy():
        counts[tuple(order.tolist())] += 1
    assert all(abs(count - num_draws / 6) < 4 * math.sqrt(num_draws / 6) for count in counts.values()), counts


@every_mode
@pytest.mark.parametrize("seed_dtype", [tf.int32, tf.int64])
def test_fold_in_gives_one_seed_for_every_dtype_of_seed_and_data(compiled, seed_dtype):
    folded = compiled(random.fold_in)(tf.constant(SEED, seed_dtype), tf.constant(3, tf.int64))
    assert folded.dtype == tf.int64 and folded.shape == [2]
    for data in (3, np.int32(3), tf.constant(3, tf.int32)):
        np.testing.assert_array_equal(random.fold_in(SEED, data), folded)


def test_folded_seeds_differ_and_give_independent_numbers():
    seeds = [tuple(random.fold_in(SEED, data).numpy().tolist()) for data in range(50)]
    assert len(set(seeds)) == 50
    first, second = (random.uniform([10_000], seed).numpy() for seed in seeds[:2])
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.04


@every_mode
def test_categories_come_with_their_probabilities(compiled):
    probabilities = np.array([0.5, 0.2, 0.0, 0.3])
    num_draws = 40_000
    logits = tf.tile(tf.constant(np.log(np.maximum(probabilities, 1e-45)), tf.float32)[tf.newaxis], [num_draws, 1])
    drawn = compiled(random.categorical)(logits, tf.constant(SEED))
    assert drawn.dtype == tf.int32 and drawn.shape == [num_draws]
    frequencies = np.bincount(drawn, minlength=4) / num_draws
    assert frequencies[2] == 0
    np.testing.assert_allclose(frequencies, probabilities, atol=4 * 0.5 / math.sqrt(num_draws))


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16, tf.float32, tf.float64])
@pytest.mark.parametrize("shape", [[5], [3, 5], [2, 3, 5]])
def test_categorical_takes_any_float_and_any_rank(dtype, shape):
    drawn = random.categorical(tf.zeros(shape, dtype), SEED)
    assert drawn.shape == shape[:-1] and drawn.dtype == tf.int32
    assert np.all(drawn >= 0) and np.all(drawn < 5)


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16, tf.int32])
def test_uniform_refuses_a_dtype_in_which_it_would_reach_1(dtype):
    with pytest.raises(ValueError, match=dtype.name):
        random.uniform([2], SEED, dtype)
