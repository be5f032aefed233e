"""The Keras model whose `fit` takes the gradient steps of a supervised training.

Its losses are means over tokens or pairs. The means of Keras' own losses over an epoch weight each batch by its rows,
although batches have different numbers of tokens or pairs. A gradient step whose loss or gradient is not finite is
skipped.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import keras
import tensorflow as tf

from tfppo.ppo.guard import Guard

Measures = dict[str, tuple[tf.Tensor, tf.Tensor]]
"""Values [N] and their weights [N] by name. The weighted mean of `loss` is minimized."""


class Tuner(keras.Model):
    """Trains a network. A subclass measures it.

    Args:
      network: The network with the weights to train.
    """

    kind: ClassVar[str]
    """First part of the names of the metrics of the training."""

    def __init__(self, network: keras.Model):
        super().__init__()
        self.network = network
        self.guard = Guard()
        self.means = {name: keras.metrics.Mean(name=name) for name in ("loss", "accuracy")}
        self.built = True

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The means, which `fit` resets at the start of an epoch and of a validation."""
        return list(self.means.values())

    @property
    def new_weights(self) -> list[keras.Variable]:
        """The weights of the network that are not weights of the language model, in a fixed order."""
        return []

    def mean_loss(self) -> float:
        """Returns the mean loss since the metrics were reset; NaN if nothing was measured or all steps were skipped."""
        loss = self.means["loss"]
        return float(loss.result()) if float(loss.count) else math.nan

    def measures(self, data: Any, training: bool) -> Measures:
        """Measures a batch.

        Args:
          data: An element of the dataset.
          training: True uses dropout.

        Returns:
          Values and weights for "loss" and "accuracy".
        """
        raise NotImplementedError

    def validation_row(self, found: Mapping[str, float]) -> dict[str, float]:
        """Returns the metrics of a validation by name, from the means over the validation examples."""
        return {f"validation/{name}": value for name, value in found.items()}

    def call(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Calls the network."""
        return self.network(inputs, training=training)

    def train_step(self, data: Any) -> dict[str, keras.Variable]:
        """Takes a gradient step on the mean loss of a batch."""
        with tf.GradientTape() as tape:
            found = self.measures(data, training=True)
            losses, weights = found["loss"]
            loss = tf.math.divide_no_nan(tf.reduce_sum(losses * weights), tf.reduce_sum(weights))
            total = tf.add_n([loss, *map(tf.cast, self.network.losses, [loss.dtype] * len(self.network.losses))])
        variables = self.network.trainable_weights
        pairs = zip(tape.gradient(total, variables), variables, strict=True)
        used = [(gradient, variable) for gradient, variable in pairs if gradient is not None]
        gradients = [gradient for gradient, _ in used]
        culprit = self.guard.of_step(total, tf.linalg.global_norm(gradients))

        def take() -> tf.Tensor:
            self.optimizer.apply(gradients, [variable for _, variable in used])
            self._record(found)
            return self.guard.count(culprit)

        tf.cond(culprit < 0, take, lambda: self.guard.count(culprit))
        return {metric.name: metric.result() for metric in self.metrics}

    def test_step(self, data: Any) -> dict[str, keras.Variable]:
        """Measures a batch."""
        self._record(self.measures(data, training=False))
        return {metric.name: metric.result() for metric in self.metrics}

    def _record(self, found: Measures) -> None:
        for name, (values, weights) in found.items():
            self.means[name].update_state(values, weights)
