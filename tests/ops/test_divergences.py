"""Estimates of the KL, exact KLs, and the rules for the penalty coefficient."""

import math

import numpy as np
import pytest
import reference
import tensorflow as tf
import tensorflow_probability as tfp
from reference import every_mode

from tfppo.ops import divergences, random
from tfppo.ops.distributions import MASKED_LOGIT

RNG = np.random.default_rng(1)
LOGITS_P = RNG.normal(size=[4, 5])
LOGITS_Q = LOGITS_P + 0.5 * RNG.normal(size=[4, 5])
NORMALS = [scale * RNG.normal(size=[4, 3]) for scale in (1.0, 0.3, 1.0, 0.3)]  # mean_p, log_std_p, mean_q, log_std_q


def constants(arrays, dtype=tf.float32):
    return [tf.constant(array, dtype) for array in arrays]


def log_ratios():
    """Returns log p - log q of two categorical distributions, and p; [A] each, float64."""
    log_p, log_q = (tf.nn.log_softmax(tf.constant(logits[0])) for logits in (LOGITS_P, LOGITS_Q))
    return log_p - log_q, tf.exp(log_p)


@every_mode
@pytest.mark.parametrize(
    ("estimator", "formula"),
    [
        (divergences.kl_k1, lambda d: d),
        (divergences.kl_k2, lambda d: d**2 / 2),
        (divergences.kl_k3, lambda d: math.exp(-d) - 1 + d),
        (divergences.approximate_kl, lambda d: math.exp(d) - 1 - d),
    ],
)
def test_estimators_are_their_formulas(compiled, estimator, formula):
    d = np.array([-3.0, -0.5, 0.0, 0.25, 2.0])
    np.testing.assert_allclose(compiled(estimator)(tf.constant(d)), [formula(x) for x in d], rtol=1e-12, atol=1e-15)


def test_k3_of_close_policies_survives_float32():
    d = tf.constant([1e-3, -1e-3])
    np.testing.assert_allclose(divergences.kl_k3(d), [5e-7, 5e-7], rtol=1e-3)
    np.testing.assert_allclose(divergences.approximate_kl(d), [5e-7, 5e-7], rtol=1e-3)


@pytest.mark.parametrize("estimator", [divergences.kl_k2, divergences.kl_k3, divergences.approximate_kl])
def test_k2_and_k3_are_never_negative(estimator):
    d = np.concatenate([np.linspace(-15, 15, 1001), np.geomspace(1e-8, 1, 100), -np.geomspace(1e-8, 1, 100)])
    assert np.all(estimator(tf.constant(d, tf.float32)) >= 0)
    assert estimator(tf.constant(0.0)) == 0.0


@pytest.mark.parametrize("estimator", [divergences.kl_k1, divergences.kl_k3])
def test_k1_and_k3_are_unbiased_on_a_large_sample(estimator):
    num_samples = 200_000
    d, _ = log_ratios()
    logits = tf.constant(LOGITS_P[0], tf.float32)
    samples = random.categorical(tf.broadcast_to(logits, [num_samples, 5]), (1, 2))
    estimates = estimator(tf.gather(d, samples)).numpy()
    exact = reference.categorical_kl(LOGITS_P[0], LOGITS_Q[0])
    assert abs(estimates.mean() - exact) < 4 * estimates.std() / math.sqrt(num_samples)


def test_approximate_kl_on_samples_of_old_is_kl_of_old_to_new():
    """By enumeration, exactly. p is old, q is new, and the log-ratio is new - old as in PPO."""
    d, p = log_ratios()
    new_minus_old = -d
    np.testing.assert_array_equal(divergences.approximate_kl(new_minus_old), divergences.kl_k3(-new_minus_old))
    np.testing.assert_allclose(
        tf.reduce_sum(p * divergences.approximate_kl(new_minus_old)),
        reference.categorical_kl(LOGITS_P[0], LOGITS_Q[0]),
    )


