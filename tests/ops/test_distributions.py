"""Action distributions compared with TensorFlow Probability, slow NumPy and enumeration."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import reference
import tensorflow as tf
import tensorflow_probability as tfp
from reference import every_mode

from tfppo.ops import distributions
from tfppo.ops.distributions import Categorical, MultiCategorical
from tfppo.ops.normals import DiagonalNormal, SquashedNormal

RNG = np.random.default_rng(2)
SEED = (3, 5)


def tensor(*shape, scale=1.0, dtype=tf.float32):
    return tf.constant(scale * RNG.normal(size=shape), dtype)


# Pairs of each family with the same shapes, four rows each.
PAIRS = {
    "categorical": [Categorical(tensor(4, 5)) for _ in range(2)],
    "multi_categorical": [MultiCategorical((tensor(4, 3), tensor(4, 2), tensor(4, 6))) for _ in range(2)],
    "diagonal_normal": [DiagonalNormal(tensor(4, 3), tensor(4, 3, scale=0.3)) for _ in range(2)],
    "squashed_normal": [SquashedNormal(tensor(4, 3, scale=0.5), tensor(4, 3, scale=0.3)) for _ in range(2)],
}
every_family = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())


@pytest.mark.representatives(3)
@every_mode
@every_family
def test_log_prob_equals_tfp(compiled, pair):
    distribution, _ = pair
    actions = distribution.sample(SEED)
    of_tfp = distribution.squash(actions) if isinstance(distribution, SquashedNormal) else actions
    log_prob = compiled(lambda d, a: d.log_prob(a))(distribution, actions)
    assert log_prob.shape == [4]
    np.testing.assert_allclose(log_prob, distribution.to_tfp().log_prob(of_tfp), rtol=1e-4, atol=1e-5)


@every_mode
@every_family
def test_entropy_equals_tfp_where_there_is_a_closed_form(compiled, pair):
    distribution, _ = pair
    entropy = compiled(lambda d: d.entropy(tf.constant(SEED)))(distribution)
    assert entropy.shape == [4]
    if not isinstance(distribution, SquashedNormal):
        np.testing.assert_allclose(entropy, distribution.to_tfp().entropy(), rtol=1e-5)
        np.testing.assert_array_equal(distribution.entropy(), distribution.entropy(SEED))


@every_mode
@every_family
def test_kl_equals_tfp(compiled, pair):
    p, q = pair
    kl = compiled(lambda p, q: p.kl(q))(p, q)
    assert kl.shape == [4]
    if isinstance(p, MultiCategorical):  # tfp's Blockwise has no kl_divergence
        heads = zip(p.heads, q.heads, strict=True)
        expected = sum(a.to_tfp().kl_divergence(b.to_tfp()) for a, b in heads)
    else:
        expected = p.to_tfp().kl_divergence(q.to_tfp())
    np.testing.assert_allclose(kl, expected, rtol=1e-4)
    np.testing.assert_array_equal(p.kl(p), 0.0)


@pytest.mark.representatives(3)
@every_mode
@every_family
def test_samples_and_modes_are_actions_and_equal_however_compiled(compiled, pair):
    distribution, _ = pair

    def act(distribution):
        actions = distribution.sample(tf.constant(SEED))
        return actions, distribution.mode(), distribution.log_prob(actions)

    sample, mode, _ = compiled(act)(distribution)
    np.testing.assert_allclose(sample, distribution.sample(SEED), rtol=1e-5, atol=1e-6)
    shape = {Categorical: [4]}.get(type(distribution), [4, 3])
    dtype = tf.int32 if "Categorical" in type(distribution).__name__ else tf.float32
    assert sample.shape == mode.shape == shape and sample.dtype == mode.dtype == dtype
    assert not np.array_equal(sample, distribution.sample((3, 6)))
    # No action is more probable than the mode. The mode of a squashed distribution is that of its normal.
    density = distribution.base if isinstance(distribution, SquashedNormal) else distribution
    assert np.all(density.log_prob(mode) >= density.log_prob(sample))


@every_family
def test_a_distribution_travels_through_tf_data_and_while_loops(pair):
    distribution, _ = pair
    (element,) = tf.data.Dataset.from_tensors(distribution).map(lambda d: d)
    assert type(element) is type(distribution)

    @tf.function
    def loop(distribution):
        keep = lambda i, d: (i + 1, tf.nest.map_structure(lambda x: x + 1.0, d))  # noqa: E731
        return tf.while_loop(lambda i, d: i < 3, keep, (0, distribution))[1]

    looped = loop(element)
    assert type(looped) is type(distribution)
    for before, after in zip(tf.nest.flatten(distribution), tf.nest.flatten(looped), strict=True):
        np.testing.assert_allclose(after, before + 3.0, rtol=1e-6)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_the_dtype_of_the_parameters_is_kept(dtype):
    normal = DiagonalNormal(tensor(4, 3, dtype=dtype), tensor(4, 3, dtype=dtype))
    squashed, categorical = SquashedNormal(*normal), Categorical(tensor(4, 3, dtype=dtype))
    for distribution in (normal, squashed, categorical):
        actions = distribution.sample(SEED)
        assert distribution.log_prob(actions).dtype == distribution.entropy(SEED).dtype == dtype
        assert distribution.kl(distribution).dtype == dtype


def test_categorical_sampling_frequencies_are_the_probabilities():
    logits = tf.constant([1.0, -1.0, 0.5, distributions.MASKED_LOGIT])
    num_samples = 40_000
    samples = Categorical(tf.broadcast_to(logits, [num_samples, 4])).sample(SEED)
    frequencies = np.bincount(samples, minlength=4) / num_samples
    np.testing.assert_allclose(frequencies, tf.nn.softmax(logits), atol=4 * 0.5 / math.sqrt(num_samples))
    assert frequencies[3] == 0


def test_noise_drawn_beforehand_picks_the_action_that_sampling_would():
    distribution, _ = PAIRS["categorical"]
    noise = Categorical.noise(distribution.logits.shape, SEED)
    np.testing.assert_array_equal(distribution.reparameterize(noise), distribution.sample(SEED))


def test_normal_samples_have_the_mean_and_the_standard_deviation():
    num_samples = 40_000
    mean, log_std = tf.constant([1.0, -2.0]), tf.constant([0.5, -1.0])
    normal = DiagonalNormal(*(tf.broadcast_to(x, [num_samples, 2]) for x in (mean, log_std)))
    samples = normal.sample(SEED).numpy()
    np.testing.assert_allclose(samples.mean(axis=0), mean, atol=4 * math.exp(0.5) / math.sqrt(num_samples))
    np.testing.assert_allclose(samples.std(axis=0), np.exp(log_std), rtol=0.02)
    assert abs(np.corrcoef(samples.T)[0, 1]) < 0.02


def test_heads_are_sampled_independently():
    heads = MultiCategorical((tf.zeros([10_000, 3]), tf.zeros([10_000, 3])))
    first, second = heads.sample(SEED).numpy().T
    np.testing.assert_allclose(np.mean(first == second), 1 / 3, atol=0.02)


def test_multi_categorical_sums_over_heads():
    distribution, other = PAIRS["multi_categorical"]
    actions = tf.constant([[0, 1, 5], [2, 0, 0], [1, 1, 3], [0, 0, 2]])
    for row in range(4):
        log_prob = entropy = kl = 0.0
        for head, (logits, other_logits) in enumerate(zip(distribution.logits, other.logits, strict=True)):
            p = reference.softmax(logits[row].numpy().tolist())
            log_prob += math.log(p[actions[row, head]])
            entropy -= sum(x * math.log(x) for x in p)
            kl += reference.categorical_kl(logits[row].numpy().tolist(), other_logits[row].numpy().tolist())
        np.testing.assert_allclose(distribution.log_prob(actions)[row], log_prob, rtol=1e-5)
        np.testing.assert_allclose(distribution.entropy()[row], entropy, rtol=1e-5)
        np.testing.assert_allclose(distribution.kl(other)[row], kl, rtol=1e-4)
    np.testing.assert_array_equal(distribution.mode(), np.stack([np.argmax(x, -1) for x in distribution.logits], -1))


def test_diagonal_normal_sums_over_dimensions():
    distribution, _ = PAIRS["diagonal_normal"]
    actions = distribution.sample(SEED)
    for row in range(4):
        x, mean, log_std = (y[row].numpy().tolist() for y in (actions, *distribution))
        expected = reference.normal_log_density(x, mean, log_std)
        np.testing.assert_allclose(distribution.log_prob(actions)[row], expected, rtol=1e-5)
        entropy = sum(s + (1 + math.log(2 * math.pi)) / 2 for s in log_std)
        np.testing.assert_allclose(distribution.entropy()[row], entropy, rtol=1e-5)


def test_the_squashed_density_integrates_to_one_over_the_squashed_actions():
    distribution = SquashedNormal(tf.fill([20_001, 1], tf.constant(0.4, tf.float64)), tf.zeros([20_001, 1], tf.float64))
    actions = np.linspace(-12, 12, 20_001)[:, np.newaxis]
    squashed = distribution.squash(actions).numpy()[:, 0]
    density = np.exp(distribution.log_prob(actions))
    np.testing.assert_allclose(np.trapezoid(density, squashed), 1.0, rtol=1e-4)


@every_mode
def test_a_saturated_action_has_a_finite_log_prob_and_gradient(compiled):
    """tanh(+-30) is exactly +-1 in float32, where the density of the squashed action cannot be evaluated."""
    actions = tf.constant([[30.0], [-30.0]])
    assert not np.any(np.isfinite(PAIRS["squashed_normal"][0].to_tfp().log_prob(tf.tanh(tf.fill([4, 3], 30.0)))))

    def log_prob_and_gradient(mean, log_std, actions):
        with tf.GradientTape() as tape:
            tape.watch([mean, log_std, actions])
            log_prob = SquashedNormal(mean, log_std).log_prob(actions)
        return log_prob, *tape.gradient(log_prob, [mean, log_std, actions])

    log_prob, *gradients = compiled(log_prob_and_gradient)(tf.zeros([2, 1]), tf.zeros([2, 1]), actions)
    normal = -(30.0**2) / 2 - math.log(2 * math.pi) / 2
    log_jacobian = 2 * (math.log(2) - 30.0)  # log(1 - tanh(x)^2) = log 4 - 2 |x| for a large |x|
    np.testing.assert_allclose(log_prob, normal - log_jacobian, rtol=1e-5)
    for gradient in gradients:
        assert np.all(np.isfinite(gradient))


def test_the_squashed_entropy_estimate_is_unbiased_and_differentiable():
    num_rows = 40_000
    mean, log_std = tf.fill([num_rows, 1], 0.4), tf.fill([num_rows, 1], -0.5)
    with tf.GradientTape() as tape:
        tape.watch(log_std)
        estimates = SquashedNormal(mean, log_std).entropy(SEED)
    # The entropy of a transformed variable is that of the normal plus E log |Jacobian|, here by quadrature.
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    x = 0.4 + math.exp(-0.5) * nodes
    expected_log_jacobian = np.sum(weights * np.log(1 - np.tanh(x) ** 2)) / math.sqrt(2 * math.pi)
    exact = -0.5 + (1 + math.log(2 * math.pi)) / 2 + expected_log_jacobian
    np.testing.assert_allclose(np.mean(estimates), exact, atol=4 * np.std(estimates) / math.sqrt(num_rows))
    # Its derivative with respect to log_std is 1 - 2 E[tanh(x) std * node].
    slope = 1 - 2 * np.sum(weights * np.tanh(x) * math.exp(-0.5) * nodes) / math.sqrt(2 * math.pi)
    np.testing.assert_allclose(np.mean(tape.gradient(estimates, log_std)), slope, atol=0.02)


@pytest.mark.parametrize("log_std", [-3.0, -0.5, 0.0, math.log(2)])
@pytest.mark.parametrize("mean", [0.0, 0.4, -2.0])
def test_the_squashed_entropy_without_a_seed_is_the_integral(mean, log_std):
    nodes, weights = np.polynomial.hermite_e.hermegauss(150)
    x = mean + math.exp(log_std) * nodes
    slopes = 2 * (math.log(2) - x - np.logaddexp(0, -2 * x))
    exact = log_std + (1 + math.log(2 * math.pi)) / 2 + np.sum(weights * slopes) / math.sqrt(2 * math.pi)
    tensors = (tf.constant([[value, 0.3]]) for value in (mean, log_std))
    both, other = SquashedNormal(*tensors).entropy(), SquashedNormal(tf.constant([[0.3]]), tf.constant([[0.3]]))
    np.testing.assert_allclose(both - other.entropy(), [exact], atol=1e-5 if log_std <= 0 else 1e-3)


@pytest.mark.representatives(3)
@every_mode
@every_family
def test_noise_makes_samples_and_many_steps_of_it_come_from_one_draw(compiled, pair):
    distribution, _ = pair
    is_normal = isinstance(distribution, DiagonalNormal | SquashedNormal)
    width = 3 if is_normal else sum(x.shape[-1] for x in tf.nest.flatten(distribution))
    noise = distribution.noise([5, 4, width], SEED)
    assert noise.shape == [5, 4, width] and len(np.unique(noise)) == 5 * 4 * width
    actions = [compiled(lambda d, x: d.reparameterize(x))(distribution, noise[t]) for t in range(5)]
    assert all(a.shape == distribution.mode().shape and a.dtype == distribution.mode().dtype for a in actions)
    np.testing.assert_array_equal(distribution.reparameterize(tf.zeros_like(noise[0])), distribution.mode())
    wide = type(distribution)(*(tf.nest.map_structure(lambda x: tf.repeat(x, 2000, axis=0), distribution)))
    drawn = wide.reparameterize(distribution.noise([8000, width], SEED))
    entropy = distribution.entropy()
    estimate = -tf.reduce_mean(tf.reshape(wide.log_prob(drawn), [4, 2000]), axis=1)
    np.testing.assert_allclose(estimate, entropy, atol=0.15)


def test_the_kl_of_squashed_normals_is_that_of_the_normals_by_samples_too():
    p, q = (SquashedNormal(tf.fill([100_000, 1], m), tf.fill([100_000, 1], s)) for m, s in ((0.3, -0.2), (-0.1, 0.1)))
    actions = p.sample(SEED)
    differences = (p.log_prob(actions) - q.log_prob(actions)).numpy()
    np.testing.assert_allclose(differences.mean(), p.kl(q)[0], atol=4 * differences.std() / math.sqrt(100_000))


@every_mode
def test_masked_actions_have_no_probability_no_entropy_and_exactly_no_gradient(compiled):
    mask = np.array([True, False, True, True, False])
    allowed = np.flatnonzero(mask)
    logits, actions = PAIRS["categorical"][0].logits, tf.constant([0, 2, 3, 0])

    def evaluate(logits):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(logits)
            masked = distributions.mask_logits(logits, tf.broadcast_to(mask, logits.shape))
            tape.watch(masked)
            distribution = Categorical(masked)
            log_prob, entropy = distribution.log_prob(actions), distribution.entropy()
        gradients = [tape.gradient(y, x) for y in (log_prob, entropy) for x in (logits, masked)]
        return log_prob, entropy, gradients

    log_prob, entropy, gradients = compiled(evaluate)(logits)
    smaller = Categorical(tf.gather(logits, allowed, axis=1))
    np.testing.assert_allclose(log_prob, smaller.log_prob(np.searchsorted(allowed, actions)), rtol=1e-5)
    np.testing.assert_allclose(entropy, smaller.entropy(), rtol=1e-5)
    for gradient in gradients:
        np.testing.assert_array_equal(gradient.numpy()[:, ~mask], 0.0)
        assert np.all(np.isfinite(gradient)) and np.any(gradient != 0)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float32, tf.float64])
def test_one_allowed_action_has_probability_1_and_entropy_0(dtype):
    logits = distributions.mask_logits(tf.zeros([1, 3], dtype), [[False, True, False]])
    assert logits.dtype == dtype
    assert Categorical(logits).entropy() == 0.0 and Categorical(logits).log_prob([1]) == 0.0


def test_gumbel_softmax_samples_lie_inside_the_simplex_and_follow_the_logits():
    logits = tf.math.log(tf.constant([0.6, 0.3, 0.1]))
    relaxed = distributions.gumbel_softmax(tf.broadcast_to(logits, [20_000, 3]), 0.5)
    assert isinstance(relaxed, tfp.distributions.RelaxedOneHotCategorical)
    samples = relaxed.sample(seed=SEED).numpy()
    np.testing.assert_allclose(samples.sum(axis=-1), 1.0, rtol=1e-5)
    # The largest coordinate is the Gumbel-max sample for every temperature.
    frequencies = np.bincount(samples.argmax(axis=-1), minlength=3) / 20_000
    np.testing.assert_allclose(frequencies, [0.6, 0.3, 0.1], atol=0.015)


N, D = 4, 3
MEAN, LOG_STD, LOGITS = tf.zeros([N, D]), tf.zeros([N, D]), tf.zeros([N, 5])


@pytest.mark.parametrize(
    ("call", "first", "second"),
    [
        (lambda: Categorical(LOGITS).log_prob(tf.zeros([N, 1], tf.int32)), "(4, 1)", "(4, 5)"),
        (lambda: Categorical(tf.zeros([N, 1, 5])).log_prob(tf.zeros([N], tf.int32)), "(4,)", "(4, 1, 5)"),
        (lambda: MultiCategorical((LOGITS, LOGITS)).log_prob(tf.zeros([N, 3], tf.int32)), "(4, 3)", "2"),
        (lambda: DiagonalNormal(MEAN, LOG_STD).log_prob(tf.zeros([N, 1])), "(4, 1)", "(4, 3)"),
        (lambda: DiagonalNormal(MEAN, tf.zeros([D])).log_prob(MEAN), "(3,)", "(4, 3)"),
        (lambda: DiagonalNormal(MEAN, tf.zeros([D])).entropy(), "(3,)", "(4, 3)"),
        (lambda: DiagonalNormal(MEAN, tf.zeros([N, 1])).sample(SEED), "(4, 1)", "(4, 3)"),
        (lambda: SquashedNormal(MEAN, LOG_STD).log_prob(tf.zeros([D])), "(3,)", "(4, 3)"),
        (lambda: Categorical(LOGITS).kl(Categorical(tf.zeros([5]))), "(5,)", "(4, 5)"),
        (lambda: distributions.mask_logits(LOGITS, tf.ones([N, 1], tf.bool)), "(4, 1)", "(4, 5)"),
    ],
)
def test_shapes_that_would_broadcast_are_refused(call, first, second):
    with pytest.raises(ValueError) as error:
        call()
    assert first in str(error.value) and second in str(error.value)


@pytest.mark.slow
def test_tensorflow_probability_is_imported_on_first_use_which_may_be_while_a_function_is_traced():
    """Discrete actions never import it. After an import during a trace, later calls must still work."""
    program = """
import sys
import tensorflow as tf
from tfppo.ops.distributions import Categorical, MultiCategorical
from tfppo.ops.normals import DiagonalNormal, SquashedNormal

zeros = tf.zeros([2, 3])
for d in (Categorical(zeros), MultiCategorical((zeros, zeros))):
    d.log_prob(d.sample([1, 2])), d.entropy(), d.mode(), d.kl(d)
DiagonalNormal(zeros, zeros).sample([1, 2])
assert "tensorflow_probability" not in sys.modules, "imported too early"

log_prob = lambda x: SquashedNormal(x, x).log_prob(x)
traced = tf.function(log_prob, jit_compile=True)(zeros)
assert "tensorflow_probability" in sys.modules, "the second half tests nothing"
tf.debugging.assert_near(traced, log_prob(zeros))
tf.debugging.assert_near(traced, SquashedNormal(zeros, zeros).to_tfp().log_prob(zeros))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
