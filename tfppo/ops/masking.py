"""Masked sums, means and statistics, which all losses, metrics and normalizations use.

A mask is a bool tensor with the shape of the values. It is true where an entry counts. Entries outside the mask may
have any value, including NaN. `tf.where` removes them before any arithmetic, because NaN * 0 is NaN in the value and in
the gradient.
"""

import tensorflow as tf

from tfppo.ops.nest import Nest


def check_same_shape(**tensors: tf.Tensor | None) -> None:
    """Checks that the static shapes of the named tensors agree.

    TensorFlow silently broadcasts [N, 1] against [N] to [N, N]. Functions that combine tensors therefore call this
    check first.

    Args:
      **tensors: Tensors by name. None values are skipped. Unknown dimensions agree with every size.

    Raises:
      ValueError: If the shape of a tensor differs from that of the first one. The message names both tensors and
        shapes.
    """
    given = [(name, tf.convert_to_tensor(tensor).shape) for name, tensor in tensors.items() if tensor is not None]
    for name, shape in given[1:]:
        first_name, first_shape = given[0]
        if not shape.is_compatible_with(first_shape):
            raise ValueError(f"{first_name} has shape {first_shape} but {name} has shape {shape}; they must be equal")


def zero_outside(values: tf.Tensor, mask: tf.Tensor | None = None) -> tf.Tensor:
    """Replaces the entries outside the mask by 0.

    Values outside the mask affect neither the result nor the gradient.

    Args:
      values: [...].
      mask: bool, the shape of values. None keeps all entries.

    Returns:
      The shape of values.

    Raises:
      ValueError: If the shapes differ.
    """
    values = tf.convert_to_tensor(values)
    if mask is None:
        return values
    check_same_shape(values=values, mask=mask)
    return tf.where(mask, values, tf.zeros_like(values))


def finite_outside(values: tf.Tensor, mask: tf.Tensor, default: float | tf.Tensor = 0.0) -> tf.Tensor:
    """Replaces numbers outside the mask that are not finite. Numbers inside the mask do not change.

    Args:
      values: `[..., *rest]`. Values that are not floats do not change.
      mask: bool [...].
      default: The replacement, broadcast to values.

    Returns:
      The shape of values.
    """
    if not values.dtype.is_floating:
        return values
    return tf.where(_over(mask, values) | _is_finite(values), values, default)


def masked_finite(values: Nest, mask: tf.Tensor | None = None) -> tf.Tensor:
    """Checks that all numbers inside the mask are finite.

    Args:
      values: A tensor or a nest of tensors, each `[..., *rest]`. Values that are not floats count as finite.
      mask: bool [...]. None counts every entry.

    Returns:
      bool scalar.
    """
    finite = tf.constant(True)
    for x in tf.nest.flatten(values):
        if x.dtype.is_floating:
            good = _is_finite(x) if mask is None else _is_finite(x) | ~_over(mask, x)
            finite &= tf.reduce_all(good)
    return finite


def _is_finite(x: tf.Tensor) -> tf.Tensor:
    return tf.abs(x) <= x.dtype.max  # TensorFlow moves tf.math.is_finite before a transpose; oneDNN then warns of bools


