"""The actor and the critic as Keras models, for every kind of observation and action."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import gymnasium
import keras

from tfppo.control.policies.encoders import Inputs, encode, make_inputs
from tfppo.control.policies.heads import ActionHead, NormalHead, StateDependentNormalHead, make_head
from tfppo.errors import UsageError

Shape: TypeAlias = tuple[int | None, ...]

HIDDEN_GAIN = 2**0.5
ACTOR_GAIN, CRITIC_GAIN = 0.01, 1.0


class _LogStdLayer(keras.layers.Layer):
    """Has log standard deviations for weights, all of the same value at the start."""

    def __init__(self, initial_value: float = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.initial_value = initial_value

    def add_log_std(self, *shape: int | None) -> None:
        initializer = keras.initializers.Constant(self.initial_value)
        self.log_std = self.add_weight(shape=shape, initializer=initializer, name="log_std")

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"initial_value": self.initial_value}


@keras.saving.register_keras_serializable(package="tfppo")
class WithLogStd(_LogStdLayer):
    """Means [B, D] to means and log standard deviations [B, 2 D]; the latter are D weights, whatever the state [Huang
    et al. 2022]."""

    def build(self, input_shape: Shape) -> None:
        self.add_log_std(input_shape[-1])

    def call(self, means: keras.KerasTensor) -> keras.KerasTensor:
        return keras.ops.concatenate([means, keras.ops.broadcast_to(self.log_std, keras.ops.shape(means))], axis=-1)


@keras.saving.register_keras_serializable(package="tfppo")
class WithStateDependentStd(_LogStdLayer):
    """Means [B, D] and features [B, L] to means and log standard deviations [B, 2 D] and the scales [B, L, D] that make
    them up, each the product of a feature and of one of L x D learnt standard deviations. No gradient flows into the
    features, which are the mean's to shape.

    Source: gSDE, Raffin et al. 2022, section 3.
    """

    def build(self, input_shape: tuple[Shape, Shape]) -> None:
        (_, num_actions), (_, num_features) = input_shape
        self.add_log_std(num_features, num_actions)

    def call(self, inputs: tuple[keras.KerasTensor, keras.KerasTensor]) -> tuple[keras.KerasTensor, keras.KerasTensor]:
        means, features = inputs
        scales = keras.ops.stop_gradient(features)[..., None] * keras.ops.exp(self.log_std)  # [B, L, D]
        variance = keras.ops.sum(keras.ops.square(scales), axis=-2) + 1e-6  # features may all be 0
        return keras.ops.concatenate([means, 0.5 * keras.ops.log(variance)], axis=-1), scales


def make_actor(
    observation_space: gymnasium.Space,
    head: ActionHead | gymnasium.Space,
    hidden_units: Sequence[int] = (64, 64),
    activation: str = "tanh",
    seed: int = 0,
    log_std_init: float = 0.0,
) -> keras.Model:
    """Observations [B, ...] to what `head`, or the usual head of an action space, makes a distribution of.

    Orthogonal weights of gain sqrt(2) in the hidden layers and 0.01 at the output, biases 0 [Huang et al. 2022, detail
    2].

    Raises:
      UsageError: if a space is of a kind that is not supported.
    """
    head = make_head(head) if isinstance(head, gymnasium.Space) else head
    inputs = make_inputs(observation_space)
    features = _trunk(observation_space, inputs, hidden_units, activation, 2 * seed)
    return keras.Model(inputs, actor_outputs(features, head, len(hidden_units), 2 * seed, log_std_init), name="actor")


def make_critic(
    observation_space: gymnasium.Space, hidden_units: Sequence[int] = (64, 64), activation: str = "tanh", seed: int = 0
) -> keras.Model:
    """Observations [B, ...] to values [B, 1], from weights like the actor's but of gain 1 at the output."""
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
    """Actor and critic with all hidden layers in common."""
    inputs = make_inputs(observation_space)
    features = _trunk(observation_space, inputs, hidden_units, activation, 2 * seed)
    depth = len(hidden_units)
    actor = keras.Model(inputs, actor_outputs(features, head, depth, 2 * seed, log_std_init), name="actor")
    return actor, keras.Model(inputs, value_output(features, depth, 2 * seed + 1), name="critic")


