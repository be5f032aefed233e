"""The actor-critic policy."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfppo.control.policies.encoders import ACTION_MASK
from tfppo.control.policies.heads import ActionHead, DiscreteHead
from tfppo.ppo.types import ActionEvaluation


class ActorCriticPolicy:
    """Acts with one Keras model, values with another; the two may share layers.

    Where observations are a dictionary with an entry "action_mask", actions whose entry is 0 are never taken [Huang and
    Ontanon 2020].

    Args:
      actor: observations [B, ...] to what the head makes a distribution of, logits [B, A] for example.
      critic: observations [B, ...] to values [B, 1].
      head: how actions are drawn; None: one of as many discrete actions as the actor has outputs.
    """

    is_recurrent = False

    def __init__(self, actor: keras.Model, critic: keras.Model, head: ActionHead | None = None):
        self.actor = actor
        self.critic = critic
        self.head = DiscreteHead(actor.output_shape[-1]) if head is None else head
        inputs = [id(x) for x in actor.inputs]
        shares_inputs = inputs == [id(x) for x in critic.inputs]
        # One model of both: shared layers are then computed once.
        self._both = keras.Model(actor.input, [actor.output, critic.output]) if shares_inputs else None

    @property
    def trainable_variables(self) -> list[Any]:
        variables = self.actor.trainable_variables + self.critic.trainable_variables
        return list({id(variable): variable for variable in variables}.values())

    def distribution(self, observations: Any) -> Any:
        """The distribution over actions at observations [B, ...]."""
        return self.head.distribution(self.actor(observations), action_mask_of(observations))

    def value(self, observations: Any) -> tf.Tensor:
        """Values [B] of observations [B, ...]."""
        return tf.squeeze(self.critic(observations), axis=-1)

    def noise(self, rows: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
        """Random numbers for `act`, [*rows, ...]: many steps' worth in one draw."""
        return self.head.noise(rows, seed)

    def act(self, observations: Any, noise: tf.Tensor) -> tuple[tf.Tensor, Any]:
        """Actions [B, ...] sampled with noise [B, ...], and the distribution that they come from."""
        return self.head.act(self.actor(observations), noise, action_mask_of(observations))

    def greedy(self, observations: Any) -> tf.Tensor:
        """The most probable actions [B, ...]."""
        return self.distribution(observations).mode()

    def initial_memory(self, num_envs: int) -> tuple[()]:
        """Nothing: this policy remembers nothing (see `recurrent.RecurrentPolicy`)."""
        del num_envs
        return ()

    def step(self, observations: Any, noise: tf.Tensor, memory: Any) -> tuple[tf.Tensor, Any, Any]:
        """As `act`, with the memory afterwards."""
        return *self.act(observations, noise), memory

    def greedy_step(self, observations: Any, memory: Any) -> tuple[tf.Tensor, Any]:
        """As `greedy`, with the memory afterwards."""
        return self.greedy(observations), memory

    def evaluate_trajectory(self, observations: Any, mask: tf.Tensor, memory: Any) -> tuple[Any, tf.Tensor]:
        """Distributions [T, B, ...] and values [T, B] at observations [T, B, ...], in one pass."""
        del mask, memory
        rows = tf.nest.flatten(observations)[0].shape[:2]
        merged = tf.nest.map_structure(lambda x: tf.reshape(x, [-1, *x.shape[2:]]), observations)
        outputs, values = self._outputs(merged)
        given = self.head.distribution(outputs, action_mask_of(merged)), tf.squeeze(values, axis=-1)
        return tf.nest.map_structure(lambda x: tf.reshape(x, [*rows, *x.shape[1:]]), given)

    def to_environment(self, actions: tf.Tensor) -> tf.Tensor:
        """What the environment gets for actions [B, ...]."""
        return self.head.to_environment(actions)

    def evaluate_actions(self, inputs: Any, actions: tf.Tensor) -> ActionEvaluation:
        """Log-probabilities and entropies of actions [N, ...] at observations [N, ...], and values."""
        outputs, values = self._outputs(inputs)
        distribution = self.head.distribution(outputs, action_mask_of(inputs))
        values = tf.squeeze(values, axis=-1)
        return ActionEvaluation(distribution.log_prob(actions), distribution.entropy(), values, distribution)

    def _outputs(self, observations: Any) -> tuple[Any, tf.Tensor]:
        return self._both(observations) if self._both else (self.actor(observations), self.critic(observations))


def action_mask_of(observations: Any) -> tf.Tensor | None:
    """Which actions are allowed, bool [B, A], where the observations say so."""
    if isinstance(observations, dict) and ACTION_MASK in observations:
        return tf.cast(observations[ACTION_MASK], tf.bool)
    return None
