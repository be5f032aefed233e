"""Keras models of the actor and the critic, for all supported observation and action spaces."""

import warnings
from collections.abc import Sequence
from typing import Any, TypeAlias

import gymnasium
import keras

from tfppo.control.policies.encoders import Inputs, encode, make_inputs, map_space, observation_shape
from tfppo.control.policies.heads import ActionHead, NormalHead, StateDependentNormalHead, make_head
from tfppo.errors import UsageError

Shape: TypeAlias = tuple[int | None, ...]

HIDDEN_GAIN = 2**0.5
ACTOR_GAIN, CRITIC_GAIN = 0.01, 1.0


class _LogStdLayer(keras.layers.Layer):
    """The base class of layers whose weights are log standard deviations, all with the same initial value."""

    def __init__(self, initial_value: float = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.initial_value = initial_value

    def add_log_std(self, *shape: int | None) -> None:
        """Adds the weights, with the given shape."""
        initializer = keras.initializers.Constant(self.initial_value)
        self.log_std = self.add_weight(shape=shape, initializer=initializer, name="log_std")

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, for saving."""
        return super().get_config() | {"initial_value": self.initial_value}


@keras.saving.register_keras_serializable(package="tfppo")
class WithLogStd(_LogStdLayer):
    """Appends log standard deviations to means: [B, D] to [B, 2 D].

    The log standard deviations are D weights that do not depend on the state (Huang et al. 2022).

    Args:
      initial_value: Initial log standard deviation.
    """

    def build(self, input_shape: Shape) -> None:
        """Adds D log standard deviations."""
        self.add_log_std(input_shape[-1])

    def call(self, means: keras.KerasTensor) -> keras.KerasTensor:
        """Returns means and log standard deviations [B, 2 D]."""
        return keras.ops.concatenate([means, keras.ops.broadcast_to(self.log_std, keras.ops.shape(means))], axis=-1)


@keras.saving.register_keras_serializable(package="tfppo")
class WithStateDependentStd(_LogStdLayer):
    """Computes the standard deviations of gSDE from means [B, D] and features [B, L].

    It returns means and log standard deviations [B, 2 D], and the scales [B, L, D] of the noise. A scale is the product
    of a feature and one of L x D learned standard deviations. No gradient flows from the scales into the features.

    Args:
      initial_value: Initial log standard deviation of each noise weight.

    Source:
      gSDE, Raffin et al. 2022, section 3.
    """

    def build(self, input_shape: tuple[Shape, Shape]) -> None:
        """Adds L x D log standard deviations."""
        (_, num_actions), (_, num_features) = input_shape
        self.add_log_std(num_features, num_actions)

    def call(self, inputs: tuple[keras.KerasTensor, keras.KerasTensor]) -> tuple[keras.KerasTensor, keras.KerasTensor]:
        """Returns means and log standard deviations [B, 2 D], and scales [B, L, D]."""
        means, features = inputs
        scales = keras.ops.stop_gradient(features)[..., None] * keras.ops.exp(self.log_std)  # [B, L, D]
        variance = keras.ops.sum(keras.ops.square(scales), axis=-2) + 1e-6  # all features may be 0
        return keras.ops.concatenate([means, 0.5 * keras.ops.log(variance)], axis=-1), scales


def make_actor(
    observation_space: gymnasium.Space,
    head: ActionHead | gymnasium.Space,
    hidden_units: Sequence[int] = (64, 64),
    activation: str = "tanh",
    seed: int = 0,
    log_std_init: float = 0.0,
) -> keras.Model:
    """Makes a network from observations [B, ...] to the inputs of an action head.

    Weights are orthogonal, with gain sqrt(2) in the hidden layers and 0.01 at the output; biases are 0 (Huang et al.
    2022, detail 2).

    Args:
      observation_space: The space of a single environment's observations.
      head: The action head, or an action space, for which `make_head` makes the default head.
      hidden_units: Widths of the hidden layers.
      activation: Activation function of the hidden layers.
      seed: Seed of the initial weights.
      log_std_init: Initial log standard deviation of continuous actions.

    Returns:
      The actor.

    Raises:
      UsageError: If a space is not supported.
    """
    head = make_head(head) if isinstance(head, gymnasium.Space) else head
    inputs = make_inputs(observation_space)
    features = _trunk(observation_space, inputs, hidden_units, activation, 2 * seed)
    return keras.Model(inputs, actor_outputs(features, head, len(hidden_units), 2 * seed, log_std_init), name="actor")


def make_critic(
    observation_space: gymnasium.Space, hidden_units: Sequence[int] = (64, 64), activation: str = "tanh", seed: int = 0
) -> keras.Model:
    """Makes a network from observations [B, ...] to values [B, 1].

    The initial weights are like those of `make_actor`, but with gain 1 at the output.

    Args:
      observation_space: The space of a single environment's observations.
      hidden_units: Widths of the hidden layers.
      activation: Activation function of the hidden layers.
      seed: Seed of the initial weights.

    Returns:
      The critic.

    Raises:
      UsageError: If the space is not supported.
    """
    inputs = make_inputs(observation_space)
    features = _trunk(observation_space, inputs, hidden_units, activation, 2 * seed + 1)
    return keras.Model(inputs, value_output(features, len(hidden_units), 2 * seed + 1), name="critic")


def make_shared(
    observation_space: gymnasium.Space,
    head: ActionHead,
    hidden_units: Sequence[int] = (64, 64),
    activation: str = "tanh",
    seed: int = 0,
    log_std_init: float = 0.0,
) -> tuple[keras.Model, keras.Model]:
    """Makes an actor and a critic that share all hidden layers.

    The arguments and errors are those of `make_actor`.

    Returns:
      The actor and the critic.
    """
    inputs = make_inputs(observation_space)
    features = _trunk(observation_space, inputs, hidden_units, activation, 2 * seed)
    depth = len(hidden_units)
    actor = keras.Model(inputs, actor_outputs(features, head, depth, 2 * seed, log_std_init), name="actor")
    return actor, keras.Model(inputs, value_output(features, depth, 2 * seed + 1), name="critic")


def fit_actor(
    model: keras.Model, observation_space: gymnasium.Space, head: ActionHead, log_std_init: float = 0.0
) -> keras.Model:
    """Adapts a user's Keras model as the actor of a run.

    A model that returns only the means of a Box's actions gets log standard deviations that do not depend on the state.

    Args:
      model: The user's model.
      observation_space: The space of a single environment's observations.
      head: The action head.
      log_std_init: Initial log standard deviation, if the model has none.

    Returns:
      The actor.

    Raises:
      UsageError: If the model's inputs do not fit the observations, or its outputs do not fit the head.
    """
    shape = _output_shape(model, "actor")
    _check_inputs(model, observation_space, "actor")
    if isinstance(head, StateDependentNormalHead):
        shapes = [(None, head.num_outputs), (None, head.num_features, head.num_actions)]
        if isinstance(shape, list | tuple) and list(shape) == shapes:
            return model
        wanted = f"{shapes}: end the actor with tfppo.control.policies.networks.WithStateDependentStd"
        raise UsageError(f"the actor's outputs have shape {shape}; with box_policy gsde they must have {wanted}")
    if shape == (None, head.num_outputs):
        return model
    if isinstance(head, NormalHead) and shape == (None, head.num_actions):
        inputs = model.inputs if isinstance(model, keras.Sequential) else model.input  # keeps a dictionary of inputs
        return keras.Model(inputs, WithLogStd(log_std_init)(model.outputs[0]), name="actor")
    wanted = f"[B, {head.num_outputs}]" + (f" or [B, {head.num_actions}]" if isinstance(head, NormalHead) else "")
    raise UsageError(
        f"the actor's outputs have shape {shape}; for this action space they must be {wanted}: change its last layer"
    )


def fit_critic(model: keras.Model, observation_space: gymnasium.Space) -> keras.Model:
    """Returns a user's Keras model as the critic of a run.

    Raises:
      UsageError: If the model's inputs do not fit the observations, or its outputs are not [B, 1].
    """
    shape = _output_shape(model, "critic")
    _check_inputs(model, observation_space, "critic")
    if shape != (None, 1):
        raise UsageError(f"the critic's outputs have shape {shape}; they must be [B, 1]: end the critic with Dense(1)")
    return model


def _check_inputs(model: keras.Model, space: gymnasium.Space, name: str) -> None:
    """Checks that a user's model takes the observations of a space, and warns of layers that training changes.

    Raises:
      UsageError: If the names or the shapes of its inputs differ.
    """
    wanted = map_space(lambda part: (None, *observation_shape(part)), space)
    inputs = model.inputs if isinstance(model, keras.Sequential) else model.input
    inputs = inputs[0] if isinstance(inputs, list) and len(inputs) == 1 else inputs
    given = keras.tree.map_structure(lambda x: tuple(x.shape), inputs)
    if isinstance(given, dict) and isinstance(wanted, dict):
        fits = set(given) <= set(wanted) and all(_is_compatible(given[key], wanted[key]) for key in given)
    else:
        fits = isinstance(given, tuple) and isinstance(wanted, tuple) and _is_compatible(given, wanted)
    if not fits:
        raise UsageError(
            f"the {name}'s inputs have shape {given}; for this observation space they must have {wanted}: change its "
            "keras.Input"
        )
    kinds = (keras.layers.BatchNormalization, keras.layers.Dropout)
    found = sorted({type(layer).__name__ for layer in model._flatten_layers() if isinstance(layer, kinds)})
    if found:
        warnings.warn(
            f"the {name} has layers of type {' and '.join(found)}. PPO runs them as in inference, because the policy "
            "that is trained must be the policy that acts: Dropout has no effect, and BatchNormalization keeps its "
            "initial statistics. Use LayerNormalization, or the setting normalize_observations.",
            stacklevel=2,
        )


def _is_compatible(given: Shape, wanted: Shape) -> bool:
    return len(given) == len(wanted) and all(a is None or a == b for a, b in zip(given[1:], wanted[1:], strict=True))


def _output_shape(model: keras.Model, name: str) -> Shape | Sequence[Shape]:
    try:
        return model.output_shape
    except AttributeError:
        raise UsageError(
            f"the {name} has no known input and output shapes; it must be a built Keras model: build it from "
            "keras.Input, or as a keras.Sequential that begins with keras.Input"
        ) from None


def dense_layers(
    features: keras.KerasTensor, hidden_units: Sequence[int], activation: str, seed: int
) -> keras.KerasTensor:
    """Applies the hidden layers to features [B, F].

    Args:
      features: [B, F].
      hidden_units: Widths of the layers.
      activation: Activation function of the layers.
      seed: Seed of the initial weights.

    Returns:
      The features after the last layer.
    """
    for layer, units in enumerate(hidden_units):
        features = _dense(units, HIDDEN_GAIN, layer, seed, activation)(features)
    return features


def actor_outputs(
    features: keras.KerasTensor, head: ActionHead, depth: int, seed: int, log_std_init: float
) -> keras.KerasTensor | tuple[keras.KerasTensor, keras.KerasTensor]:
    """Computes the inputs of an action head from features.

    Args:
      features: [B, F], the features after the hidden layers.
      head: The action head.
      depth: Number of hidden layers; selects the seed of the output layer.
      seed: Seed of the initial weights.
      log_std_init: Initial log standard deviation of continuous actions.

    Returns:
      The inputs of the head, a pair for gSDE.
    """
    if not isinstance(head, NormalHead):
        return _dense(head.num_outputs, ACTOR_GAIN, depth, seed)(features)
    means = _dense(head.num_actions, ACTOR_GAIN, depth, seed)(features)
    if isinstance(head, StateDependentNormalHead):
        return WithStateDependentStd(log_std_init)([means, features])
    return WithLogStd(log_std_init)(means)


def value_output(features: keras.KerasTensor, depth: int, seed: int) -> keras.KerasTensor:
    """Computes values [B, 1] from features.

    Args:
      features: [B, F], the features after the hidden layers.
      depth: Number of hidden layers; selects the seed of the output layer.
      seed: Seed of the initial weights.

    Returns:
      Values [B, 1].
    """
    return _dense(1, CRITIC_GAIN, depth, seed)(features)


def _trunk(
    space: gymnasium.Space, inputs: Inputs, hidden_units: Sequence[int], activation: str, seed: int
) -> keras.KerasTensor:
    return dense_layers(encode(space, inputs, seed), hidden_units, activation, seed)


def _dense(units: int, gain: float, layer: int, seed: int, activation: str | None = None) -> keras.layers.Dense:
    initializer = keras.initializers.Orthogonal(gain, seed=1_000_003 * layer + seed)
    return keras.layers.Dense(units, activation, kernel_initializer=initializer)
