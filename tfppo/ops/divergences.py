"""Kullback-Leibler (KL) divergences, exact and estimated from samples, and rules that adapt a penalty coefficient.

Use an exact KL where the parameters of both distributions are known. An estimate of `KL(p || q)` needs samples of p:

- For the penalty against a reference policy, p is the policy that sampled: use `kl_k1`, `kl_k2` or `kl_k3`.
- For the old against the new policy, the samples come from the old policy: use `approximate_kl`.

As a loss term on samples of the trained policy, the estimators differ in their expected gradient. That of `kl_k1` is
zero, that of `kl_k3` is the gradient of `KL(reference || policy)`, and that of `kl_k2` and of the exact KL is the
gradient of `KL(policy || reference)`.

Source: Schulman 2020, "Approximating KL divergence" (http://joschu.net/blog/kl-approx.html).
"""

from typing import TypeAlias

import tensorflow as tf

from tfppo.ops.masking import check_same_shape

Scalar: TypeAlias = "float | tf.Tensor"


def kl_k1(log_ratio: tf.Tensor) -> tf.Tensor:
    """Estimates `KL(p || q)` from samples of p: `k1 = d`.

    The estimate is unbiased, but its variance is high and it may be negative. Use it in a reward but not as a loss
    term: the expectation of its gradient is zero. Source: Schulman 2020.

    Args:
      log_ratio: `d = log p(x) - log q(x)` at samples x of p, [...].

    Returns:
      [...].
    """
    return tf.identity(log_ratio)


def kl_k2(log_ratio: tf.Tensor) -> tf.Tensor:
    """Estimates `KL(p || q)` from samples of p: `k2 = d^2 / 2`.

    The estimate is biased and never negative. On samples of p, the expectation of its gradient with respect to p is the
    gradient of `KL(p || q)`. Source: Schulman 2020.

    Args:
      log_ratio: `d = log p(x) - log q(x)` at samples x of p, [...].

    Returns:
      [...].
    """
    return tf.square(log_ratio) / 2


def kl_k3(log_ratio: tf.Tensor) -> tf.Tensor:
    """Estimates `KL(p || q)` from samples of p: `k3 = exp(-d) - 1 + d`.

    The estimate is unbiased and never negative. On samples of p, the expectation of its gradient with respect to p is
    the gradient of `KL(q || p)`. Source: Schulman 2020.

    Args:
      log_ratio: `d = log p(x) - log q(x)` at samples x of p, [...]. `exp(-d)` overflows in float32 below d = -88.

    Returns:
      [...].
    """
    return tf.math.expm1(-log_ratio) + log_ratio


def approximate_kl(log_ratio: tf.Tensor) -> tf.Tensor:
    """Estimates `KL(old || new)` from samples of the old policy: `ratio - 1 - log ratio` with `ratio = new / old`.

    This is k3 of Schulman 2020 with p = old, written for the log-ratio that PPO uses.

    Args:
      log_ratio: `log new(x) - log old(x)` at samples x of the old policy, [...]. Its sign is the opposite of the d of
        the other estimators.

    Returns:
      [...].
    """
    return tf.math.expm1(log_ratio) - log_ratio


def categorical_kl(logits_p: tf.Tensor, logits_q: tf.Tensor) -> tf.Tensor:
    """Computes the exact `KL(p || q)` of two categorical distributions: `sum_a p_a (log p_a - log q_a)`.

    An action with a logit of -1e8 in p (see `distributions.mask_logits`) adds exactly 0 to the value and to the
    gradient.

    Args:
      logits_p: [..., A].
      logits_q: [..., A].

    Returns:
      [...].

    Raises:
      ValueError: If the shapes differ.
    """
    check_same_shape(logits_p=logits_p, logits_q=logits_q)
    log_p = tf.nn.log_softmax(logits_p)
    log_q = tf.nn.log_softmax(logits_q)
    return tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1)  # [...]


