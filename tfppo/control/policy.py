"""A policy for control: an actor and a critic, and how their outputs become actions."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfppo.distributions import Categorical
from tfppo.types import Evaluation


class ActorCriticPolicy:
    """Acts with one Keras model, values with another, over a discrete action space.

    Args:
      actor: observations [B, ...] to logits [B, A].
      critic: observations [B, ...] to values [B, 1].
    """

    def __init__(self, actor: keras.Model, critic: keras.Model):
        self.actor = actor
        self.critic = critic

    @property
    def trainable_variables(self) -> list[Any]:
        return self.actor.trainable_variables + self.critic.trainable_variables

    def distribution(self, observations: tf.Tensor) -> Categorical:
        """The distribution over actions at observations [B, ...]."""
        return Categorical(self.actor(observations))

    def value(self, observations: tf.Tensor) -> tf.Tensor:
        """Values [B] of observations [B, ...]."""
        return tf.squeeze(self.critic(observations), axis=-1)

    def noise(self, rows: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
        """Random numbers for `act`, [*rows, A]: many steps' worth in one draw."""
        return Categorical.noise([*rows, self.actor.output_shape[-1]], seed)

    def act(self, observations: tf.Tensor, noise: tf.Tensor) -> tuple[tf.Tensor, Categorical]:
        """Actions [B] sampled with noise [B, A], and the distribution that they come from."""
        distribution = self.distribution(observations)
        return distribution.reparameterize(noise), distribution

    def greedy(self, observations: tf.Tensor) -> tf.Tensor:
        """The most probable actions [B]."""
        return self.distribution(observations).mode()

    def evaluate(self, inputs: tf.Tensor, actions: tf.Tensor) -> Evaluation:
        """Log-probabilities and entropies of actions [N] at observations [N, ...], and values."""
        distribution = self.distribution(inputs)
        return Evaluation(distribution.log_prob(actions), distribution.entropy(), self.value(inputs), distribution)
