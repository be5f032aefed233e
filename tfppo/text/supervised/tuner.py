"""The Keras model whose `fit` minimizes the negative log-likelihood of tokens.

Its losses are means over tokens. The means of Keras' own losses over an epoch weight each batch by its rows, although
batches have different numbers of tokens. A gradient step whose loss or gradient is not finite is skipped.
"""

import math

import keras
import tensorflow as tf

from tfppo.ppo.guard import Guard

Data = tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]  # inputs, targets [B, S] and weights [B, S] of a batch


class Tuner(keras.Model):
    """Trains a network on the likelihood of tokens.

    Args:
      network: A model of `training_network`.
    """

    def __init__(self, network: keras.Model):
        super().__init__()
        self.network = network
        self.guard = Guard()
        self.nll = keras.metrics.Mean(name="loss")
        self.accuracy = keras.metrics.Mean(name="accuracy")
        self.built = True

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The means over tokens, which `fit` resets at the start of an epoch and of a validation."""
        return [self.nll, self.accuracy]

    def mean_loss(self) -> float:
        """Returns the mean loss since the metrics were reset; NaN if all steps were skipped."""
        return float(self.nll.result()) if float(self.nll.count) else math.nan

    def call(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Computes logits, float32 [B, S, V]."""
        return self.network(inputs, training=training)

    def train_step(self, data: Data) -> dict[str, keras.Variable]:
        """Takes a gradient step on the mean loss over the counted tokens of a batch."""
        inputs, targets, weights = data
        variables = self.network.trainable_weights
        with tf.GradientTape() as tape:
            losses, hits = self.network.measures(inputs, targets, training=True)
            loss = tf.math.divide_no_nan(tf.reduce_sum(losses * weights), tf.reduce_sum(weights))
            total = tf.add_n([loss, *map(tf.cast, self.network.losses, [loss.dtype] * len(self.network.losses))])
        gradients = tape.gradient(total, variables)
        norm = tf.linalg.global_norm(gradients)
        found = self.guard.of_step(total, norm)

        def take() -> tf.Tensor:
            self.optimizer.apply(gradients, variables)
            self._measure(weights, losses, hits)
            return self.guard.count(found)

        tf.cond(found < 0, take, lambda: self.guard.count(found))
        return {metric.name: metric.result() for metric in self.metrics}

    def test_step(self, data: Data) -> dict[str, keras.Variable]:
        """Measures the losses of a batch."""
        inputs, targets, weights = data
        self._measure(weights, *self.network.measures(inputs, targets, training=False))
        return {metric.name: metric.result() for metric in self.metrics}

    def _measure(self, weights: tf.Tensor, losses: tf.Tensor, hits: tf.Tensor) -> None:
        weights = tf.reshape(weights, [-1])  # Keras averages the tokens of each row of a matrix first
        self.nll.update_state(tf.reshape(losses, [-1]), weights)
        self.accuracy.update_state(tf.reshape(hits, [-1]), weights)


def token_losses(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Computes the negative log-likelihood of each token.

    Args:
      targets: int [B, S], the tokens.
      logits: float [B, S, V].

    Returns:
      The losses in nats, float32 [B, S].
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets, logits=tf.cast(logits, tf.float32))


def perplexity(loss: float) -> float:
    """Computes the perplexity of a mean loss in nats; infinite if it is too large for a float."""
    return math.exp(loss) if loss < 700 else math.inf
