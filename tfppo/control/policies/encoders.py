"""Keras inputs and feature vectors for observations of every supported space."""

import math
from collections.abc import Callable
from typing import TypeAlias, TypeGuard, TypeVar

import gymnasium
import keras
import numpy as np
import tensorflow as tf
from gymnasium import spaces

from tfppo.control.envs.environment import Observations
from tfppo.control.envs.wrappers import ACTION_MASK
from tfppo.errors import UsageError, one_line

LARGEST_ONE_HOT = 100_000  # a rollout of 4,096 such observations takes 1.6 GB in the network
SMALLEST_IMAGE = 36  # pixels; a smaller image has no output after the three convolutions of NatureCNN

Inputs: TypeAlias = keras.KerasTensor | dict[str, keras.KerasTensor]  # a dictionary for a Dict space
Part = TypeVar("Part")


def make_inputs(space: gymnasium.Space) -> Inputs:
    """Makes Keras inputs for observations of a space.

    Args:
      space: The space of a single observation.

    Returns:
      One input, or a dictionary of inputs for a Dict space.

    Raises:
      UsageError: If the space is not supported.
    """
    if isinstance(space, spaces.Dict):
        if not set(space) - {ACTION_MASK}:
            raise UsageError(
                f"observation space {one_line(space)} holds only an {ACTION_MASK}; it must hold an observation too: "
                "add one"
            )
        nested = [key for key, part in space.items() if isinstance(part, spaces.Dict)]
        if nested:
            raise UsageError(
                f"observation space {one_line(space)} has a nested Dict ({nested[0]}); a Dict must have one level: "
                "flatten it (gymnasium.wrappers.TransformObservation)"
            )
        slashed = [key for key in space if "/" in key]
        if slashed:
            raise UsageError(
                f"observation space {one_line(space)} has the key {slashed[0]!r}; names of Keras inputs must not "
                "contain /: rename it (gymnasium.wrappers.TransformObservation)"
            )
        return {key: _input(part, key) for key, part in space.items()}
    return _input(space, "observations")


def _input(space: gymnasium.Space, name: str) -> keras.KerasTensor:
    return keras.Input(observation_shape(space), dtype=observation_dtype(space), name=name)


def observation_shape(space: gymnasium.Space) -> tuple[int, ...]:
    """Returns the shape of a single observation.

    Raises:
      UsageError: If the space is not supported.
    """
    if not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiBinary | spaces.MultiDiscrete):
        raise UsageError(
            f"observation space {one_line(space)} is not supported; it must be a Box, Discrete, MultiDiscrete or "
            "MultiBinary, or a Dict of them: convert it (gymnasium.wrappers.TransformObservation)"
        )
    if isinstance(space, spaces.Discrete) and space.n > LARGEST_ONE_HOT:
        raise UsageError(
            f"observation space {one_line(space)} becomes a one-hot vector, which may have at most {LARGEST_ONE_HOT:,} "
            "values: return numbers that describe the state, as a Box or a MultiDiscrete"
        )
    if 0 in (space.shape or ()):
        raise UsageError(f"observation space {one_line(space)} has no numbers; it must have at least one: leave it out")
    return tuple(space.shape or ())


def observation_dtype(space: gymnasium.Space) -> str:
    """Returns the dtype in which observations of a space are stored.

    Images are uint8, all other Boxes float32, and Discrete, MultiDiscrete and MultiBinary observations int32.
    """
    if isinstance(space, spaces.Box):
        return "uint8" if is_image(space) else "float32"
    return "int32"


def map_space(function: Callable[[gymnasium.Space], Part], space: gymnasium.Space) -> Part | dict[str, Part]:
    """Applies a function to a space, or to each part of a Dict space.

    Args:
      function: A function of a space.
      space: The space.

    Returns:
      The result for the space; for a Dict, a dictionary with the result for each part.
    """
    if isinstance(space, spaces.Dict):
        return {key: function(part) for key, part in space.items()}
    return function(space)


