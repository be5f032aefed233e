"""LSTMs over trajectories equal Keras' cell step by step, and so do their gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfppo.control.policies.lstm import unroll
from tfppo.control.policies.policy import forget
from tfppo.execution.compilation import compiled

STEPS, BATCH, UNITS, WIDTHS = 9, 3, 5, (2, 4)


def step_by_step(cells, features, mask, memory):
    """The slow reference: Keras' cell, one step at a time."""
    hidden = []
    for n, cell in enumerate(cells):
        state, outputs = list(memory[2 * n : 2 * n + 2]), []
        for time in range(STEPS):
            output, state = cell(features[n][time], state)
            state = forget(state, ~mask[time])
            outputs.append(output)
        hidden.append(tf.stack(outputs))
    return hidden


@pytest.fixture
def problem():
    random = np.random.default_rng(0)

    def normal(*shape):
        return tf.constant(random.normal(size=shape), tf.float32)

    cells = [keras.layers.LSTMCell(UNITS, bias_initializer="random_normal") for _ in WIDTHS]
    for cell, width in zip(cells, WIDTHS, strict=True):
        cell.build((None, width))
    features = [normal(STEPS, BATCH, width) for width in WIDTHS]
    mask = random.random((STEPS, BATCH)) < 0.7
    mask[0], mask[-1] = (True, False, True), (False, True, True)  # also at both ends
    memory = [normal(BATCH, UNITS) for _ in range(2 * len(cells))]
    return cells, features, tf.constant(mask), memory, [normal(STEPS, BATCH, UNITS) for _ in cells]


@pytest.mark.representatives(2)
@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_a_replay_and_its_gradients_are_those_of_keras_cell_step_by_step(problem, mode):
    cells, features, mask, memory, weights = problem
    variables = [variable.value for cell in cells for variable in cell.trainable_variables]

    def differentiated(function):
        with tf.GradientTape() as tape:
            tape.watch([*features, *memory])
            hidden = function(cells, features, mask, memory)
            loss = tf.add_n([tf.reduce_sum(w * tf.sin(x)) for w, x in zip(weights, hidden, strict=True)])
        return hidden, tape.gradient(loss, [*variables, *features, *memory])

    expected = differentiated(step_by_step)
    given = compiled(lambda: differentiated(unroll), mode)()
    for x, y in zip(tf.nest.flatten(given), tf.nest.flatten(expected), strict=True):
        assert np.abs(y).max() > 1e-3
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-6)


def test_memory_that_is_left_out_is_without_influence(problem):
    cells, features, _, memory, _ = problem
    mask = tf.constant([[True] * BATCH] * 3 + [[False] * BATCH] + [[True] * BATCH] * (STEPS - 4))
    whole = unroll(cells, features, mask, memory)
    nothing = [tf.zeros_like(x) for x in memory]
    behind = unroll(cells, [x[4:] for x in features], mask[4:], nothing)
    for x, y in zip(whole, behind, strict=True):
        np.testing.assert_allclose(x[4:], y, rtol=1e-6, atol=1e-7)
