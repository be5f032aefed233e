"""LSTMs over trajectories of several episodes [Hochreiter and Schmidhuber 1997; forget gates: Gers et al. 2000].

Only what has to wait for the step before stands in a loop: the recurrent product and the gates. The product with the
inputs is computed for all steps at once, and so are, behind the backward loop, the gradients of the weights: automatic
differentiation would add to them step by step.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf


class _Memory(NamedTuple):
    h: tf.Tensor  # [B, U]
    c: tf.Tensor  # [B, U]


class _Step(NamedTuple):
    memory: _Memory  # behind it
    hidden: tf.Tensor  # [B, U]: h, before anything is forgotten
    gates: tuple[tf.Tensor, ...]  # input, forget, candidate, output; [B, U] each


class _Gradient(NamedTuple):
    memory: _Memory  # before a step
    projected: tf.Tensor  # [B, 4 U]


def unroll(
    cells: Sequence[keras.layers.LSTMCell], features: Sequence[tf.Tensor], mask: tf.Tensor, memory: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    """Hidden states [T, B, U] of each cell, all cells in one loop. Can be differentiated once.

    Args:
      cells: built, with Keras' default activations and without dropout.
      features: [T, B, F] for each.
      mask: bool [T, B]; behind a step that it leaves out the memory is zero.
      memory: h and c [B, U] of the first cell before the first step, of the second cell, ...
    """
    projected = [x @ cell.kernel + cell.bias for cell, x in zip(cells, features, strict=True)]
    kernels = [tf.convert_to_tensor(cell.recurrent_kernel) for cell in cells]
    before = [_Memory(*pair) for pair in zip(memory[::2], memory[1::2], strict=True)]
    return _recur(projected, kernels, before, mask[..., None])


@tf.custom_gradient
def _recur(
    projected: list[tf.Tensor], kernels: list[tf.Tensor], before: list[_Memory], keep: tf.Tensor
) -> tuple[list[tf.Tensor], Callable]:
    """Hidden states [T, B, U] of each cell from its inputs times its kernel [T, B, 4 U], its recurrent kernel [U, 4 U],
    its memory, and keep, bool [T, B, 1], false where the memory ends."""

    def forward(states: list[_Step], rows: tuple[tf.Tensor, ...]) -> list[_Step]:
        *inputs, keep = rows
        return [
            _advance(x, kernel, state.memory, keep) for state, x, kernel in zip(states, inputs, kernels, strict=True)
        ]

    start = [_Step(memory, memory.h, (memory.c,) * 4) for memory in before]  # of the right shapes
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
    """One step of a cell, from its inputs times its kernel [B, 4 U], in Keras' order of gates."""
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
    """The chain rule through one step, whose memory held c [B, U] before it."""
    i, f, g, o = gates
    squashed = tf.tanh(f * c + i * g)
    d_h = tf.where(keep, d_memory.h, 0.0) + d_hidden
    d_c = tf.where(keep, d_memory.c, 0.0) + d_h * o * (1 - squashed**2)
    d_i, d_f, d_g, d_o = d_c * g, d_c * c, d_c * i, d_h * squashed
    projected = tf.concat([d_i * i * (1 - i), d_f * f * (1 - f), d_g * (1 - g**2), d_o * o * (1 - o)], axis=-1)
    return _Gradient(_Memory(tf.matmul(projected, kernel, transpose_b=True), d_c * f), projected)
