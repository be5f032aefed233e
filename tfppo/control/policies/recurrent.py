"""Recurrent policies: an actor and a critic with an LSTM as the memory of the episode (the article, section 4.3).

An item of the learner's batch is one environment with all steps of a rollout, which is unrolled from the memory before
its first step.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import gymnasium
import keras
import tensorflow as tf

from tfppo.control.envs.environment import Observations
from tfppo.control.policies.encoders import action_mask_of, encode, make_inputs
from tfppo.control.policies.heads import ActionHead, Outputs
from tfppo.control.policies.lstm import unroll
from tfppo.control.policies.networks import actor_outputs, dense_layers, value_output
from tfppo.control.policies.policy import ControlPolicy, Memory, Structure
from tfppo.errors import UsageError
from tfppo.ops.nest import map_tensors, merge_time, swap_time
from tfppo.ppo.types import ActionEvaluation, Distribution


class SequenceInputs(NamedTuple):
    """The inputs of a recurrent policy's `evaluate_actions`: N environments with all steps of a rollout."""

    observations: Observations  # [N, T, ...]
    mask: tf.Tensor  # [N, T] bool, False where the step only started a new episode
    memory: Memory  # [N, ...], before the first step


class RecurrentPolicy(ControlPolicy):
    """A policy of two Keras models, an actor and a critic, whose LSTM states are the policy's memory.

    Each model contains exactly one `keras.layers.LSTMCell`.

    Args:
      actor: Maps (observations [B, ...], h [B, U], c [B, U]) to (inputs of the head, h, c).
      critic: Maps (observations [B, ...], h [B, U], c [B, U]) to (values [B, 1], h, c).
      head: The action head.

    Raises:
      UsageError: If a model does not contain exactly one `keras.layers.LSTMCell`.
    """

    def __init__(self, actor: keras.Model, critic: keras.Model, head: ActionHead):
        self.actor = actor
        self.critic = critic
        self.head = head
        self._parts = [_take_apart(model) for model in (actor, critic)]

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """Trainable variables of the actor and the critic."""
        return self.actor.trainable_variables + self.critic.trainable_variables

    @property
    def actor_memory_specs(self) -> tuple[tf.TensorSpec, ...]:
        """Specs of the actor's h and c, [None, U] each."""
        return tuple(tf.TensorSpec([None, x.shape[-1]], tf.float32) for x in self.actor.output[-2:])

    def initial_memory(self, num_envs: int) -> Memory:
        """Returns zeros [B, U]: h and c of the actor, then h and c of the critic."""
        return tuple(
            tf.zeros([num_envs, model.output[-1].shape[-1]]) for model in (self.actor, self.critic) for _ in range(2)
        )

    def step(
        self, observations: Observations, noise: tf.Tensor, memory: Memory
    ) -> tuple[tf.Tensor, Distribution, Memory]:
        """Samples actions [B, ...], and advances the memory by one step."""
        outputs, _, memory = self._advance(observations, memory)
        return *self.head.act(outputs, noise, action_mask_of(observations)), memory

    def greedy_step(self, observations: Observations, memory: Memory) -> tuple[tf.Tensor, Memory]:
        """Returns the most probable actions [B, ...], and advances the memory by one step."""
        outputs, _, memory = self._advance(observations, memory)
        return self.head.distribution(outputs, action_mask_of(observations)).mode(), memory

    def run_actor(self, observations: Observations, memory: Memory) -> tuple[Outputs, Memory]:
        """Returns the actor's outputs, and its h and c after the step."""
        outputs, *memory = self.actor([observations, *memory])
        return outputs, tuple(memory)

    def evaluate_trajectory(
        self, observations: Observations, mask: tf.Tensor, memory: Memory
    ) -> tuple[Distribution, tf.Tensor]:
        """Returns distributions [T, B, ...] and values [T, B]; both LSTMs are unrolled from `memory`."""
        outputs, values = self._unroll(observations, mask, memory)
        return self.head.distribution(outputs, action_mask_of(observations)), values

    def item_size(self, rollout_length: int) -> int:
        """Returns `rollout_length`: an item is one environment with all steps of a rollout."""
        return rollout_length  # transitions in an item: all steps of one environment

    def to_items(self, nest: Structure) -> Structure:
        """Swaps the axes T and B of a rollout's tensors: [T, B, ...] to [B, T, ...]."""
        return map_tensors(swap_time, nest)  # [B, T, ...]

    def item_inputs(self, observations: Observations, mask: tf.Tensor, memory: Memory) -> SequenceInputs:
        """Returns observations, mask and memory as `SequenceInputs`."""
        return SequenceInputs(observations, mask, memory)

    def evaluate_actions(self, inputs: SequenceInputs, actions: tf.Tensor) -> ActionEvaluation:
        """Evaluates actions [N, T, ...].

        Returns:
          Log-probabilities, entropies and values, [N, T] each, and the distribution.
        """
        observations, mask, actions = map_tensors(swap_time, (inputs.observations, inputs.mask, actions))
        distribution, values = self.evaluate_trajectory(observations, mask, inputs.memory)
        evaluation = (distribution.log_prob(actions), distribution.entropy(), values, distribution)
        return ActionEvaluation(*map_tensors(swap_time, evaluation))

    def _advance(self, observations: Observations, memory: Memory) -> tuple[Outputs, tf.Tensor, Memory]:
        """Returns the actor's outputs, values [B], and the memory after one step."""
        outputs, acted = self.run_actor(observations, memory[:2])
        values, *valued = self.critic([observations, *memory[2:]])
        return outputs, tf.squeeze(values, axis=-1), (*acted, *valued)

    def _unroll(self, observations: Observations, mask: tf.Tensor, memory: Memory) -> tuple[Outputs, tf.Tensor]:
        """Returns the actor's outputs [T, B, ...] and values [T, B].

        The memory is zero after a step where the mask is False.
        """
        rows = tf.nest.flatten(observations)[0].shape[:2]
        merged = map_tensors(merge_time, observations)  # [T * B, ...]
        mask = tf.pad(mask, [[0, rows[0] - mask.shape[0]], [0, 0]])  # the memory after the last step is not used
        features = [tf.reshape(part.encoder(merged), [*rows, -1]) for part in self._parts]
        hidden = unroll([part.cell for part in self._parts], features, mask, memory)
        outputs = [part.decoder(tf.reshape(x, [-1, x.shape[-1]])) for part, x in zip(self._parts, hidden, strict=True)]
        outputs, values = map_tensors(lambda x: tf.reshape(x, [*rows, *x.shape[1:]]), outputs)
        return outputs, tf.squeeze(values, axis=-1)


