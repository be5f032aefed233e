"""Masked statistics: what every loss, metric and normalisation divides by.

A mask is a bool tensor of the shape of the values, true where an entry counts. Entries outside it may hold anything,
NaN included: `tf.where` removes them before any arithmetic, because NaN * 0 is NaN in the value and in the gradient.
"""

import tensorflow as tf

from tfppo.ops.nest import Nest


def check_same_shape(**tensors: tf.Tensor | None) -> None:
    """Raise unless the static shapes of the named tensors agree; None values are skipped.

    TensorFlow broadcasts [N, 1] against [N] to [N, N] without a word, so every function here that combines tensors
    calls this first. Unknown dimensions agree with everything.

    Raises:
      ValueError: naming the first two tensors that disagree and their shapes.
    """
    given = [(name, tf.convert_to_tensor(tensor).shape) for name, tensor in tensors.items() if tensor is not None]
    for name, shape in given[1:]:
        first_name, first_shape = given[0]
        if not shape.is_compatible_with(first_shape):
            raise ValueError(f"{first_name} has shape {first_shape} but {name} has shape {shape}; they must be equal")


def zero_outside(values: tf.Tensor, mask: tf.Tensor | None = None) -> tf.Tensor:
    """`values` where the mask is true, 0 elsewhere; neither value nor gradient sees what was outside.

    Args:
      values: [...].
      mask: bool, the shape of values; None keeps everything.

    Raises:
      ValueError: if the shapes differ.
    """
    values = tf.convert_to_tensor(values)
    if mask is None:
        return values
    check_same_shape(values=values, mask=mask)
    return tf.where(mask, values, tf.zeros_like(values))


def finite_outside(values: tf.Tensor, mask: tf.Tensor, default: float | tf.Tensor = 0.0) -> tf.Tensor:
    """`values` with `default` in place of what is not finite outside the mask; what is inside stays as it is.

    Args:
      values: [..., *rest]; what are not floats stay as they are.
      mask: bool [...].
      default: broadcast to values.
    """
    if not values.dtype.is_floating:
        return values
    return tf.where(_over(mask, values) | _is_finite(values), values, default)


def masked_finite(values: Nest, mask: tf.Tensor | None = None) -> tf.Tensor:
    """Whether every number where the mask is true is finite.

    Args:
      values: a tensor, or a nest of tensors, of which those that are not floats are finite: [..., *rest] each.
      mask: bool [...]; None counts every entry.

    Returns: bool scalar.
    """
    finite = tf.constant(True)
    for x in tf.nest.flatten(values):
        if x.dtype.is_floating:
            good = _is_finite(x) if mask is None else _is_finite(x) | ~_over(mask, x)
            finite &= tf.reduce_all(good)
    return finite


def _is_finite(x: tf.Tensor) -> tf.Tensor:
    return tf.abs(x) <= x.dtype.max  # tf.math.is_finite would be moved before a transpose, and oneDNN complain of bools


def _over(mask: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """A mask [...] that goes with x [..., *rest]."""
    return tf.reshape(mask, [*mask.shape, *[1] * (x.shape.rank - mask.shape.rank)])


def masked_sum(values: tf.Tensor, mask: tf.Tensor | None = None) -> tf.Tensor:
    """Sum of the entries where the mask is true: sum_i m_i x_i.

    Args:
      values: [...].
      mask: bool, the shape of values; None counts every entry.

    Returns: scalar.

    Raises:
      ValueError: if the shapes differ.
    """
    return tf.reduce_sum(zero_outside(values, mask))


def masked_mean(values: tf.Tensor, mask: tf.Tensor | None = None, normalizer: tf.Tensor | None = None) -> tf.Tensor:
    """Mean over the entries where the mask is true: sum_i m_i x_i / max(sum_i m_i, 1).

    A minibatch that is cut into micro-batches or spread over replicas passes the masked count of the WHOLE minibatch
    as `normalizer`; the parts then add up to the mean of the whole, and so do their gradients.

    Args:
      values: [...].
      mask: bool, the shape of values; None counts every entry.
      normalizer: scalar to divide by in place of the count.

    Returns: scalar; 0 where the mask is empty.

    Raises:
      ValueError: if the shapes differ or normalizer is not a scalar.
    """
    values = tf.convert_to_tensor(values)
    total = masked_sum(values, mask)
    if normalizer is None:
        count = tf.size(values, out_type=tf.int64) if mask is None else tf.math.count_nonzero(mask)
        normalizer = tf.maximum(count, 1)
    normalizer = tf.cast(tf.convert_to_tensor(normalizer), values.dtype)
    if normalizer.shape.rank not in (None, 0):
        raise ValueError(f"normalizer has shape {normalizer.shape}; it must be a scalar")
    return total / normalizer


def masked_whiten(
    values: tf.Tensor, mask: tf.Tensor | None = None, shift_mean: bool = True, epsilon: float = 1e-8
) -> tf.Tensor:
    """Standardised values, (x - mean) / (std + epsilon), statistics over the masked entries only.

    The variance is the population variance (divided by n) [Huang et al. 2022; Ziegler et al. 2019]. Constant values
    become exactly 0 (or keep their mean), never amplified rounding errors.

    Args:
      values: [...].
      mask: bool, the shape of values; None counts every entry.
      shift_mean: False adds the mean back, which is how rewards are whitened [Ziegler et al. 2019].
      epsilon: added to the standard deviation.

    Returns: the shape of values, 0 outside the mask.

    Raises:
      ValueError: if the shapes differ.
    """
    check_same_shape(values=values, mask=mask)
    origin = _origin(values, mask)
    shifted = zero_outside(values - origin, mask)
    mean = masked_mean(shifted, mask)
    variance = masked_mean(tf.square(shifted - mean), mask)
    # sqrt has an infinite slope at 0, which would turn a constant input's gradient into NaN.
    is_positive = variance > 0
    std = tf.where(is_positive, tf.sqrt(tf.where(is_positive, variance, tf.ones_like(variance))), 0)
    whitened = (shifted - mean) / (std + epsilon)
    if not shift_mean:
        whitened += mean + origin
    return zero_outside(whitened, mask)


def explained_variance(values: tf.Tensor, returns: tf.Tensor, mask: tf.Tensor | None = None) -> tf.Tensor:
    """Share of the variance of the returns that the values explain: 1 - Var(R - V) / Var(R).

    1 is a perfect value function, 0 no better than a constant, negative worse than one. Where the returns are constant
    the ratio is undefined and the result is 0 ("explains nothing"), not NaN.

    Args:
      values: V, [...].
      returns: R, the shape of values.
      mask: bool, the shape of values; None counts every entry.

    Returns: scalar.

    Raises:
      ValueError: if the shapes differ.
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
    # The rounded mean of N equal numbers is not that number, so x - mean would be noise, which whitening then blows up
    # to order 1. Statistics about the minimum are exact for constants and the same for everything else.
    values = tf.convert_to_tensor(values)
    counted = values if mask is None else tf.where(mask, values, values.dtype.max)
    return tf.stop_gradient(tf.reduce_min(counted))
