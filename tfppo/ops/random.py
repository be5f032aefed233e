"""Random numbers that are the same in eager mode, in a tf.function and under XLA.

TensorFlow's float draws differ between XLA and the rest even for one seed and algorithm; its integer draws do not. So
every number here is made from integers. Uniforms and permutations are equal bit for bit; normals, Gumbels and what is
sampled from them pass through `log` or the inverse error function, whose last bit may differ between compilers.

A seed is an int32 or int64 tensor of shape [2]; the two give the same numbers. It is never consumed: derive a fresh
one for every draw with `fold_in`.
"""

from collections.abc import Sequence
from typing import TypeAlias

import tensorflow as tf

Shape: TypeAlias = "Sequence[int] | tf.Tensor"

# Named, because the default lets TensorFlow choose by device.
_ALGORITHM = "philox"
_SORTED = 1024  # up to which a permutation is drawn by sorting
_ROUNDS = 6  # three leave a pattern that a test finds


def fold_in(seed: tf.Tensor, data: int | tf.Tensor) -> tf.Tensor:
    """A new seed from a seed and an integer (a step, an epoch, the number of a head).

    Args:
      seed: int [2].
      data: integer scalar, a Python int or a tensor.

    Returns: int64 [2], whatever the dtype of seed, so that equal seeds stay equal.
    """
    seed, data = (tf.cast(tf.convert_to_tensor(x, dtype_hint=tf.int64), tf.int64) for x in (seed, data))
    return tf.random.experimental.stateless_fold_in(seed, data, alg=_ALGORITHM)


def uniform(shape: Shape, seed: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
    """Uniform numbers in the OPEN interval (0, 1), symmetric about 1/2: (k + 1/2) / 2^b for a random b-bit integer k.

    b is 23 for float32 and 52 for float64: with one bit more the largest value would round to 1, whose Gumbel noise is
    infinite.

    Args:
      shape: of the result.
      seed: int [2].
      dtype: float32 or float64.

    Raises:
      ValueError: for another dtype.
    """
    dtype = tf.as_dtype(dtype)
    if dtype not in (tf.float32, tf.float64):
        raise ValueError(f"dtype is {dtype.name}; uniform draws float32 or float64: draw float32 and cast the result")
    word, word_bits, kept_bits = (tf.uint32, 32, 23) if dtype == tf.float32 else (tf.uint64, 64, 52)
    words = tf.random.stateless_uniform(shape, seed, minval=None, maxval=None, dtype=word, alg=_ALGORITHM)
    integers = tf.bitwise.right_shift(words, tf.constant(word_bits - kept_bits, word))
    return (tf.cast(integers, dtype) + 0.5) * 2.0**-kept_bits


def normal(shape: Shape, seed: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
    """Standard normal numbers by inversion: Phi^-1(u), u uniform.

    Args:
      shape: of the result.
      seed: int [2].
      dtype: float32 or float64.
    """
    return tf.math.ndtri(uniform(shape, seed, dtype))


def gumbel(shape: Shape, seed: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
    """Standard Gumbel numbers by inversion: -log(-log u), u uniform; always finite.

    Args:
      shape: of the result.
      seed: int [2].
      dtype: float32 or float64.
    """
    return -tf.math.log(-tf.math.log(uniform(shape, seed, dtype)))


def permutation(n: int, seed: tf.Tensor) -> tf.Tensor:
    """A random permutation of 0 .. n-1.

    Up to 1,024 it is the order that sorts n random integers: every permutation is equally likely. Beyond, where a sort
    would cost more than a minibatch's gradient (61 ms under XLA for n = 131,072), it is a keyed bijection of the
    smallest range of k bits that holds n, applied until it lands below n: six rounds of x <- a x + b (mod 2^k), a odd,
    x <- x xor (x >> k/2), with fresh random a and b. Who shares a minibatch is then distributed as if sorted; see the
    tests. Source of the construction: Black and Rogaway 2002, "Ciphers with arbitrary finite domains" (cycle walking).

    `tf.random.experimental.stateless_shuffle` does not compile under XLA.

    Args:
      n: how many, a Python int.
      seed: int [2].

    Returns: int32 [n].
    """
    if n <= _SORTED:
        # 64-bit keys never tie in practice, so no compiler's rule for ties matters.
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
    """One sample a row from softmax(logits), by the Gumbel-max trick: argmax_a (logits_a + g_a), g_a Gumbel.

    Source: Maddison et al. 2014, "A* sampling". The relaxed form, softmax((logits + g) / temperature), yields points
    inside the simplex that are no actions: the policy gives them no probability, hence PPO no ratio. It is for
    differentiating through a sample, which PPO never does; see `distributions.gumbel_softmax`.

    Args:
      logits: [..., A].
      seed: int [2].

    Returns: int32 [...].
    """
    logits = tf.convert_to_tensor(logits)
    if logits.dtype != tf.float64:
        logits = tf.cast(logits, tf.float32)  # the noise would be too coarse in half precision
    noise = gumbel(tf.shape(logits), seed, logits.dtype)
    return tf.argmax(logits + noise, axis=-1, output_type=tf.int32)