class _Parts(NamedTuple):
    """The three parts of a recurrent model; they share the model's weights."""

    encoder: keras.Model  # observations [B, ...] to features [B, F]
    cell: keras.layers.LSTMCell
    decoder: keras.Model  # hidden states [B, U] to outputs


def _take_apart(model: keras.Model) -> _Parts:
    cells = [layer for layer in model.layers if isinstance(layer, keras.layers.LSTMCell)]
    if len(cells) != 1:
        raise UsageError(
            f"the {model.name} has {len(cells)} layers of type keras.layers.LSTMCell; it must have exactly one: change "
            "the model"
        )
    (cell,) = cells
    encoder = keras.Model(model.input[0], cell.input[0])
    return _Parts(encoder, cell, keras.Model(cell.output[0], model.output[0]))


def make_recurrent(
    observation_space: gymnasium.Space,
    head: ActionHead,
    lstm_units: int,
    hidden_units: Sequence[int] = (64,),
    activation: str = "tanh",
    seed: int = 0,
    log_std_init: float = 0.0,
) -> RecurrentPolicy:
    """Makes a recurrent policy: an encoder, an LSTM and hidden layers, separately for the actor and the critic.

    The LSTM has orthogonal weights of gain 1. Its biases are 1 for the forget gates and 0 for the others (Keras'
    default).

    Args:
      observation_space: The space of a single environment's observations.
      head: The action head.
      lstm_units: Units of the LSTM.
      hidden_units: Widths of the hidden layers after the LSTM.
      activation: Activation function of the hidden layers.
      seed: Seed of the initial weights.
      log_std_init: Initial log standard deviation of continuous actions.

    Returns:
      The policy.

    Raises:
      UsageError: If the observation space is not supported.
    """

    def make(name: str, number: int, end: Callable[[keras.KerasTensor], keras.KerasTensor]) -> keras.Model:
        inputs = make_inputs(observation_space)
        memory = [keras.Input((lstm_units,), name=f"memory_{part}") for part in ("h", "c")]
        orthogonal = [keras.initializers.Orthogonal(seed=1_000_003 * (200 + n) + number) for n in range(2)]
        cell = keras.layers.LSTMCell(lstm_units, kernel_initializer=orthogonal[0], recurrent_initializer=orthogonal[1])
        hidden, carried = cell(encode(observation_space, inputs, number), memory)
        return keras.Model(
            [inputs, *memory], [end(dense_layers(hidden, hidden_units, activation, number)), *carried], name=name
        )

    depth = len(hidden_units)
    actor = make("actor", 2 * seed, lambda x: actor_outputs(x, head, depth, 2 * seed, log_std_init))
    critic = make("critic", 2 * seed + 1, lambda x: value_output(x, depth, 2 * seed + 1))
    return RecurrentPolicy(actor, critic, head)
