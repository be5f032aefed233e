"""The network and the loss of reward models."""

import keras
import tensorflow as tf

from tfppo.text.models.reference import as_language_model, states_network
from tfppo.text.models.rematerialization import layers_of, rematerialized
from tfppo.text.supervised.tuner import Measures, Tuner

Data = tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]  # inputs, pairs [P, 2] and margins [P] of a batch


class RewardNetwork(keras.Model):
    """A language model with a linear head on the hidden state of the last token.

    Args:
      model: A KerasHub CausalLM or an `LSTMLanguageModel`.
      seed: Seed of the head.
      rematerialize: True computes the layers again in the backward pass.

    Raises:
      UsageError: If the layers cannot be computed again.
    """

    def __init__(self, model: keras.Model, seed: int, rematerialize: bool = False):
        super().__init__()
        self.model = model
        self.states = states_network(model)
        self.recomputed = tuple(layers_of(model)) if rematerialize else ()
        width = as_language_model(model).hidden_dim
        self.head = keras.layers.Dense(
            1,  # initial kernel N(0, 1 / (D + 1)) and bias 0 (Ziegler et al. 2019, section 2.1)
            kernel_initializer=keras.initializers.RandomNormal(stddev=(width + 1) ** -0.5, seed=seed),
            dtype="float32",
        )
        self.head.build([None, width])
        self.built = True

    def call(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Computes scores.

        Args:
          inputs: "token_ids" and "padding_mask", int [R, S] each; the mask is 1 at tokens and 0 at padding.
          training: True uses dropout.

        Returns:
          Scores, float32 [R].
        """
        with rematerialized(self.recomputed):
            hidden = self.states(inputs, training=training)  # [R, S, D]
        last = tf.reduce_sum(inputs["padding_mask"], axis=1) - 1
        return self.head(tf.gather(hidden, last, axis=1, batch_dims=1))[:, 0]


class RewardTuner(Tuner):
    """Trains a `RewardNetwork` on pairs of texts."""

    kind = "reward_model"
    network: RewardNetwork

    @property
    def new_weights(self) -> list[keras.Variable]:
        """The weights of the head."""
        return list(self.network.head.weights)

    def measures(self, data: Data, training: bool) -> Measures:
        """Measures the loss of the pairs of a batch, and whether the better text has the higher score."""
        inputs, pairs, margins = data
        scores = tf.pad(self(inputs, training=training), [[0, 1]])  # [R + 1]; the last one is that of a neutral text
        better, worse = tf.unstack(tf.gather(scores, pairs), num=2, axis=1)  # [P] each
        weights = tf.ones_like(margins)
        return {
            "loss": (comparison_losses(better, worse, margins), weights),
            "accuracy": (tf.cast(better > worse, tf.float32), weights),
        }


def comparison_losses(better: tf.Tensor, worse: tf.Tensor, margins: tf.Tensor) -> tf.Tensor:
    """Computes the losses of pairs of texts, `-log sigmoid(r_better - r_worse - margin)`.

    Source: Bradley and Terry 1952; as the loss of a reward model: Stiennon et al. 2020, section 3.4, and Ouyang et al.
    2022, equation 1; with a margin: Touvron et al. 2023 (Llama 2), equation 2.

    Args:
      better: `r`, scores of the texts that were preferred, float [P].
      worse: Scores of the others, float [P].
      margins: float [P].

    Returns:
      The losses in nats, float [P].
    """
    return tf.nn.softplus(margins - (better - worse))
