"""Numbers of tokens that need the logits of the whole vocabulary, such as log-probabilities, in bounded memory.

The logits of a batch need more memory than all layers of a small model: Gemma 3 has 262,144 tokens, so the logits of
1,000 tokens are 1 GB. Above `MAX_LOGITS` they are computed in chunks of positions, and the backward pass computes each
chunk again. Then no pass holds the logits of more than one chunk.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import keras
import tensorflow as tf

from tfppo.text.models.language_model import LanguageModel

MAX_LOGITS = 2**24
"""Largest number of logits that a pass holds at once: 64 MiB of float32, and about six times as much with the
probabilities and gradients. One position has all its logits."""

Measures: TypeAlias = tuple[tf.Tensor, ...]
Measure: TypeAlias = Callable[[tf.Tensor, tf.Tensor], Measures]
"""A function of logits float32 [..., V] and tokens int [...]. Returns float32 tensors [...]. A position must not depend
on others."""


def logits_at_once(positions: int, vocabulary_size: int) -> int:
    """Returns the largest number of logits that a pass over some positions holds at once."""
    return vocabulary_size * min(positions, _rows(vocabulary_size))


def _rows(vocabulary_size: int) -> int:
    """Returns the largest number of positions of a chunk."""
    return max(1, MAX_LOGITS // vocabulary_size)


def measure_tokens(
    model: LanguageModel, hidden: tf.Tensor, tokens: tf.Tensor, measure: Measure, outputs: int
) -> Measures:
    """Computes the logits of tokens, and measures that depend on them.

    Up to `MAX_LOGITS` logits are computed at once. Gradients reach the hidden states and the trainable weights of the
    model in both cases. A chunk that is computed again costs one more product with the output embedding.

    Args:
      model: Language model, whose `logits` are used.
      hidden: Hidden states [N, R, D].
      tokens: int [N, R].
      measure: Computes the measures.
      outputs: Number of measures.

    Returns:
      The measures, [N, R] each.

    Source: Chen et al. 2016, section 3, for the recomputation.
    """
    rows = _rows(model.vocabulary_size)

    def at_once() -> Measures:
        return measure(model.logits(hidden), tokens)

    def in_chunks() -> Measures:
        return _in_chunks(model, hidden, tokens, measure, outputs, rows)

    if tokens.shape.is_fully_defined():
        return at_once() if tokens.shape.num_elements() <= rows else in_chunks()
    return tf.cond(tf.size(tokens) <= rows, at_once, in_chunks)


def _in_chunks(
    model: LanguageModel, hidden: tf.Tensor, tokens: tf.Tensor, measure: Measure, outputs: int, rows: int
) -> Measures:
    """Computes measures [N, R] in as few chunks of at most `rows` positions as possible, all of one size."""
    known = tokens.shape.is_fully_defined()
    total = tokens.shape.num_elements() if known else tf.size(tokens)
    count = -(-total // rows)
    size = -(-total // count)
    padding = count * size - total

    def chunks(x: tf.Tensor) -> tf.Tensor:
        flat = tf.reshape(x, [total, *x.shape[2:]])
        padded = tf.pad(flat, [[0, padding], *[[0, 0]] * (flat.shape.rank - 1)])
        return tf.reshape(padded, [count, size, *x.shape[2:]])

    found = _measure_chunks(model, chunks(hidden), chunks(tokens), measure, outputs)
    shape = tokens.shape if known else tf.shape(tokens)
    return tuple(tf.reshape(tf.reshape(x, [-1])[:total], shape) for x in found)


def _measure_chunks(
    model: LanguageModel, hidden: tf.Tensor, tokens: tf.Tensor, measure: Measure, outputs: int
) -> Measures:
    """Computes the measures [P, C] of P chunks one after another, with a gradient that computes each chunk again.

    The gradient is a loop of its own. The gradient of a TensorFlow loop would keep the logits of all chunks.

    Args:
      model: Language model.
      hidden: [P, C, D].
      tokens: int [P, C].
      measure: Computes the measures.
      outputs: Number of measures.
    """
    trainable = {id(variable) for variable in model.trainable_variables}
    trained = [variable for variable in model.output_variables if id(variable) in trainable]
    frozen = [variable for variable in model.output_variables if id(variable) not in trainable]
    constants = [tf.stop_gradient(tf.convert_to_tensor(variable)) for variable in frozen]

    def of_chunk(hidden: tf.Tensor, tokens: tf.Tensor, weights: Sequence[tf.Tensor]) -> Measures:
        values = zip([*trained, *frozen], [*weights, *constants], strict=True)
        with keras.StatelessScope(list(values), initialize_variables=False):
            return measure(model.logits(hidden), tokens)

    @tf.custom_gradient
    def of_chunks(hidden: tf.Tensor, *weights: tf.Tensor) -> tuple[Measures, Callable[..., list[tf.Tensor]]]:
        def gradient(*upstream: tf.Tensor) -> list[tf.Tensor]:
            def body(
                index: tf.Tensor, slopes: tf.TensorArray, sums: list[tf.Tensor]
            ) -> tuple[tf.Tensor, tf.TensorArray, list[tf.Tensor]]:
                inputs = [hidden[index], *map(tf.identity, weights)]
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch(inputs)
                    found = of_chunk(inputs[0], tokens[index], inputs[1:])
                slope, *more = tape.gradient(
                    found, inputs, [x[index] for x in upstream], unconnected_gradients=tf.UnconnectedGradients.ZERO
                )
                return index + 1, slopes.write(index, slope), [a + b for a, b in zip(sums, more, strict=True)]

            count = hidden.shape[0] or tf.shape(hidden)[0]
            start = (tf.constant(0), tf.TensorArray(hidden.dtype, count), [tf.zeros_like(x) for x in weights])
            _, slopes, sums = tf.while_loop(lambda index, *_: index < count, body, start, parallel_iterations=1)
            return [tf.reshape(slopes.stack(), tf.shape(hidden)), *sums]

        kept, fixed = tf.stop_gradient(hidden), [tf.stop_gradient(x) for x in weights]  # no tape records the loop
        found = tf.map_fn(
            lambda chunk: of_chunk(chunk[0], chunk[1], fixed),
            (kept, tokens),
            fn_output_signature=(tf.float32,) * outputs,
            parallel_iterations=1,
        )
        return found, gradient

    return of_chunks(hidden, *map(tf.convert_to_tensor, trained))
