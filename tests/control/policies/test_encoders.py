"""Observation spaces: Keras inputs, and features."""

from collections import OrderedDict

import gymnasium
import keras
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from support.refusal import refusal

from tfppo.control.policies.encoders import encode, make_inputs, map_space, observation_dtype, observation_shape

CHOICES = spaces.MultiDiscrete([[2, 3], [4, 2]], start=[[1, -2], [0, 7]])
IMAGE = spaces.Box(0, 255, [44, 36, 3], np.uint8)
MIXED = spaces.Dict(  # not in alphabetical order
    OrderedDict(
        wheel=spaces.Discrete(3, start=1),
        camera=IMAGE,
        arm=spaces.Box(-1, 1, [2], np.float64),
        action_mask=spaces.MultiBinary(5),
        buttons=spaces.MultiBinary(2),
    )
)


def one_hot(index, size):
    return np.eye(size)[index].tolist()


def choices(x):
    """Returns the features of a row of CHOICES."""
    flat = (np.array(x) - CHOICES.start).reshape(-1)
    return sum((one_hot(index, size) for index, size in zip(flat, [2, 3, 4, 2], strict=True)), [])


KINDS = {  # space, shape and dtype of its observations, and a function from an observation to its features
    "scalar": (spaces.Box(-1, 1, ()), (), "float32", lambda x: [x]),
    "vector": (spaces.Box(-1, 1, [3], np.float64), (3,), "float32", list),
    "matrix": (spaces.Box(-1, 1, [2, 3]), (2, 3), "float32", np.ravel),
    "cube": (spaces.Box(-1, 1, [2, 3, 4]), (2, 3, 4), "float32", np.ravel),
    "integers": (spaces.Box(-9, 9, [2, 2], np.int64), (2, 2), "float32", np.ravel),
    "bytes": (spaces.Box(0, 255, [6], np.uint8), (6,), "float32", list),
    "discrete": (spaces.Discrete(4), (), "int32", lambda x: one_hot(x, 4)),
    "discrete_from_5": (spaces.Discrete(4, start=5), (), "int32", lambda x: one_hot(x - 5, 4)),
    "multi_discrete": (CHOICES, (2, 2), "int32", choices),
    "multi_binary": (spaces.MultiBinary([2, 3]), (2, 3), "int32", np.ravel),
}
every_kind = pytest.mark.parametrize(("space", "shape", "dtype", "features"), KINDS.values(), ids=KINDS.keys())


def encoder(space, seed=0):
    inputs = make_inputs(space)
    return keras.Model(inputs, encode(space, inputs, seed))


def sample(space, count, seed=0):
    """Samples observations [count, ...] in the form that collectors give them."""
    space.seed(seed)
    rows = [space.sample() for _ in range(count)]
    if not isinstance(space, spaces.Dict):
        return tf.constant(np.stack(rows), observation_dtype(space))
    return {key: tf.constant(np.stack([r[key] for r in rows]), observation_dtype(part)) for key, part in space.items()}


@every_kind
def test_inputs_have_the_shape_of_the_space_and_the_dtype_that_is_kept(space, shape, dtype, features):
    inputs = make_inputs(space)
    assert inputs.shape == (None, *shape) and inputs.dtype == dtype
    assert observation_shape(space) == shape and observation_dtype(space) == dtype


@every_kind
def test_features_are_numbers_as_they_are_and_choices_as_one_hot_vectors(space, shape, dtype, features):
    observations = sample(space, 20)
    given = encoder(space)(observations)
    expected = np.array([features(row) for row in observations.numpy()])
    assert given.dtype == tf.float32 and given.shape == expected.shape
    np.testing.assert_array_equal(given, expected.astype(np.float32))
    assert len(np.unique(expected, axis=0)) > 3


# ----- Dict


def test_inputs_of_a_dict_are_a_dictionary_with_a_name_a_part():
    inputs = make_inputs(MIXED)
    assert list(inputs) == list(MIXED)
    assert {key: (x.name, x.shape[1:], x.dtype) for key, x in inputs.items()} == {
        "wheel": ("wheel", (), "int32"),
        "camera": ("camera", (44, 36, 3), "uint8"),
        "arm": ("arm", (2,), "float32"),
        "action_mask": ("action_mask", (5,), "int32"),
        "buttons": ("buttons", (2,), "int32"),
    }
    assert map_space(observation_dtype, MIXED) == {key: x.dtype for key, x in inputs.items()}
    assert map_space(observation_dtype, IMAGE) == "uint8"