def diagonal_normal_kl(mean_p: tf.Tensor, log_std_p: tf.Tensor, mean_q: tf.Tensor, log_std_q: tf.Tensor) -> tf.Tensor:
    """Computes the exact `KL(p || q)` of two normal distributions with diagonal covariance.

    With `s = exp(log_std)`::

        KL(p || q) = sum_i log(s_q / s_p) + (s_p^2 + (mu_p - mu_q)^2) / (2 s_q^2) - 1/2

    Source: textbook. For q = N(0, 1) it is Kingma and Welling 2014, appendix B.

    Args:
      mean_p: [..., D].
      log_std_p: [..., D].
      mean_q: [..., D].
      log_std_q: [..., D].

    Returns:
      [...].

    Raises:
      ValueError: If the shapes differ.
    """
    check_same_shape(mean_p=mean_p, log_std_p=log_std_p, mean_q=mean_q, log_std_q=log_std_q)
    log_scale_ratio = log_std_p - log_std_q
    distance = (mean_p - mean_q) * tf.exp(-log_std_q)
    # For two nearly equal policies the textbook form loses the small KL to cancellation; expm1 keeps it.
    terms = (tf.math.expm1(2 * log_scale_ratio) + tf.square(distance)) / 2 - log_scale_ratio  # [..., D]
    return tf.reduce_sum(terms, axis=-1)  # [...]


def fixed_kl_coefficient(coefficient: Scalar, kl: Scalar) -> tf.Tensor:
    """Returns the penalty coefficient unchanged. This is the rule that does not adapt.

    Args:
      coefficient: beta, scalar.
      kl: Ignored. The argument gives all rules the same first two arguments.

    Returns:
      The coefficient, scalar.
    """
    del kl
    return tf.convert_to_tensor(coefficient, dtype_hint=tf.float32)


def adaptive_kl_coefficient_schulman(coefficient: Scalar, kl: Scalar, target: Scalar) -> tf.Tensor:
    """Adapts the coefficient of a KL penalty after an update by the rule of Schulman et al. 2017.

    The new coefficient is `2 beta` if `kl > 1.5 target`, `beta / 2` if `kl < target / 1.5`, and otherwise `beta`.

    Source: Schulman et al. 2017 (PPO), section 4.

    Args:
      coefficient: beta, scalar.
      kl: Mean `KL(old || new)` of the update, scalar. If it is not finite, the coefficient does not change.
      target: d_targ, scalar.

    Returns:
      The new coefficient, scalar.
    """
    coefficient, kl, target = _scalars(coefficient, kl, target)
    changed = tf.where(kl > 1.5 * target, 2 * coefficient, tf.where(kl < target / 1.5, coefficient / 2, coefficient))
    return tf.where(tf.math.is_finite(kl), changed, coefficient)


def adaptive_kl_coefficient_ziegler(
    coefficient: Scalar, kl: Scalar, target: Scalar, num_episodes: Scalar, horizon: Scalar
) -> tf.Tensor:
    """Adapts the coefficient of a KL penalty after an update by the rule of Ziegler et al. 2019.

    The new coefficient is::

        beta (1 + clip(kl / target - 1, -0.2, 0.2) min(n / horizon, 1))

    Source: Ziegler et al. 2019, section 2.2 (a log-space proportional controller), in the form of their released code.
    Their horizon of 10,000 is for a run of a million episodes; use a shorter one for a shorter run. The minimum with 1
    is an addition: without it an update of more than five horizons could make the coefficient negative.

    Args:
      coefficient: beta, scalar.
      kl: KL to the reference, summed over the tokens of a sequence and averaged over the sequences, scalar. If it is
        not finite, the coefficient does not change.
      target: The KL that the rule aims at, scalar.
      num_episodes: n, the number of episodes in the update.
      horizon: The horizon, in episodes.

    Returns:
      The new coefficient, scalar.
    """
    coefficient, kl, target, num_episodes, horizon = _scalars(coefficient, kl, target, num_episodes, horizon)
    error = tf.clip_by_value(kl / target - 1, -0.2, 0.2)
    changed = coefficient * (1 + error * tf.minimum(num_episodes / horizon, 1))
    return tf.where(tf.math.is_finite(kl), changed, coefficient)


def _scalars(coefficient: Scalar, *others: Scalar) -> tuple[tf.Tensor, ...]:
    coefficient = tf.convert_to_tensor(coefficient, dtype_hint=tf.float32)
    dtype = coefficient.dtype
    return coefficient, *(tf.cast(tf.convert_to_tensor(other, dtype_hint=dtype), dtype) for other in others)
