"""The actor-critic policy."""

import keras
import tensorflow as tf

from tfppo.control.envs.environment import Observations
from tfppo.control.policies.encoders import action_mask_of
from tfppo.control.policies.heads import ActionHead, DiscreteHead, Outputs
from tfppo.control.policies.policy import ControlPolicy, Memory, Structure
from tfppo.ops.nest import map_tensors, merge_time
from tfppo.ppo.types import ActionEvaluation, Distribution


class ActorCriticPolicy(ControlPolicy):
    """Acts with one Keras model, values with another; the two may share layers.

    Where observations are a dictionary with an entry "action_mask", actions whose entry is 0 are never taken [Huang and
    Ontanon 2020].

    Args:
      actor: observations [B, ...] to what the head makes a distribution of, logits [B, A] for example.
      critic: observations [B, ...] to values [B, 1].
      head: how actions are drawn; None: one of as many discrete actions as the actor has outputs.
    """

    actor_memory_specs = ()

    def __init__(self, actor: keras.Model, critic: keras.Model, head: ActionHead | None = None):
        self.actor = actor
        self.critic = critic
        self.head = DiscreteHead(actor.output_shape[-1]) if head is None else head
        inputs = [id(x) for x in actor.inputs]
        shares_inputs = inputs == [id(x) for x in critic.inputs]
        # One model of both: shared layers are then computed once.
        self._both = keras.Model(actor.input, [actor.output, critic.output]) if shares_inputs else None

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        variables = self.actor.trainable_variables + self.critic.trainable_variables
        return list({id(variable): variable for variable in variables}.values())

    def distribution(self, observations: Observations) -> Distribution:
        """Makes the distribution over actions at observations [B, ...]."""
        return self.head.distribution(self.actor(observations), action_mask_of(observations))

    def value(self, observations: Observations) -> tf.Tensor:
        """Computes values [B] of observations [B, ...]."""
        return tf.squeeze(self.critic(observations), axis=-1)

    def act(self, observations: Observations, noise: tf.Tensor) -> tuple[tf.Tensor, Distribution]:
        """Returns actions [B, ...] sampled with noise [B, ...], and the distribution that they come from."""
        return self.head.act(self.actor(observations), noise, action_mask_of(observations))

    def greedy(self, observations: Observations) -> tf.Tensor:
        """Returns the most probable actions [B, ...]."""
        return self.distribution(observations).mode()

    def initial_memory(self, num_envs: int) -> Memory:
        del num_envs
        return ()

    def step(
        self, observations: Observations, noise: tf.Tensor, memory: Memory
    ) -> tuple[tf.Tensor, Distribution, Memory]:
        return *self.act(observations, noise), memory

    def greedy_step(self, observations: Observations, memory: Memory) -> tuple[tf.Tensor, Memory]:
        return self.greedy(observations), memory

    def run_actor(self, observations: Observations, memory: Memory) -> tuple[Outputs, Memory]:
        return self.actor(observations), memory

    def evaluate_trajectory(
        self, observations: Observations, mask: tf.Tensor, memory: Memory
    ) -> tuple[Distribution, tf.Tensor]:
        del mask, memory
        rows = tf.nest.flatten(observations)[0].shape[:2]
        merged = map_tensors(merge_time, observations)  # [T * B, ...]
        outputs, values = self._outputs(merged)
        given = self.head.distribution(outputs, action_mask_of(merged)), tf.squeeze(values, axis=-1)
        return map_tensors(lambda x: tf.reshape(x, [*rows, *x.shape[1:]]), given)

    def item_size(self, rollout_length: int) -> int:
        del rollout_length
        return 1  # transition

    def to_items(self, nest: Structure) -> Structure:
        return map_tensors(merge_time, nest)  # [T * B, ...]

    def item_inputs(self, observations: Observations, mask: tf.Tensor, memory: Memory) -> Observations:
        del mask, memory
        return observations

    def evaluate_actions(self, inputs: Observations, actions: tf.Tensor) -> ActionEvaluation:
        """Computes log-probabilities and entropies of actions [N, ...] at observations [N, ...], and values."""
        outputs, values = self._outputs(inputs)
        distribution = self.head.distribution(outputs, action_mask_of(inputs))
        values = tf.squeeze(values, axis=-1)
        return ActionEvaluation(distribution.log_prob(actions), distribution.entropy(), values, distribution)

    def _outputs(self, observations: Observations) -> tuple[Outputs, tf.Tensor]:
        return self._both(observations) if self._both else (self.actor(observations), self.critic(observations))
