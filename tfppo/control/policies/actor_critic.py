"""The actor-critic policy without a memory."""

import keras
import tensorflow as tf

from tfppo.control.envs.environment import Observations
from tfppo.control.policies.encoders import action_mask_of
from tfppo.control.policies.heads import ActionHead, DiscreteHead, Outputs
from tfppo.control.policies.policy import ControlPolicy, Memory, Structure
from tfppo.ops.nest import map_tensors, merge_time
from tfppo.ppo.types import ActionEvaluation, Distribution


class ActorCriticPolicy(ControlPolicy):
    """A policy of two Keras models: an actor and a critic, which may share layers.

    Observations may be a dictionary with an entry "action_mask". Actions whose mask is 0 are never sampled (Huang and
    Ontanon 2020).

    Args:
      actor: Maps observations [B, ...] to the inputs of the head, such as logits [B, A].
      critic: Maps observations [B, ...] to values [B, 1].
      head: The action head; None uses a `DiscreteHead` with one action for each output of the actor.
    """

    actor_memory_specs = ()

    def __init__(self, actor: keras.Model, critic: keras.Model, head: ActionHead | None = None):
        self.actor = actor
        self.critic = critic
        self.head = DiscreteHead(actor.output_shape[-1]) if head is None else head
        inputs = [id(x) for x in actor.inputs]
        shares_inputs = inputs == [id(x) for x in critic.inputs]
        # One model for both outputs computes shared layers only once.
        self._both = keras.Model(actor.input, [actor.output, critic.output]) if shares_inputs else None

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """Trainable variables of both models; shared variables appear once."""
        variables = self.actor.trainable_variables + self.critic.trainable_variables
        return list({id(variable): variable for variable in variables}.values())

    def distribution(self, observations: Observations) -> Distribution:
        """Returns the distribution over actions for observations [B, ...]."""
        return self.head.distribution(self.actor(observations), action_mask_of(observations))

    def value(self, observations: Observations) -> tf.Tensor:
        """Computes the values [B] of observations [B, ...]."""
        return tf.squeeze(self.critic(observations), axis=-1)

    def act(self, observations: Observations, noise: tf.Tensor) -> tuple[tf.Tensor, Distribution]:
        """Returns actions [B, ...] that are sampled with noise [B, ...], and their distribution."""
        return self.head.act(self.actor(observations), noise, action_mask_of(observations))

    def greedy(self, observations: Observations) -> tf.Tensor:
        """Returns the most probable actions [B, ...]."""
        return self.distribution(observations).mode()

    def initial_memory(self, num_envs: int) -> Memory:
        """Returns an empty tuple: this policy has no memory."""
        del num_envs
        return ()

    def step(
        self, observations: Observations, noise: tf.Tensor, memory: Memory
    ) -> tuple[tf.Tensor, Distribution, Memory]:
        """Samples actions [B, ...]; the memory stays empty."""
        return *self.act(observations, noise), memory

    def greedy_step(self, observations: Observations, memory: Memory) -> tuple[tf.Tensor, Memory]:
        """Returns the most probable actions [B, ...]; the memory stays empty."""
        return self.greedy(observations), memory

    def run_actor(self, observations: Observations, memory: Memory) -> tuple[Outputs, Memory]:
        """Returns the actor's outputs; the memory stays empty."""
        return self.actor(observations), memory

    def evaluate_trajectory(
        self, observations: Observations, mask: tf.Tensor, memory: Memory
    ) -> tuple[Distribution, tf.Tensor]:
        """Returns distributions and values [T, B, ...] of all observations; `mask` and `memory` have no effect."""
        del mask, memory
        rows = tf.nest.flatten(observations)[0].shape[:2]
        merged = map_tensors(merge_time, observations)  # [T * B, ...]
        outputs, values = self._outputs(merged)
        given = self.head.distribution(outputs, action_mask_of(merged)), tf.squeeze(values, axis=-1)
        return map_tensors(lambda x: tf.reshape(x, [*rows, *x.shape[1:]]), given)

    def item_size(self, rollout_length: int) -> int:
        """Returns 1: an item is a transition."""
        del rollout_length
        return 1  # transition

    def to_items(self, nest: Structure) -> Structure:
        """Merges the axes T and B of a rollout's tensors: [T, B, ...] to [T * B, ...]."""
        return map_tensors(merge_time, nest)  # [T * B, ...]

    def item_inputs(self, observations: Observations, mask: tf.Tensor, memory: Memory) -> Observations:
        """Returns the observations; `mask` and `memory` have no effect."""
        del mask, memory
        return observations

    def evaluate_actions(self, inputs: Observations, actions: tf.Tensor) -> ActionEvaluation:
        """Evaluates actions [N, ...] at observations [N, ...].

        Returns:
          Log-probabilities, entropies and values, [N] each, and the distribution.
        """
        outputs, values = self._outputs(inputs)
        distribution = self.head.distribution(outputs, action_mask_of(inputs))
        values = tf.squeeze(values, axis=-1)
        return ActionEvaluation(distribution.log_prob(actions), distribution.entropy(), values, distribution)

    def _outputs(self, observations: Observations) -> tuple[Outputs, tf.Tensor]:
        return self._both(observations) if self._both else (self.actor(observations), self.critic(observations))
