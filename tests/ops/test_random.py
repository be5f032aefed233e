"""Random numbers: the same bits in every compilation mode, and the right distribution."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from reference import every_mode

from tfppo.ops import random

SEED = (7, 11)


@pytest.mark.representatives(3)
@every_mode
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
@pytest.mark.parametrize("seed_dtype", [tf.int32, tf.int64])
def test_uniforms_are_bit_equal_however_compiled(compiled, dtype, seed_dtype):
    seed = tf.constant(SEED, seed_dtype)
    drawn = compiled(lambda s: random.uniform([1000, 3], s, dtype))(seed)
    assert drawn.dtype == dtype
    np.testing.assert_array_equal(drawn, random.uniform([1000, 3], SEED, dtype))


@pytest.mark.representatives(3)
@every_mode
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
@pytest.mark.parametrize(
    "columns", [1, pytest.param(3, marks=pytest.mark.slow), 7, pytest.param(64, marks=pytest.mark.slow)]
)
def test_the_first_rows_do_not_depend_on_the_number_of_rows(compiled, dtype, columns):
    """The evaluation of few prompts draws few rows of noise, and gives the same responses as with more prompts."""
    whole = random.uniform([50, columns], SEED, dtype)
    for rows in (1, 4, 49):
        drawn = compiled(lambda seed: random.uniform([rows, columns], seed, dtype))(tf.constant(SEED))  # noqa: B023
        np.testing.assert_array_equal(drawn, whole[:rows])


@pytest.mark.representatives(4)
@every_mode
@pytest.mark.parametrize("n", [1, 2, 1000, 1025, 2048, 5000])
def test_permutations_are_permutations_and_equal_however_compiled(compiled, n):
    order = compiled(lambda seed: random.permutation(n, seed))(tf.constant(SEED))
    assert order.dtype == tf.int32 and order.shape == [n]
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
    np.testing.assert_array_equal(order, random.permutation(n, SEED))


@pytest.mark.representatives(3)
@every_mode
@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_integers_are_below_their_limit_and_equal_however_compiled(compiled, limit):
    drawn = compiled(lambda seed: random.integers([50, 20], seed, limit))(tf.constant(SEED))
    assert drawn.dtype == tf.int32 and set(np.unique(drawn)) <= set(range(limit))
    assert len(np.unique(drawn)) > 0.6 * limit
    np.testing.assert_array_equal(drawn, random.integers([50, 20], SEED, limit))


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


@pytest.fixture(scope="module", params=[1500, 2048, 8192])
def long_permutations(request):
    """Permutations that are too long to be drawn by sorting, [S, n]."""
    seeds = tf.stack([tf.range(500), tf.zeros([500], tf.int32)], axis=1)
    draw = tf.function(lambda s: tf.map_fn(lambda seed: random.permutation(request.param, seed), s))
    return draw(seeds).numpy()


def chi_squared_per_degree(cells, num_cells, probabilities=None):
    expected = cells.size * (np.full(num_cells, 1 / num_cells) if probabilities is None else probabilities)
    return np.sum((np.bincount(cells.ravel(), minlength=num_cells) - expected) ** 2 / expected) / (num_cells - 1)


@pytest.mark.representatives(3)
@pytest.mark.parametrize(
    "subset",
    [lambda x, n: x < n // 2, lambda x, n: x % 2 == 0, lambda x, n: x % 64 == 3, lambda x, n: x // 128 % 2 == 0],
    ids=["the first half", "every second", "one environment", "blocks"],
)
def test_minibatches_draw_from_every_subset_as_without_replacement(long_permutations, subset):
    """The number of members of a subset in the first quarter has the mean and variance of its distribution.

    The distribution is hypergeometric.
    """
    num_draws, n = long_permutations.shape
    drawn, share = n // 4, subset(np.arange(n), n).mean()
    counts = subset(long_permutations[:, :drawn], n).sum(axis=1)
    variance = drawn * share * (1 - share) * (n - drawn) / (n - 1)
    assert abs(counts.mean() - drawn * share) < 4 * math.sqrt(variance / num_draws)
    assert abs(counts.var() / variance - 1) < 4 * math.sqrt(2 / num_draws)


def test_places_of_long_permutations_are_uniform_alone_and_in_pairs(long_permutations):
    num_draws, n = long_permutations.shape
    cells = 16 * long_permutations // n
    sizes = np.bincount(16 * np.arange(n) // n) / n
    for place in (0, 1, n // 2, n - 1):
        assert chi_squared_per_degree(cells[:, place], 16, sizes) < 2.6  # the 0.1% point of 15 degrees, divided by 15
    for first, second in ((0, 1), (5, 5 + n // 2), (64, 128)):
        pairs = 16 * cells[:, first] + cells[:, second]
        assert chi_squared_per_degree(pairs, 256, np.outer(sizes, sizes).ravel()) < 1.4  # likewise, of 255


def test_neighbours_in_long_permutations_are_any_distance_apart(long_permutations):
    n = long_permutations.shape[1]
    distances = np.diff(long_permutations, axis=1) % n - 1  # 0 .. n - 2
    sizes = np.bincount(32 * np.arange(n - 1) // (n - 1)) / (n - 1)
    assert chi_squared_per_degree(32 * distances // (n - 1), 32, sizes) < 2.3


def test_long_permutations_leave_one_place_as_it_was_on_average(long_permutations):
    fixed = (long_permutations == np.arange(long_permutations.shape[1])).sum(axis=1)
    assert abs(fixed.mean() - 1) < 4 / math.sqrt(len(fixed)) and 0.75 < fixed.var() < 1.25


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