@pytest.mark.parametrize(
    ("estimator", "target"),
    [
        (divergences.kl_k1, lambda p, q: tf.zeros([], tf.float64) * tf.reduce_sum(p)),
        (divergences.kl_k2, lambda p, q: divergences.categorical_kl(p, q)),
        (divergences.kl_k3, lambda p, q: divergences.categorical_kl(q, p)),
    ],
    ids=["k1: nothing", "k2: KL(policy || reference)", "k3: KL(reference || policy)"],
)
def test_the_gradient_an_estimator_gives_as_a_loss_term_on_the_policys_own_samples(estimator, target):
    """The expectation over samples is exact: a sum over all actions, with constant probabilities."""
    policy, reference_policy = (tf.constant(logits[0]) for logits in (LOGITS_P, LOGITS_Q))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(policy)
        log_p = tf.nn.log_softmax(policy)
        estimates = estimator(log_p - tf.nn.log_softmax(reference_policy))
        loss = tf.reduce_sum(tf.stop_gradient(tf.exp(log_p)) * estimates)
        exact = target(policy, reference_policy)
    gradient, expected = tape.gradient(loss, policy), tape.gradient(exact, policy)
    np.testing.assert_allclose(gradient, expected, atol=1e-12)
    if estimator is not divergences.kl_k1:
        assert np.abs(expected).max() > 1e-2


@every_mode
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_categorical_kl_equals_the_loop_and_tfp(compiled, dtype):
    p, q = constants([LOGITS_P, LOGITS_Q], dtype)
    kl = compiled(divergences.categorical_kl)(p, q)
    assert kl.dtype == dtype and kl.shape == [4]
    expected = [reference.categorical_kl(a, b) for a, b in zip(LOGITS_P, LOGITS_Q, strict=True)]
    np.testing.assert_allclose(kl, expected, rtol=1e-4)
    categorical = tfp.distributions.Categorical
    np.testing.assert_allclose(kl, categorical(logits=p).kl_divergence(categorical(logits=q)), rtol=1e-4)


@every_mode
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_diagonal_normal_kl_equals_the_loop_and_tfp(compiled, dtype):
    parameters = constants(NORMALS, dtype)
    kl = compiled(divergences.diagonal_normal_kl)(*parameters)
    assert kl.dtype == dtype and kl.shape == [4]
    expected = [reference.diagonal_normal_kl(*row) for row in zip(*NORMALS, strict=True)]
    np.testing.assert_allclose(kl, expected, rtol=1e-5)
    mean_p, log_std_p, mean_q, log_std_q = parameters
    normal = tfp.distributions.MultivariateNormalDiag
    expected = normal(mean_p, tf.exp(log_std_p)).kl_divergence(normal(mean_q, tf.exp(log_std_q)))
    np.testing.assert_allclose(kl, expected, rtol=1e-4)


def test_the_kl_of_a_distribution_to_itself_is_exactly_zero():
    p, mean, log_std = constants([LOGITS_P, *NORMALS[:2]])
    np.testing.assert_array_equal(divergences.categorical_kl(p, p), 0.0)
    np.testing.assert_array_equal(divergences.diagonal_normal_kl(mean, log_std, mean, log_std), 0.0)


def test_the_kl_of_two_nearly_equal_normals_survives_float32():
    """KL(N(0, s) || N(0, 1)) = log(s)^2 to second order."""
    zero, log_std = tf.zeros([1, 1]), tf.constant([[-1e-3]])
    np.testing.assert_allclose(divergences.diagonal_normal_kl(zero, log_std, zero, zero), 1e-6, rtol=2e-3)


