"""The losses of PPO: an element-wise loss, then a masked mean.

Each function returns `(loss, metrics)`. The loss and all metrics are scalars, and `tfppo.reporting.metrics` documents
the names of the metrics. With `normalizer` (see `masking.masked_mean`) the losses of micro-batches add up to the loss
of the minibatch. So do their metrics, excluding `policy/ratio_max`, which is a maximum. With `weights` all these means
are weighted. The entropy bonus has no function here, because it is a masked mean.
"""

import tensorflow as tf

from tfppo.ops.divergences import approximate_kl
from tfppo.ops.masking import check_same_shape, masked_mean, zero_outside

# exp(20) = 5e8 is far outside any clip range, and products with it stay finite in float32.
MAX_LOG_RATIO = 20.0


def clipped_surrogate_loss(
    log_probs: tf.Tensor,
    old_log_probs: tf.Tensor,
    advantages: tf.Tensor,
    clip_ratio: float | tf.Tensor,
    mask: tf.Tensor | None = None,
    normalizer: tf.Tensor | None = None,
    dual_clip: float | None = None,
    clip_ratio_high: float | tf.Tensor | None = None,
    weights: tf.Tensor | None = None,
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Computes the clipped surrogate loss of PPO, the negative of the objective.

    With `ratio = exp(log_prob - old_log_prob)`::

        loss = mean max(-A ratio, -A clip(ratio, 1 - clip_ratio, 1 + clip_ratio_high))

    Source: Schulman et al. 2017 (PPO), equation 7, where both bounds are equal. An upper bound of its own is the
    Clip-Higher of Yu et al. 2025 (DAPO), section 3.1. `dual_clip` = c limits the terms with A < 0 to at most -c A: Ye
    et al. 2020, "Mastering complex control in MOBA games with deep reinforcement learning", dual-clip PPO. The
    log-ratio is clamped to [-20, 20].

    Args:
      log_probs: log pi(a | s), [...].
      old_log_probs: log pi_old(a | s) of the policy that sampled, [...].
      advantages: A, [...]. The function does not normalize them.
      clip_ratio: Scalar, a Python float or a tensor (for schedules).
      mask: bool [...], true where an entry counts. None counts all entries.
      normalizer: Scalar to divide by instead of the number of counted entries, or of the sum of their weights.
      dual_clip: Python float above 1, or None to switch dual clipping off.
      clip_ratio_high: As clip_ratio, for the upper bound. None: the same.
      weights: [...], the weight of each entry in the means. None: all are 1.

    Returns:
      A tuple (loss, metrics). The loss is a scalar, and its gradient flows to `log_probs` only. The metrics are
      "policy/approx_kl" (an estimate of `KL(old || new)`), "policy/clip_fraction" (the share of ratios outside the clip
      range) and "policy/ratio_max".

    Raises:
      ValueError: If the shapes differ, or if dual_clip is not above 1.
    """
    check_same_shape(log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages, mask=mask)
    if dual_clip is not None and not dual_clip > 1:
        raise ValueError(f"dual_clip is {dual_clip}; it must be above 1, or None to switch it off")
    advantages = tf.stop_gradient(zero_outside(advantages, mask))
    log_ratio = zero_outside(log_probs - tf.stop_gradient(old_log_probs), mask)
    log_ratio = tf.clip_by_value(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = tf.exp(log_ratio)
    low, high = (
        tf.cast(tf.convert_to_tensor(bound, dtype_hint=ratio.dtype), ratio.dtype)
        for bound in (clip_ratio, clip_ratio if clip_ratio_high is None else clip_ratio_high)
    )
    losses = tf.maximum(-advantages * ratio, -advantages * tf.clip_by_value(ratio, 1 - low, 1 + high))
    if dual_clip is not None:
        losses = tf.where(advantages < 0, tf.minimum(losses, -dual_clip * advantages), losses)
    is_clipped = tf.cast((1 - ratio > low) | (ratio - 1 > high), ratio.dtype)
    metrics = {
        "policy/approx_kl": masked_mean(approximate_kl(log_ratio), mask, normalizer, weights),
        "policy/clip_fraction": masked_mean(is_clipped, mask, normalizer, weights),
        "policy/ratio_max": tf.reduce_max(zero_outside(ratio, mask)),
    }
    return masked_mean(losses, mask, normalizer, weights), tf.nest.map_structure(tf.stop_gradient, metrics)


def clipped_value_loss(
    values: tf.Tensor,
    old_values: tf.Tensor | None,
    returns: tf.Tensor,
    value_clip: float | tf.Tensor | None = None,
    mask: tf.Tensor | None = None,
    normalizer: tf.Tensor | None = None,
    weights: tf.Tensor | None = None,
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Computes half the mean squared error of the value function, optionally clipped around the old values.

    With clipping::

        loss = 1/2 mean max((V - R)^2, (clip(V, V_old - value_clip, V_old + value_clip) - R)^2)

    and without clipping::

        loss = 1/2 mean (V - R)^2

    Source: Schulman et al. 2017 (PPO), equation 9, for the squared error. The clipping is that of ppo2 in OpenAI
    baselines; see Huang et al. 2022, detail 9.

    Args:
      values: V, [...].
      old_values: V_old, the values stored in the rollout, [...]. Without clipping they are unused and may be None.
      returns: R, [...].
      value_clip: Scalar, a Python float or a tensor. None switches clipping off.
      mask: bool [...], true where an entry counts. None counts all entries.
      normalizer: Scalar to divide by instead of the number of counted entries, or of the sum of their weights.
      weights: [...], the weight of each entry in the means. None: all are 1.

    Returns:
      A tuple (loss, metrics). The loss is a scalar, and its gradient flows to `values` only. The metric is
      "value/clip_fraction" (the share of values outside the clip range, 0 without clipping).

    Raises:
      ValueError: If the shapes differ.
    """
    check_same_shape(values=values, old_values=old_values, returns=returns, mask=mask)
    values = zero_outside(values, mask)
    returns = tf.stop_gradient(zero_outside(returns, mask))
    losses = tf.square(values - returns)
    clip_fraction = tf.zeros([], values.dtype)
    if value_clip is not None:
        old_values = tf.stop_gradient(zero_outside(old_values, mask))
        value_clip = tf.cast(tf.convert_to_tensor(value_clip, dtype_hint=values.dtype), values.dtype)
        clipped = tf.clip_by_value(values, old_values - value_clip, old_values + value_clip)
        losses = tf.maximum(losses, tf.square(clipped - returns))
        is_clipped = tf.cast(tf.abs(values - old_values) > value_clip, values.dtype)
        clip_fraction = tf.stop_gradient(masked_mean(is_clipped, mask, normalizer, weights))
    return masked_mean(losses, mask, normalizer, weights) / 2, {"value/clip_fraction": clip_fraction}
