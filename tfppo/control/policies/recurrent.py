"""Recurrent policies: an actor and a critic that remember the episode in an LSTM (the document's section 4.3).

Their unit of training is one environment with the whole time of a rollout, replayed from the memory that it began with.
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
    """What a recurrent policy evaluates actions in: N environments, each from a memory on."""

    observations: Observations  # [N, T, ...]
    mask: tf.Tensor  # [N, T] bool, False where the step only started a new episode
    memory: Memory  # [N, ...] before the first step


class RecurrentPolicy(ControlPolicy):
    """Acts and values with one Keras model each, whose LSTM state is the policy's memory.

    Args:
      actor: (observations [B, ...], h [B, U], c [B, U]) to (what the head makes a distribution of, h, c).
      critic: the same with values [B, 1] in front; both with one keras.layers.LSTMCell in the middle.
      head: how actions are drawn.
    """

    def __init__(self, actor: keras.Model, critic: keras.Model, head: ActionHead):
        self.actor = actor
        self.critic = critic
        self.head = head
        self._parts = [_take_apart(model) for model in (actor, critic)]

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        return self.actor.trainable_variables + self.critic.trainable_variables

    @property
    def actor_memory_specs(self) -> tuple[tf.TensorSpec, ...]:
        return tuple(tf.TensorSpec([None, x.shape[-1]], tf.float32) for x in self.actor.output[-2:])

    def initial_memory(self, num_envs: int) -> Memory:
        """Returns zeros [B, U]: (h, c) of the actor and (h, c) of the critic."""
        return tuple(
            tf.zeros([num_envs, model.output[-1].shape[-1]]) for model in (self.actor, self.critic) for _ in range(2)
        )

    def step(
        self, observations: Observations, noise: tf.Tensor, memory: Memory
    ) -> tuple[tf.Tensor, Distribution, Memory]:
        outputs, _, memory = self._advance(observations, memory)
        return *self.head.act(outputs, noise, action_mask_of(observations)), memory

    def greedy_step(self, observations: Observations, memory: Memory) -> tuple[tf.Tensor, Memory]:
        outputs, _, memory = self._advance(observations, memory)
        return self.head.distribution(outputs, action_mask_of(observations)).mode(), memory

    def run_actor(self, observations: Observations, memory: Memory) -> tuple[Outputs, Memory]:
        outputs, *memory = self.actor([observations, *memory])
        return outputs, tuple(memory)

    def evaluate_trajectory(
        self, observations: Observations, mask: tf.Tensor, memory: Memory
    ) -> tuple[Distribution, tf.Tensor]:
        outputs, values = self._unroll(observations, mask, memory)
        return self.head.distribution(outputs, action_mask_of(observations)), values

    def item_size(self, rollout_length: int) -> int:
        return rollout_length  # an item is an environment with the whole time of a rollout

    def to_items(self, nest: Structure) -> Structure:
        return map_tensors(swap_time, nest)  # [B, T, ...]

    def item_inputs(self, observations: Observations, mask: tf.Tensor, memory: Memory) -> SequenceInputs:
        return SequenceInputs(observations, mask, memory)

    def evaluate_actions(self, inputs: SequenceInputs, actions: tf.Tensor) -> ActionEvaluation:
        """Computes log-probabilities, entropies and values [N, T] of actions [N, T, ...]."""
        observations, mask, actions = map_tensors(swap_time, (inputs.observations, inputs.mask, actions))
        distribution, values = self.evaluate_trajectory(observations, mask, inputs.memory)
        evaluation = (distribution.log_prob(actions), distribution.entropy(), values, distribution)
        return ActionEvaluation(*map_tensors(swap_time, evaluation))

    def _advance(self, observations: Observations, memory: Memory) -> tuple[Outputs, tf.Tensor, Memory]:
        """Outputs of the actor, values [B], and the memory after one step."""
        outputs, acted = self.run_actor(observations, memory[:2])
        values, *valued = self.critic([observations, *memory[2:]])
        return outputs, tf.squeeze(values, axis=-1), (*acted, *valued)

    def _unroll(self, observations: Observations, mask: tf.Tensor, memory: Memory) -> tuple[Outputs, tf.Tensor]:
        """Outputs of the actor [T, B, ...] and values [T, B]; memory is zero behind a step that the mask leaves out."""
        rows = tf.nest.flatten(observations)[0].shape[:2]
        merged = map_tensors(merge_time, observations)  # [T * B, ...]
        mask = tf.pad(mask, [[0, rows[0] - mask.shape[0]], [0, 0]])  # behind the last step nothing follows
        features = [tf.reshape(part.encoder(merged), [*rows, -1]) for part in self._parts]
        hidden = unroll([part.cell for part in self._parts], features, mask, memory)
        outputs = [part.decoder(tf.reshape(x, [-1, x.shape[-1]])) for part, x in zip(self._parts, hidden, strict=True)]
        outputs, values = map_tensors(lambda x: tf.reshape(x, [*rows, *x.shape[1:]]), outputs)
        return outputs, tf.squeeze(values, axis=-1)


class _Parts(NamedTuple):
    """What a recurrent model consists of; the weights are the model's."""

    encoder: keras.Model  # observations [B, ...] to features [B, F]
    cell: keras.layers.LSTMCell
    decoder: keras.Model  # hidden states [B, U] to outputs


def _take_apart(model: keras.Model) -> _Parts:
    cells = [layer for layer in model.layers if isinstance(layer, keras.layers.LSTMCell)]
    if len(cells) != 1:
        raise UsageError(f"the {model.name} has {len(cells)} layers of keras.layers.LSTMCell, but wants exactly one")
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
    """A recurrent policy: encoded observations, an LSTM, then hidden layers; actor and critic apart.

    The LSTM has orthogonal weights of gain 1 and zero biases, but 1 for the forget gates (Keras' default).
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