@every_mode
def test_masked_logits_add_nothing_to_the_kl_and_get_no_gradient(compiled):
    mask = np.array([True, True, False, True, False])
    masked_p, masked_q = (tf.constant(np.where(mask, x, MASKED_LOGIT), tf.float32) for x in (LOGITS_P, LOGITS_Q))

    def kl_and_gradients(p, q):
        with tf.GradientTape() as tape:
            tape.watch([p, q])
            kl = divergences.categorical_kl(p, q)
        return kl, *tape.gradient(kl, [p, q])

    kl, *gradients = compiled(kl_and_gradients)(masked_p, masked_q)
    without, *expected = kl_and_gradients(*constants([LOGITS_P[:, mask], LOGITS_Q[:, mask]]))
    np.testing.assert_allclose(kl, without, rtol=1e-5)
    for gradient, gradient_without in zip(gradients, expected, strict=True):
        np.testing.assert_array_equal(gradient.numpy()[:, ~mask], 0.0)
        np.testing.assert_allclose(gradient.numpy()[:, mask], gradient_without, rtol=1e-4, atol=1e-6)
    # If an action is masked in p only, because the mask changed between two policies, the KL is still finite.
    for part in kl_and_gradients(masked_p, tf.constant(LOGITS_Q, tf.float32)):
        assert np.all(np.isfinite(part))


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (divergences.categorical_kl, [[4, 1], [4, 5]]),
        (divergences.categorical_kl, [[4, 5], [5]]),
        (divergences.diagonal_normal_kl, [[4, 3], [4, 3], [4, 3], [3]]),
        (divergences.diagonal_normal_kl, [[4, 3], [4, 1], [4, 3], [4, 3]]),
    ],
)
def test_shapes_that_would_broadcast_are_refused(function, shapes):
    with pytest.raises(ValueError, match="has shape") as error:
        function(*(tf.zeros(shape) for shape in shapes))
    odd = next(shape for shape in shapes[1:] if shape != shapes[0])
    assert str(tf.TensorShape(odd)) in str(error.value) and str(tf.TensorShape(shapes[0])) in str(error.value)


@every_mode
@pytest.mark.parametrize("kl", [0.0, 0.0066, 0.0067, 0.01, 0.0149, 0.0151, 3.0])
def test_the_rule_of_schulman_equals_the_loop(compiled, kl):
    rule = compiled(lambda b, k: divergences.adaptive_kl_coefficient_schulman(b, k, 0.01))
    expected = reference.adaptive_kl_coefficient_schulman(0.3, kl, 0.01)
    np.testing.assert_allclose(rule(tf.constant(0.3), tf.constant(kl)), expected, rtol=1e-6)


@every_mode
@pytest.mark.parametrize("kl", [-1.0, 0.0, 5.0, 6.0, 7.0, 60.0])
def test_the_rule_of_ziegler_equals_the_loop(compiled, kl):
    rule = compiled(lambda b, k: divergences.adaptive_kl_coefficient_ziegler(b, k, 6.0, 512, 10_000))
    expected = reference.adaptive_kl_coefficient_ziegler(0.15, kl, 6.0, 512, 10_000)
    np.testing.assert_allclose(rule(tf.constant(0.15), tf.constant(kl)), expected, rtol=1e-6)


@pytest.mark.parametrize(("kl", "factor"), [(0.0, 0.8), (60.0, 1.2)])
def test_no_update_is_so_large_that_the_coefficient_turns_negative(kl, factor):
    changed = divergences.adaptive_kl_coefficient_ziegler(0.1, kl, 6.0, 65_536, 10_000)
    np.testing.assert_allclose(changed, 0.1 * factor, rtol=1e-6)


@pytest.mark.parametrize("kl", [0.0, 1.0, np.nan, np.inf])
def test_a_fixed_coefficient_stays(kl):
    assert divergences.fixed_kl_coefficient(0.25, kl) == 0.25


@every_mode
@pytest.mark.parametrize("kl", [np.nan, np.inf, -np.inf])
def test_a_kl_that_is_not_finite_leaves_the_coefficient(compiled, kl):
    def both(coefficient, kl):
        return (
            divergences.adaptive_kl_coefficient_schulman(coefficient, kl, 0.01),
            divergences.adaptive_kl_coefficient_ziegler(coefficient, kl, 6.0, 512, 10_000),
        )

    assert [x.numpy() for x in compiled(both)(tf.constant(0.25), tf.constant(kl, tf.float32))] == [0.25, 0.25]
