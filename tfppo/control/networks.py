"""The actor and the critic as Keras models."""

from collections.abc import Sequence

import gymnasium
import keras

from tfppo.errors import UsageError


def mlp(
    input_shape: tuple[int, ...],
    hidden_units: Sequence[int],
    output_units: int,
    *,
    output_gain: float,
    activation: str = "tanh",
    seed: int = 0,
    name: str | None = None,
) -> keras.Model:
    """A multi-layer perceptron of observations [B, ...] to outputs [B, output_units].

    Orthogonal weights of gain sqrt(2) in the hidden layers and `output_gain` at the output, biases 0 [Huang et al.
    2022, "The 37 implementation details of PPO", detail 2].
    """

    def dense(units, gain, layer, activation=None):
        initializer = keras.initializers.Orthogonal(gain, seed=1_000_003 * layer + seed)
        return keras.layers.Dense(units, activation, kernel_initializer=initializer)

    inputs = keras.Input(input_shape)
    x = inputs if len(input_shape) == 1 else keras.layers.Flatten()(inputs)
    for layer, units in enumerate(hidden_units):
        x = dense(units, 2**0.5, layer, activation)(x)
    outputs = dense(output_units, output_gain, len(hidden_units))(x)
    return keras.Model(inputs, outputs, name=name)


def make_actor(
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    hidden_units: Sequence[int],
    activation: str = "tanh",
    seed: int = 0,
) -> keras.Model:
    """Observations [B, ...] to the logits [B, A] of a discrete action space's A actions.

    Raises:
      UsageError: if a space is of a kind that is not supported.
    """
    check_spaces(observation_space, action_space)
    return mlp(
        observation_space.shape,
        hidden_units,
        int(action_space.n),
        output_gain=0.01,
        activation=activation,
        seed=2 * seed,
        name="actor",
    )


def make_critic(
    observation_space: gymnasium.Space, hidden_units: Sequence[int], activation: str = "tanh", seed: int = 0
) -> keras.Model:
    """Observations [B, ...] to values [B, 1]."""
    return mlp(
        observation_space.shape,
        hidden_units,
        1,
        output_gain=1.0,
        activation=activation,
        seed=2 * seed + 1,
        name="critic",
    )


def check_spaces(observation_space: gymnasium.Space, action_space: gymnasium.Space) -> None:
    """Raises UsageError unless observations are a Box and actions are Discrete from 0."""
    if not isinstance(action_space, gymnasium.spaces.Discrete) or action_space.start != 0:
        raise UsageError(
            f"action space {action_space} is not supported: use an environment with Discrete actions from 0"
        )
    if not isinstance(observation_space, gymnasium.spaces.Box):
        raise UsageError(f"observation space {observation_space} is not supported: use one with Box observations")
