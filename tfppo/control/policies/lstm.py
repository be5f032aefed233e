"""LSTMs over trajectories of several episodes (Hochreiter and Schmidhuber 1997; forget gates: Gers et al. 2000).

The loop over time contains only what depends on the previous step: the recurrent product and the gates. The product
with the inputs is computed for all steps at once, before the loop. The gradients of the weights are computed for all
steps at once, after the backward loop; automatic differentiation would add them up step by step.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf


class _Memory(NamedTuple):
    h: tf.Tensor  # [B, U]
    c: tf.Tensor  # [B, U]


class _Step(NamedTuple):
    memory: _Memory  # after the step
    hidden: tf.Tensor  # [B, U]: h, before the memory is cleared
    gates: tuple[tf.Tensor, ...]  # input, forget, candidate, output; [B, U] each


class _Gradient(NamedTuple):
    memory: _Memory  # the gradient of the memory before the step
    projected: tf.Tensor  # [B, 4 U]


def unroll(
    cells: Sequence[keras.layers.LSTMCell], features: Sequence[tf.Tensor], mask: tf.Tensor, memory: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    """Computes the hidden states [T, B, U] of several LSTM cells in one loop. It can be differentiated once.

    Args:
      cells: Built cells, with Keras' default activations and without dropout.
      features: The inputs [T, B, F] of each cell.
      mask: bool [T, B]; after a step where it is False, the memory is zero.
      memory: h and c [B, U] of the first cell before the first step, then those of the second cell, and so on.

    Returns:
      The hidden states [T, B, U] of each cell.
    """
    projected = [x @ cell.kernel + cell.bias for cell, x in zip(cells, features, strict=True)]
    kernels = [tf.convert_to_tensor(cell.recurrent_kernel) for cell in cells]
    before = [_Memory(*pair) for pair in zip(memory[::2], memory[1::2], strict=True)]
    return _recur(projected, kernels, before, mask[..., None])


@tf.custom_gradient
def _recur(
    projected: list[tf.Tensor], kernels: list[tf.Tensor], before: list[_Memory], keep: tf.Tensor
) -> tuple[list[tf.Tensor], Callable]:
    """Computes the hidden states [T, B, U] of each cell.

    Args:
      projected: The inputs of each cell times its kernel, plus its bias [T, B, 4 U].
      kernels: The recurrent kernel [U, 4 U] of each cell.
      before: The memory of each cell before the first step.
      keep: bool [T, B, 1], False where the memory is cleared after the step.

    Returns:
      The hidden states, and the function that computes the gradients.
    """

    def forward(states: list[_Step], rows: tuple[tf.Tensor, ...]) -> list[_Step]:
        *inputs, keep = rows
        return [
            _advance(x, kernel, state.memory, keep) for state, x, kernel in zip(states, inputs, kernels, strict=True)
        ]

    # The loop reads only the memory of `start`; the other entries give the shapes.
    start = [_Step(memory, memory.h, (memory.c,) * 4) for memory in before]
    steps = tf.scan(forward, (*projected, keep), start)

    def gradient(*d_hidden: tf.Tensor) -> list[tf.Tensor | None]:
        earlier = [
            tf.nest.map_structure(lambda x, first: tf.concat([first[None], x[:-1]], axis=0), step.memory, memory)
            for step, memory in zip(steps, before, strict=True)
        ]

        def backward(states: list[_Gradient], rows: Sequence[tf.Tensor]) -> list[_Gradient]:
            *passed, keep = rows
            return [
                _retreat(kernel, state.memory, d, c, gates, keep)
                for state, (d, c, gates), kernel in zip(states, passed, kernels, strict=True)
            ]

        passed = [(d, memory.c, step.gates) for d, memory, step in zip(d_hidden, earlier, steps, strict=True)]
        start = [
            _Gradient(tf.nest.map_structure(tf.zeros_like, memory), tf.zeros_like(x[0]))
            for memory, x in zip(before, projected, strict=True)
        ]
        back = tf.scan(backward, (*passed, keep), start, reverse=True)
        d_projected = [gradient.projected for gradient in back]
        d_kernels = [tf.einsum("tbu,tbv->uv", m.h, d) for m, d in zip(earlier, d_projected, strict=True)]
        d_before = [x[0] for gradient in back for x in gradient.memory]
        return [*d_projected, *d_kernels, *d_before, None]

    return [step.hidden for step in steps], gradient


def _advance(x: tf.Tensor, kernel: tf.Tensor, memory: _Memory, keep: tf.Tensor) -> _Step:
    """Computes one step of a cell.

    Args:
      x: The inputs times the kernel, plus the bias [B, 4 U], with the gates in Keras' order.
      kernel: The recurrent kernel [U, 4 U].
      memory: The memory before the step.
      keep: bool [B, 1], False where the memory is cleared after the step.

    Returns:
      The step.
    """
    i, f, g, o = tf.split(x + memory.h @ kernel, 4, axis=-1)
    i, f, g, o = tf.sigmoid(i), tf.sigmoid(f), tf.tanh(g), tf.sigmoid(o)
    c = f * memory.c + i * g
    h = o * tf.tanh(c)
    return _Step(_Memory(*(tf.where(keep, x, 0.0) for x in (h, c))), h, (i, f, g, o))


def _retreat(
    kernel: tf.Tensor,
    d_memory: _Memory,
    d_hidden: tf.Tensor,
    c: tf.Tensor,
    gates: tuple[tf.Tensor, ...],
    keep: tf.Tensor,
) -> _Gradient:
    """Applies the chain rule through one step of a cell.

    Args:
      kernel: The recurrent kernel [U, 4 U].
      d_memory: The gradient of the memory after the step.
      d_hidden: The gradient of the hidden state [B, U].
      c: The memory's c [B, U] before the step.
      gates: The gates of the step, [B, U] each.
      keep: bool [B, 1], False where the memory is cleared after the step.

    Returns:
      The gradients of the memory before the step and of the inputs times the kernel.
    """
    i, f, g, o = gates
    squashed = tf.tanh(f * c + i * g)
    d_h = tf.where(keep, d_memory.h, 0.0) + d_hidden
    d_c = tf.where(keep, d_memory.c, 0.0) + d_h * o * (1 - squashed**2)
    d_i, d_f, d_g, d_o = d_c * g, d_c * c, d_c * i, d_h * squashed
    projected = tf.concat([d_i * i * (1 - i), d_f * f * (1 - f), d_g * (1 - g**2), d_o * o * (1 - o)], axis=-1)
    return _Gradient(_Memory(tf.matmul(projected, kernel, transpose_b=True), d_c * f), projected)
