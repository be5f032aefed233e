"""Random numbers that are the same in eager mode, in a `tf.function` and under XLA.

With the same seed and algorithm, TensorFlow draws different floats under XLA than without it, but the same integers.
All numbers of this module are therefore made from integers. Uniform numbers and permutations are equal bit for bit.
Normal numbers, Gumbel numbers and samples made from them pass through `log` or the inverse error function, so their
last bit may differ between compilers.

A seed is an int32 or int64 tensor of shape [2]. Both dtypes give the same numbers. The same seed always gives the same
numbers: derive a new seed for every draw with `fold_in`.
"""

from collections.abc import Sequence
from typing import TypeAlias

import tensorflow as tf

Shape: TypeAlias = "Sequence[int] | tf.Tensor"

# Set explicitly: by default TensorFlow chooses the algorithm by device.
_ALGORITHM = "philox"
_SORTED = 1024  # the largest permutation that is drawn by sorting
_ROUNDS = 6  # with three rounds, a test finds a pattern


def fold_in(seed: tf.Tensor, data: int | tf.Tensor) -> tf.Tensor:
    """Derives a new seed from a seed and an integer, for example a step, an epoch or the index of a head.

    Args:
      seed: int [2].
      data: Integer scalar, a Python int or a tensor.

    Returns:
      int64 [2] for both dtypes of `seed`, so that equal seeds stay equal.
    """
    seed, data = (tf.cast(tf.convert_to_tensor(x, dtype_hint=tf.int64), tf.int64) for x in (seed, data))
    return tf.random.experimental.stateless_fold_in(seed, data, alg=_ALGORITHM)


def uniform(shape: Shape, seed: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
    """Draws uniform numbers in the open interval (0, 1), symmetric about 1/2.

    A number is `(k + 1/2) / 2^b` for a random b-bit integer k. b is 23 for float32 and 52 for float64. With one bit
    more the largest number would round to 1, and the Gumbel noise made from it would be infinite.

    Args:
      shape: Shape of the result.
      seed: int [2].
      dtype: float32 or float64.

    Returns:
      The numbers.

    Raises:
      ValueError: For any other dtype.
    """
    dtype = tf.as_dtype(dtype)
    if dtype not in (tf.float32, tf.float64):
        raise ValueError(f"dtype is {dtype.name}; it must be float32 or float64: draw float32 and cast the result")
    word, word_bits, kept_bits = (tf.uint32, 32, 23) if dtype == tf.float32 else (tf.uint64, 64, 52)
    words = tf.random.stateless_uniform(shape, seed, minval=None, maxval=None, dtype=word, alg=_ALGORITHM)
    integers = tf.bitwise.right_shift(words, tf.constant(word_bits - kept_bits, word))
    return (tf.cast(integers, dtype) + 0.5) * 2.0**-kept_bits


def normal(shape: Shape, seed: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
    """Draws standard normal numbers by inversion, `Phi^-1(u)` with u uniform.

    Args:
      shape: Shape of the result.
      seed: int [2].
      dtype: float32 or float64.

    Returns:
      The numbers.
    """
    return tf.math.ndtri(uniform(shape, seed, dtype))


def gumbel(shape: Shape, seed: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
    """Draws standard Gumbel numbers by inversion, `-log(-log u)` with u uniform. They are always finite.

    Args:
      shape: Shape of the result.
      seed: int [2].
      dtype: float32 or float64.

    Returns:
      The numbers.
    """
    return -tf.math.log(-tf.math.log(uniform(shape, seed, dtype)))


def integers(shape: Shape, seed: tf.Tensor, limit: int) -> tf.Tensor:
    """Draws integers from 0 to `limit - 1`.

    Args:
      shape: Shape of the result.
      seed: int [2].
      limit: Number of different values.

    Returns:
      int32 numbers.
    """
    return tf.random.stateless_uniform(shape, seed, minval=0, maxval=limit, dtype=tf.int32, alg=_ALGORITHM)


def permutation(n: int, seed: tf.Tensor) -> tf.Tensor:
    """Draws a random permutation of 0 .. n-1.

    Up to n = 1,024 it is the order that sorts n random integers, so every permutation is equally likely. For a larger
    n, a sort can take longer than the gradient of a minibatch (61 ms under XLA for n = 131,072). The permutation then
    is a keyed bijection of the smallest range of k bits that contains n numbers. It is applied repeatedly until the
    result is below n (cycle walking: Black and Rogaway 2002, "Ciphers with arbitrary finite domains"). The bijection
    has six rounds, each with its own random a and b::

        x <- a x + b (mod 2^k), a odd
        x <- x xor (x >> k/2)

    Tests check that minibatches from it have the same distribution as minibatches from a sort. The function exists
    because `tf.random.experimental.stateless_shuffle` does not compile under XLA.

    Args:
      n: Length of the permutation, a Python int.
      seed: int [2].

    Returns:
      int32 [n].
    """
    if n <= _SORTED:
        # 64-bit keys are never equal in practice, so the order of equal keys does not matter.
        keys = tf.random.stateless_uniform([n], seed, minval=None, maxval=None, dtype=tf.int64, alg=_ALGORITHM)
        return tf.argsort(keys, stable=True)
    bits = (n - 1).bit_length()
    keys = tf.random.stateless_uniform([_ROUNDS, 2], seed, minval=None, maxval=None, dtype=tf.uint32, alg=_ALGORITHM)
    inside = tf.constant(2**bits - 1, tf.uint32)
    half = tf.constant((bits + 1) // 2, tf.uint32)

    def mix(x: tf.Tensor) -> tf.Tensor:
        for index in range(_ROUNDS):
            odd = tf.bitwise.bitwise_or(keys[index, 0], tf.constant(1, tf.uint32))
            x = tf.bitwise.bitwise_and(x * odd + keys[index, 1], inside)
            x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, half))
        return x

    order = mix(tf.cast(tf.range(n), tf.uint32))
    if n < 2**bits:
        outside = tf.constant(n, tf.uint32)
        order = tf.while_loop(
            lambda x: tf.reduce_any(x >= outside), lambda x: [tf.where(x >= outside, mix(x), x)], [order]
        )[0]
    return tf.cast(order, tf.int32)


def categorical(logits: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Draws one sample per row from softmax(logits) by the Gumbel-max trick.

    A sample is `argmax_a (logits_a + g_a)` with Gumbel noise g. Source: Maddison et al. 2014, "A* sampling".

    The relaxed form, `softmax((logits + g) / temperature)`, gives points inside the simplex, which are not actions. The
    policy gives them no probability, so they have no PPO ratio. The relaxed form is for gradients through a sample,
    which PPO does not need; see `distributions.gumbel_softmax`.

    Args:
      logits: [..., A].
      seed: int [2].

    Returns:
      int32 [...].
    """
    logits = tf.convert_to_tensor(logits)
    if logits.dtype != tf.float64:
        logits = tf.cast(logits, tf.float32)  # noise in half precision would be too coarse
    noise = gumbel(tf.shape(logits), seed, logits.dtype)
    return tf.argmax(logits + noise, axis=-1, output_type=tf.int32)
