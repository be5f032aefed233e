"""Actor and critic: initial weights, seeds, shapes, and the spaces they refuse."""

import keras
import numpy as np
import pytest
from gymnasium import spaces

from tfppo.control.networks import make_actor, make_critic

BOX = spaces.Box(-1.0, 1.0, [6])
ACTIONS = spaces.Discrete(3)


def dense_layers(model):
    return [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]


def test_weights_are_orthogonal_with_their_gains_and_biases_zero():
    for model, gain in ((make_actor(BOX, ACTIONS, (16, 8)), 0.01), (make_critic(BOX, (16, 8)), 1.0)):
        layers = dense_layers(model)
        for layer, expected in zip(layers, (2**0.5, 2**0.5, gain), strict=True):
            kernel = layer.kernel.numpy().astype(float)
            gram = kernel.T @ kernel if kernel.shape[0] >= kernel.shape[1] else kernel @ kernel.T
            np.testing.assert_allclose(gram, expected**2 * np.eye(len(gram)), atol=1e-5 * expected**2)
            assert not layer.bias.numpy().any()


def test_shapes_layers_and_activations():
    actor, critic = make_actor(BOX, ACTIONS, (16, 8), "relu"), make_critic(BOX, (5,), "elu")
    assert actor.output_shape == (None, 3) and critic.output_shape == (None, 1)
    assert [(layer.units, layer.activation.__name__) for layer in dense_layers(actor)] == [
        (16, "relu"),
        (8, "relu"),
        (3, "linear"),
    ]
    assert [(layer.units, layer.activation.__name__) for layer in dense_layers(critic)] == [(5, "elu"), (1, "linear")]


def test_images_are_flattened():
    critic = make_critic(spaces.Box(0.0, 1.0, [4, 4, 2]), (8,))
    assert critic(np.ones([5, 4, 4, 2], np.float32)).shape == (5, 1)


def test_networks_are_separate_and_start_from_different_weights():
    actor, critic = make_actor(BOX, ACTIONS, (16,), seed=3), make_critic(BOX, (16,), seed=3)
    assert not {id(v) for v in actor.variables} & {id(v) for v in critic.variables}
    assert not np.allclose(actor.weights[0].numpy(), critic.weights[0].numpy())


def test_layers_of_equal_shape_start_from_different_weights():
    first, second, _ = dense_layers(make_critic(spaces.Box(-1.0, 1.0, [8]), (8, 8)))
    assert not np.allclose(first.kernel.numpy(), second.kernel.numpy())


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
def test_a_seed_fixes_the_weights(seed):
    same, again, other = (make_actor(BOX, ACTIONS, (8,), seed=s).get_weights() for s in (seed, seed, seed + 1))
    for a, b in zip(same, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.allclose(same[0], other[0])
