"""The loss of supervised fine-tuning: the negative log-likelihood of tokens."""

import math
from collections.abc import Mapping

import tensorflow as tf

from tfppo.text.supervised.tuner import Measures, Tuner

Data = tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]  # inputs, targets [R, S] and weights [R, S] of a batch


class SFTTuner(Tuner):
    """Trains a network of `training_network` on the likelihood of tokens."""

    kind = "sft"

    def measures(self, data: Data, training: bool) -> Measures:
        """Measures the losses of the counted tokens of a batch, and whether they have the highest probability."""
        inputs, targets, weights = data
        losses, hits = self.network.measures(inputs, targets, training)
        flat = tf.reshape(weights, [-1])  # Keras averages the tokens of each row of a matrix first
        return {"loss": (tf.reshape(losses, [-1]), flat), "accuracy": (tf.reshape(hits, [-1]), flat)}

    def validation_row(self, found: Mapping[str, float]) -> dict[str, float]:
        """Adds the perplexity to the metrics of a validation."""
        loss = found["loss"]
        return {
            "validation/loss": loss,
            "validation/perplexity": perplexity(loss),
            "validation/accuracy": found["accuracy"],
        }


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
