"""Kullback-Leibler divergences: from samples, exact, and the rules that steer a penalty's coefficient.

Which one to use. Exact where both distributions' parameters are at hand. From samples, mind who sampled: KL(p || q)
needs samples of p. For the reference penalty p is the policy that sampled (`kl_k1` .. `kl_k3`); for old against new
the samples are the OLD policy's (`approximate_kl`). As a LOSS TERM on the policy's own samples, `kl_k1` has zero
expected gradient and `kl_k3` gives the gradient of KL(reference || policy); `kl_k2` or the exact KL gives that of
KL(policy || reference).

Source: Schulman 2020, "Approximating KL divergence" (http://joschu.net/blog/kl-approx.html).
"""

from typing import TypeAlias

import tensorflow as tf

from tfppo.ops.masking import check_same_shape

Scalar: TypeAlias = "float | tf.Tensor"


def kl_k1(log_ratio: tf.Tensor) -> tf.Tensor:
    """Estimate of KL(p || q) from samples of p: k1 = d. Unbiased, of either sign, high variance.

    Source: Schulman 2020. Use it in a reward, never as a loss term: its expected gradient is zero.

    Args:
      log_ratio: d = log p(x) - log q(x) at samples x of p, [...].

    Returns: [...].
    """
    return tf.identity(log_ratio)


def kl_k2(log_ratio: tf.Tensor) -> tf.Tensor:
    """Estimate of KL(p || q) from samples of p: k2 = d^2 / 2. Biased, never negative.

    Source: Schulman 2020. On samples of p its expected gradient with respect to p is that of KL(p || q).

    Args:
      log_ratio: d = log p(x) - log q(x) at samples x of p, [...].

    Returns: [...].
    """
    return tf.square(log_ratio) / 2


def kl_k3(log_ratio: tf.Tensor) -> tf.Tensor:
    """Estimate of KL(p || q) from samples of p: k3 = exp(-d) - 1 + d. Unbiased, never negative.

    Source: Schulman 2020. On samples of p its expected gradient with respect to p is that of KL(q || p).

    Args:
      log_ratio: d = log p(x) - log q(x) at samples x of p, [...]; exp(-d) overflows in float32 below d = -88.

    Returns: [...].
    """
    return tf.math.expm1(-log_ratio) + log_ratio


def approximate_kl(log_ratio: tf.Tensor) -> tf.Tensor:
    """Estimate of KL(old || new) from samples of OLD: ratio - 1 - log ratio with ratio = new / old.

    This is k3 of Schulman 2020 with p = old, written for the log-ratio that PPO has at hand.

    Args:
      log_ratio: log new(x) - log old(x) at samples x of old, [...]: the opposite sign of the other estimators' d.

    Returns: [...].
    """
    return tf.math.expm1(log_ratio) - log_ratio


def categorical_kl(logits_p: tf.Tensor, logits_q: tf.Tensor) -> tf.Tensor:
    """Exact KL(p || q) of two categorical distributions: sum_a p_a (log p_a - log q_a).

    A logit of -1e8 (`distributions.mask_logits`) in p contributes exactly 0 to the value and to the gradient.

    Args:
      logits_p: [..., A].
      logits_q: [..., A].

    Returns: [...].

    Raises:
      ValueError: if the shapes differ.
    """
    check_same_shape(logits_p=logits_p, logits_q=logits_q)
    log_p = tf.nn.log_softmax(logits_p)
    log_q = tf.nn.log_softmax(logits_q)
    return tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1)  # [...]


def diagonal_normal_kl(mean_p: tf.Tensor, log_std_p: tf.Tensor, mean_q: tf.Tensor, log_std_q: tf.Tensor) -> tf.Tensor:
    """Exact KL(p || q) of two normal distributions with diagonal covariance.

    sum_i log(s_q / s_p) + (s_p^2 + (mu_p - mu_q)^2) / (2 s_q^2) - 1/2, s = exp(log_std).
    Source: textbook; for q = N(0, 1) it is Kingma and Welling 2014, appendix B.

    Args:
      mean_p: [..., D].
      log_std_p: [..., D].
      mean_q: [..., D].
      log_std_q: [..., D].

    Returns: [...].

    Raises:
      ValueError: if the shapes differ.
    """
    check_same_shape(mean_p=mean_p, log_std_p=log_std_p, mean_q=mean_q, log_std_q=log_std_q)
    log_scale_ratio = log_std_p - log_std_q
    distance = (mean_p - mean_q) * tf.exp(-log_std_q)
    # expm1 keeps the small KL of two nearly equal policies, which the textbook form loses to cancellation.
    terms = (tf.math.expm1(2 * log_scale_ratio) + tf.square(distance)) / 2 - log_scale_ratio  # [..., D]
    return tf.reduce_sum(terms, axis=-1)  # [...]


def fixed_kl_coefficient(coefficient: Scalar, kl: Scalar) -> tf.Tensor:
    """The coefficient unchanged: the rule of a penalty that does not adapt.

    Args:
      coefficient: beta, scalar.
      kl: ignored; here so that the three rules are interchangeable.

    Returns: scalar.
    """
    del kl
    return tf.convert_to_tensor(coefficient, dtype_hint=tf.float32)


def adaptive_kl_coefficient_schulman(coefficient: Scalar, kl: Scalar, target: Scalar) -> tf.Tensor:
    """Penalty coefficient after an update: 2 beta if kl > 1.5 target, beta / 2 if kl < target / 1.5, else beta.

    Source: Schulman et al. 2017 (PPO), section 4.

    Args:
      coefficient: beta, scalar.
      kl: mean KL(old || new) of the update, scalar; where it is not finite beta stays.
      target: d_targ, scalar.

    Returns: scalar.
    """
    coefficient, kl, target = _scalars(coefficient, kl, target)
    changed = tf.where(kl > 1.5 * target, 2 * coefficient, tf.where(kl < target / 1.5, coefficient / 2, coefficient))
    return tf.where(tf.math.is_finite(kl), changed, coefficient)


def adaptive_kl_coefficient_ziegler(
    coefficient: Scalar, kl: Scalar, target: Scalar, num_episodes: Scalar, horizon: Scalar
) -> tf.Tensor:
    """Penalty coefficient after an update: beta (1 + clip(kl / target - 1, -0.2, 0.2) min(n / horizon, 1)).

    Source: Ziegler et al. 2019, section 2.2 (a log-space proportional controller), as in their released code. The
    horizon must fit the length of the run: their 10,000 belongs to a million episodes. They have no minimum, and so an
    update of more than five horizons could make the coefficient negative.

    Args:
      coefficient: beta, scalar.
      kl: mean over sequences of the SUM over tokens of the KL to the reference, scalar; where it is not finite beta
        stays.
      target: KL to steer to, scalar.
      num_episodes: n, how many episodes the update saw.
      horizon: in episodes.

    Returns: scalar.
    """
    coefficient, kl, target, num_episodes, horizon = _scalars(coefficient, kl, target, num_episodes, horizon)
    error = tf.clip_by_value(kl / target - 1, -0.2, 0.2)
    changed = coefficient * (1 + error * tf.minimum(num_episodes / horizon, 1))
    return tf.where(tf.math.is_finite(kl), changed, coefficient)


def _scalars(coefficient: Scalar, *others: Scalar) -> tuple[tf.Tensor, ...]:
    coefficient = tf.convert_to_tensor(coefficient, dtype_hint=tf.float32)
    dtype = coefficient.dtype
    return coefficient, *(tf.cast(tf.convert_to_tensor(other, dtype_hint=dtype), dtype) for other in others)