def _over(mask: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Reshapes a mask [...] so that it broadcasts against x `[..., *rest]`."""
    return tf.reshape(mask, [*mask.shape, *[1] * (x.shape.rank - mask.shape.rank)])


def masked_sum(values: tf.Tensor, mask: tf.Tensor | None = None, weights: tf.Tensor | None = None) -> tf.Tensor:
    """Computes the sum of the entries inside the mask, `sum_i m_i w_i x_i`.

    Args:
      values: [...].
      mask: bool, the shape of values. None counts every entry.
      weights: w, the shape of values. None: all are 1.

    Returns:
      Scalar.

    Raises:
      ValueError: If the shapes differ.
    """
    inside = zero_outside(values, mask)
    if weights is not None:
        check_same_shape(values=values, weights=weights)
        inside *= tf.cast(weights, inside.dtype)
    return tf.reduce_sum(inside)


def masked_mean(
    values: tf.Tensor,
    mask: tf.Tensor | None = None,
    normalizer: tf.Tensor | None = None,
    weights: tf.Tensor | None = None,
) -> tf.Tensor:
    """Computes the mean of the entries inside the mask, `sum_i m_i x_i / max(sum_i m_i, 1)`.

    With weights it is `sum_i m_i w_i x_i / sum_i m_i w_i`, and 0 if the denominator is 0.

    If a minibatch is divided into micro-batches or among replicas, pass the number of counted entries of the whole
    minibatch, or the sum of their weights, as `normalizer` for each part. The results and the gradients of the parts
    then add up to those of the whole minibatch.

    Args:
      values: [...].
      mask: bool, the shape of values. None counts every entry.
      normalizer: Scalar to divide by instead of the number of counted entries, or of the sum of their weights.
      weights: w, the shape of values, not negative. None: all are 1.

    Returns:
      Scalar, 0 if the mask is empty.

    Raises:
      ValueError: If the shapes differ, or if normalizer is not a scalar.
    """
    values = tf.convert_to_tensor(values)
    total = masked_sum(values, mask, weights)
    if normalizer is None and weights is not None:
        return tf.math.divide_no_nan(total, masked_sum(tf.ones_like(values), mask, weights))
    if normalizer is None:
        count = tf.size(values, out_type=tf.int64) if mask is None else tf.math.count_nonzero(mask)
        normalizer = tf.maximum(count, 1)
    normalizer = tf.cast(tf.convert_to_tensor(normalizer), values.dtype)
    if normalizer.shape.rank not in (None, 0):
        raise ValueError(f"normalizer has shape {normalizer.shape}; it must be a scalar")
    return total / normalizer


def sequence_weights(mask: tf.Tensor) -> tf.Tensor:
    """Computes the weights with which every sequence counts the same in a mean, `w_it = m_it / sum_t m_it`.

    The weighted mean `sum w x / sum w` is then the mean over sequences of the mean over the entries of a sequence.
    Sequences without a counted entry do not count.

    Args:
      mask: bool [N, T], or [N] for sequences of one entry.

    Returns:
      float32, the shape of mask, 0 outside the mask.
    """
    counted = tf.cast(mask, tf.float32)
    lengths = tf.reduce_sum(counted, axis=list(range(1, counted.shape.rank)), keepdims=True)  # [N, 1] or [N]
    return tf.math.divide_no_nan(counted, lengths)


def masked_whiten(
    values: tf.Tensor, mask: tf.Tensor | None = None, shift_mean: bool = True, epsilon: float = 1e-8
) -> tf.Tensor:
    """Standardizes values, `(x - mean) / (std + epsilon)`, with the statistics of the entries inside the mask.

    The variance is the population variance (divided by n) (Huang et al. 2022; Ziegler et al. 2019). Constant values
    become exactly 0, or keep their mean with `shift_mean=False`. Rounding errors are not amplified.

    Args:
      values: [...].
      mask: bool, the shape of values. None counts every entry.
      shift_mean: False adds the mean again after the division. Rewards are whitened like this (Ziegler et al. 2019).
      epsilon: Added to the standard deviation.

    Returns:
      The shape of values, 0 outside the mask.

    Raises:
      ValueError: If the shapes differ.
    """
    check_same_shape(values=values, mask=mask)
    origin = _origin(values, mask)
    shifted = zero_outside(values - origin, mask)
    mean = masked_mean(shifted, mask)
    variance = masked_mean(tf.square(shifted - mean), mask)
    # The slope of sqrt at 0 is infinite. Without this, the gradient of a constant input would be NaN.
    is_positive = variance > 0
    std = tf.where(is_positive, tf.sqrt(tf.where(is_positive, variance, tf.ones_like(variance))), 0)
    whitened = (shifted - mean) / (std + epsilon)
    if not shift_mean:
        whitened += mean + origin
    return zero_outside(whitened, mask)


def explained_variance(values: tf.Tensor, returns: tf.Tensor, mask: tf.Tensor | None = None) -> tf.Tensor:
    """Computes the share of the variance of the returns that the values explain, `1 - Var(R - V) / Var(R)`.

    The result is 1 for a perfect value function, 0 for one that is no better than a constant, and negative for a worse
    one. If the returns are constant, the ratio is undefined and the result is 0, not NaN.

    Args:
      values: V, [...].
      returns: R, the shape of values.
      mask: bool, the shape of values. None counts every entry.

    Returns:
      Scalar.

    Raises:
      ValueError: If the shapes differ.
    """
    check_same_shape(values=values, returns=returns, mask=mask)
    returns = tf.convert_to_tensor(returns)
    variance = _masked_variance(returns, mask)
    residual_variance = _masked_variance(returns - values, mask)
    is_positive = variance > 0
    ratio = residual_variance / tf.where(is_positive, variance, tf.ones_like(variance))
    return tf.where(is_positive, 1 - ratio, 0)


def _masked_variance(values: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    shifted = zero_outside(values - _origin(values, mask), mask)
    return masked_mean(tf.square(shifted - masked_mean(shifted, mask)), mask)


def _origin(values: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    # The rounded mean of N equal numbers may differ from the number. Whitening would amplify the difference to order 1.
    # After subtraction of the minimum, the statistics are exact for constants and equivalent for all other values.
    values = tf.convert_to_tensor(values)
    counted = values if mask is None else tf.where(mask, values, values.dtype.max)
    return tf.stop_gradient(tf.reduce_min(counted))