def action_mask_of(observations: Observations) -> tf.Tensor | None:
    """Returns the action mask of observations, bool [B, A]: True where an action is allowed; None without a mask."""
    if isinstance(observations, dict) and ACTION_MASK in observations:
        return tf.cast(observations[ACTION_MASK], tf.bool)
    return None


def is_image(space: gymnasium.Space) -> TypeGuard[spaces.Box]:
    """Returns whether a space holds images that are large enough for NatureCNN.

    Images are uint8 Boxes of shape [H, W, C] or [C, H, W], stacks of frames [F, H, W, C], and grayscale images [H, W].
    Smaller Boxes may be boards of a game or grids of symbols; they are numbers like those of other Boxes.
    """
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or len(space.shape) not in (2, 3, 4):
        return False
    shape: tuple[int, ...] = space.shape
    begins_with_channels = len(shape) == 4 or (len(shape) == 3 and shape[0] < shape[2])
    return min(shape[1:3] if begins_with_channels else shape[:2]) >= SMALLEST_IMAGE


def encode(space: gymnasium.Space, inputs: Inputs, seed: int) -> keras.KerasTensor:
    """Computes features [B, F] of observations.

    Floats stay as they are, Discrete and MultiDiscrete observations become one-hot vectors, and images go through
    NatureCNN. The features of a Dict's parts are concatenated, without those of the action mask.

    Args:
      space: The space of a single observation.
      inputs: The inputs from `make_inputs`.
      seed: Seed of the initial weights.

    Returns:
      Features [B, F].
    """
    if not isinstance(space, spaces.Dict):
        return _encode_part(space, inputs, seed)
    parts = [_encode_part(space[key], inputs[key], seed + 7 * n) for n, key in enumerate(space) if key != ACTION_MASK]
    return keras.ops.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]


def _encode_part(space: gymnasium.Space, x: keras.KerasTensor, seed: int) -> keras.KerasTensor:
    if isinstance(space, spaces.Discrete):
        return keras.ops.one_hot(x - int(space.start), int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        sizes = [int(size) for size in space.nvec.reshape(-1)]
        flat = keras.ops.reshape(x - space.start.astype(np.int32), [-1, len(sizes)])
        one_hots = [keras.ops.one_hot(flat[:, k], size) for k, size in enumerate(sizes)]
        return keras.ops.concatenate(one_hots, axis=-1)
    if is_image(space):
        return _nature_cnn(space, x, seed)
    x = keras.ops.cast(x, "float32")  # MultiBinary observations are int32
    shape = observation_shape(space)
    return x if len(shape) == 1 else keras.layers.Reshape((math.prod(shape),))(x)


def _nature_cnn(space: spaces.Box, x: keras.KerasTensor, seed: int) -> keras.KerasTensor:
    """Computes 512 features of an image.

    Source:
      Mnih et al. 2015, "Human-level control through deep reinforcement learning".
    """
    shape = space.shape
    x = keras.ops.cast(x, "float32") / 255.0
    if len(shape) == 2:
        x, shape = keras.layers.Reshape((*shape, 1))(x), (*shape, 1)
    elif len(shape) == 4:  # the channels of all frames become the channels of one image
        frames, height, width, channels = shape
        shape = height, width, frames * channels
        x = keras.layers.Reshape(shape)(keras.layers.Permute((2, 3, 1, 4))(x))
    elif shape[0] < shape[2]:  # channels first, such as a stack of grayscale frames
        x, shape = keras.layers.Permute((2, 3, 1))(x), (shape[1], shape[2], shape[0])

    def orthogonal(layer: int) -> keras.initializers.Initializer:
        return keras.initializers.Orthogonal(2**0.5, seed=1_000_003 * (100 + layer) + seed)

    for layer, (filters, size, stride) in enumerate(((32, 8, 4), (64, 4, 2), (64, 3, 1))):
        x = keras.layers.Conv2D(filters, size, stride, activation="relu", kernel_initializer=orthogonal(layer))(x)
    return keras.layers.Dense(512, "relu", kernel_initializer=orthogonal(3))(keras.layers.Flatten()(x))