def fit_actor(model: keras.Model, head: ActionHead, log_std_init: float = 0.0) -> keras.Model:
    """A user's Keras model as an actor: one that gives only the means of a Box's actions gets log standard deviations.

    Raises:
      UsageError: if its outputs do not fit the head.
    """
    shape = _output_shape(model, "actor")
    if isinstance(head, StateDependentNormalHead):
        shapes = [(None, head.num_outputs), (None, head.num_features, head.num_actions)]
        if isinstance(shape, list | tuple) and list(shape) == shapes:
            return model
        wanted = f"{shapes} of gSDE: end it with networks.WithStateDependentStd"
        raise UsageError(f"the actor's outputs have shape {shape}, but the action space wants {wanted}")
    if shape == (None, head.num_outputs):
        return model
    if isinstance(head, NormalHead) and shape == (None, head.num_actions):
        inputs = model.inputs if isinstance(model, keras.Sequential) else model.input  # a dictionary stays one
        return keras.Model(inputs, WithLogStd(log_std_init)(model.outputs[0]), name="actor")
    wanted = f"[B, {head.num_outputs}]" + (f" or [B, {head.num_actions}]" if isinstance(head, NormalHead) else "")
    raise UsageError(f"the actor's outputs have shape {shape}, but the action space wants {wanted}")


def fit_critic(model: keras.Model) -> keras.Model:
    """A user's Keras model as a critic. Raises UsageError unless its outputs are [B, 1]."""
    shape = _output_shape(model, "critic")
    if shape != (None, 1):
        raise UsageError(f"the critic's outputs have shape {shape}, but values are [B, 1]: end it with Dense(1)")
    return model


def _output_shape(model: keras.Model, name: str) -> Shape | Sequence[Shape]:
    try:
        return model.output_shape
    except AttributeError:
        raise UsageError(
            f"the {name} is no Keras model of known inputs and outputs: build it of keras.Input, or as a "
            "keras.Sequential that begins with one"
        ) from None


def dense_layers(
    features: keras.KerasTensor, hidden_units: Sequence[int], activation: str, seed: int
) -> keras.KerasTensor:
    """Features [B, F] through the hidden layers."""
    for layer, units in enumerate(hidden_units):
        features = _dense(units, HIDDEN_GAIN, layer, seed, activation)(features)
    return features


def actor_outputs(
    features: keras.KerasTensor, head: ActionHead, depth: int, seed: int, log_std_init: float
) -> keras.KerasTensor | tuple[keras.KerasTensor, keras.KerasTensor]:
    """What the head makes a distribution of, from the features behind `depth` hidden layers."""
    if not isinstance(head, NormalHead):
        return _dense(head.num_outputs, ACTOR_GAIN, depth, seed)(features)
    means = _dense(head.num_actions, ACTOR_GAIN, depth, seed)(features)
    if isinstance(head, StateDependentNormalHead):
        return WithStateDependentStd(log_std_init)([means, features])
    return WithLogStd(log_std_init)(means)


def value_output(features: keras.KerasTensor, depth: int, seed: int) -> keras.KerasTensor:
    """Values [B, 1] from the features behind `depth` hidden layers."""
    return _dense(1, CRITIC_GAIN, depth, seed)(features)


def _trunk(
    space: gymnasium.Space, inputs: Inputs, hidden_units: Sequence[int], activation: str, seed: int
) -> keras.KerasTensor:
    return dense_layers(encode(space, inputs, seed), hidden_units, activation, seed)


def _dense(units: int, gain: float, layer: int, seed: int, activation: str | None = None) -> keras.layers.Dense:
    initializer = keras.initializers.Orthogonal(gain, seed=1_000_003 * layer + seed)
    return keras.layers.Dense(units, activation, kernel_initializer=initializer)