def test_features_of_a_dict_are_those_of_its_parts_in_its_order_without_the_action_mask():
    model, observations = encoder(MIXED), sample(MIXED, 4)
    given = model(observations).numpy()
    assert given.shape == (4, 3 + 512 + 2 + 2)
    np.testing.assert_array_equal(given[:, :3], np.eye(3)[observations["wheel"].numpy() - 1])
    (dense,) = [x for x in model.layers if isinstance(x, keras.layers.Dense)]
    image = keras.Model(model.input["camera"], dense.output)
    np.testing.assert_allclose(given[:, 3:515], image(observations["camera"]), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(given[:, 515:517], observations["arm"])
    np.testing.assert_array_equal(given[:, 517:], observations["buttons"])
    masked = observations | {"action_mask": 1 - observations["action_mask"]}
    np.testing.assert_array_equal(model(masked), given)
    backwards = dict(reversed(observations.items()))  # the order of the observations does not matter
    np.testing.assert_array_equal(model(backwards), given)


def test_a_dict_sorts_what_gymnasium_sorts():
    space = spaces.Dict({"b": spaces.Box(0, 1, [1]), "a": spaces.Box(2, 3, [1])})
    given = encoder(space)({"a": tf.constant([[2.0]]), "b": tf.constant([[1.0]])})
    assert given.numpy().tolist() == [[2.0, 1.0] if list(space) == ["a", "b"] else [1.0, 2.0]]
    alone = encoder(spaces.Dict(x=spaces.Discrete(3), action_mask=spaces.MultiBinary(2)))
    assert alone({"x": tf.constant([1]), "action_mask": tf.constant([[1, 0]])}).numpy().tolist() == [[0, 1, 0]]


# ----- Images


def test_images_go_through_the_layers_of_nature_cnn():
    model = encoder(spaces.Box(0, 255, [84, 84, 4], np.uint8))
    layers = [x for x in model.layers if x.weights]
    assert [(x.filters, x.kernel_size, x.strides) for x in layers[:3]] == [
        (32, (8, 8), (4, 4)),
        (64, (4, 4), (2, 2)),
        (64, (3, 3), (1, 1)),
    ]
    assert [x.activation.__name__ for x in layers] == ["relu"] * 4 and layers[3].units == 512
    assert [x.output.shape[1:] for x in layers] == [(20, 20, 32), (9, 9, 64), (7, 7, 64), (512,)]
    for layer in layers:
        kernel = layer.kernel.numpy().reshape(-1, layer.kernel.shape[-1]).astype(float)
        np.testing.assert_allclose(kernel.T @ kernel, 2 * np.eye(kernel.shape[1]), atol=1e-4)  # orthogonal, sqrt(2)
        assert not layer.bias.numpy().any()


def test_bytes_of_images_are_divided_by_255():
    model, images = encoder(IMAGE), sample(IMAGE, 3)
    kernels = [x.kernel.numpy() for x in model.layers if x.weights]
    x = tf.cast(images, tf.float32) / 255
    for kernel, stride in zip(kernels[:3], (4, 2, 1), strict=True):
        x = tf.nn.relu(tf.nn.conv2d(x, kernel, stride, "VALID"))
    expected = tf.nn.relu(tf.reshape(x, [3, -1]) @ kernels[3])
    np.testing.assert_allclose(model(images), expected, rtol=1e-4, atol=1e-5)
    assert np.std(expected) > 1e-3 and images.dtype == tf.uint8


def test_images_with_channels_first_are_turned_round():
    model, images = encoder(IMAGE), sample(IMAGE, 3)
    turned = encoder(spaces.Box(0, 255, [3, 44, 36], np.uint8))
    assert turned.input_shape == (None, 3, 44, 36)
    np.testing.assert_allclose(turned(tf.transpose(images, [0, 3, 1, 2])), model(images), rtol=1e-5, atol=1e-6)


def test_the_channels_of_a_stack_of_frames_are_those_of_one_image():
    """Frames have their order in `FrameStackObservation`."""
    environment = gymnasium.wrappers.FrameStackObservation(Camera(), 2)
    assert environment.observation_space.shape == (2, 44, 36, 3)
    stacked, single = encoder(environment.observation_space), encoder(spaces.Box(0, 255, [44, 36, 6], np.uint8))
    frames = sample(environment.observation_space, 3)
    joined = tf.concat([frames[:, 0], frames[:, 1]], axis=-1)  # [3, 44, 36, 6]
    np.testing.assert_allclose(stacked(frames), single(joined), rtol=1e-5, atol=1e-6)


class Camera(gymnasium.Env):
    observation_space, action_space = IMAGE, spaces.Discrete(2)


def test_a_grey_image_without_an_axis_for_its_channel_is_one_and_a_small_board_is_none():
    grey = spaces.Box(0, 255, [44, 36], np.uint8)
    images = sample(grey, 3)
    with_axis = encoder(spaces.Box(0, 255, [44, 36, 1], np.uint8))
    assert images.dtype == tf.uint8
    np.testing.assert_allclose(encoder(grey)(images), with_axis(images[..., None]), rtol=1e-5, atol=1e-6)
    board = spaces.Box(0, 9, [35, 60], np.uint8)
    assert encoder(board)(sample(board, 2)).shape == (2, 35 * 60)


def test_seeds_fix_the_weights_and_two_images_have_different_ones():
    two = spaces.Dict(left=IMAGE, right=IMAGE)
    same, again, other = (encoder(two, seed).get_weights() for seed in (0, 0, 1))
    kernels = [[w for w in weights if w.ndim == 4] for weights in (same, again, other)]
    assert len(kernels[0]) == 6
    for a, b, c in zip(*kernels, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.allclose(a, c)
    firsts = [w for w in kernels[0] if w.shape == (8, 8, 3, 32)]
    assert len(firsts) == 2 and not np.allclose(*firsts)


# ----- Invalid input


@pytest.mark.parametrize("shape", [(35, 84, 1), (84, 35, 3), (2, 35, 36), (4, 35, 36, 1), (7, 7, 3)], ids=str)
def test_grids_too_small_for_nature_cnn_are_numbers(shape):
    space = spaces.Box(0, 255, shape, np.uint8)
    assert observation_dtype(space) == "float32"
    seen = sample(space, 2)
    np.testing.assert_array_equal(encoder(space)(seen), tf.reshape(tf.cast(seen, tf.float32), [2, -1]))


def test_the_smallest_image_is_36_by_36():
    space = spaces.Box(0, 255, [36, 36, 1], np.uint8)
    assert encoder(space)(sample(space, 2)).shape == [2, 512]


@pytest.mark.parametrize(
    ("space", "named"),
    [
        (spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)]), "Tuple"),
        (spaces.Text(5), "Text"),
        (spaces.Dict(a=spaces.Box(-1, 1, [2]), b=spaces.Text(5)), "Text"),
        (spaces.Dict(a=spaces.Dict(b=spaces.Discrete(2)), c=spaces.Discrete(3)), "nested Dict (a)"),
        (spaces.Dict(action_mask=spaces.MultiBinary(2)), "only an action_mask"),
        (spaces.Dict({"walker/pos": spaces.Box(-1, 1, [2])}), "the key 'walker/pos'"),
        (spaces.Dict(a=spaces.Tuple([spaces.Box(np.zeros([9, 9]), np.ones([9, 9]), dtype=np.float64)])), "Tuple"),
    ],
    ids=["tuple", "text", "text_in_dict", "dict_in_dict", "mask_alone", "slash", "printed_in_many_lines"],
)
def test_other_spaces_are_refused_by_name(space, named):
    text = refusal(make_inputs, space)
    assert named in text and text.startswith("observation space ")


def test_a_box_without_numbers_is_refused():
    assert "has no numbers" in refusal(make_inputs, spaces.Box(-1, 1, (0,)))


def test_a_huge_number_of_states_is_refused():
    assert "at most 100,000 values" in refusal(make_inputs, spaces.Discrete(10_000_000))
