"""The LSTM language model of the article (section 4.3), as a Keras model."""

import keras
import tensorflow as tf
from keras_hub.layers import ReversibleEmbedding

from tfppo.text.config import NewModelConfig


@keras.saving.register_keras_serializable(package="tfppo")
class LSTMLanguageModel(keras.Model):
    """A token embedding, LSTM layers (Hochreiter and Schmidhuber 1997), and the same embedding for the logits.

    It is called like a KerasHub CausalLM, with `{"token_ids": int [B, S], "padding_mask": [B, S]}`, and returns logits
    [B, S, V]. The mask is ignored, because padding is on the right and does not change the logits of real tokens.

    Args:
      vocabulary_size: V, the number of tokens in the vocabulary.
      num_layers: Number of LSTM layers.
      hidden_dim: D, width of the embedding and of every layer.
      dropout: Dropout rate after the embedding and after every layer.
      **kwargs: Of `keras.Model`.
    """

    def __init__(self, vocabulary_size: int, num_layers: int, hidden_dim: int, dropout: float = 0.1, **kwargs: object):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.num_layers = num_layers
        self.hidden_dim = hidden_dim
        self.dropout = dropout
        self.token_embedding = ReversibleEmbedding(
            vocabulary_size, hidden_dim, embeddings_initializer=keras.initializers.RandomNormal(stddev=0.02)
        )
        self.lstm_layers = [keras.layers.LSTM(hidden_dim, return_sequences=True) for _ in range(num_layers)]
        self.dropouts = [keras.layers.Dropout(dropout) for _ in range(num_layers + 1)]
        self.build({"token_ids": (None, None), "padding_mask": (None, None)})

    def build(self, input_shape: dict[str, tuple[int | None, ...]]) -> None:
        """Creates the weights, which do not depend on the shape of the input."""
        self.token_embedding.build((None, None))
        for layer in self.lstm_layers:
            layer.build((None, None, self.hidden_dim))
        self.built = True

    def call(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Computes logits [B, S, V]; dropout is on only in training."""
        return self.token_embedding(self.hidden_states(inputs["token_ids"], training), reverse=True)

    def hidden_states(self, token_ids: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Computes the outputs [B, S, D] of the last layer for token ids [B, S]; dropout is on only in training."""
        x = self.dropouts[0](self.token_embedding(token_ids), training=training)
        for layer, dropout in zip(self.lstm_layers, self.dropouts[1:], strict=True):
            x = dropout(layer(x), training=training)
        return x

    def get_config(self) -> dict[str, int | float]:
        """Returns the arguments with which Keras creates the model again."""
        return {
            "vocabulary_size": self.vocabulary_size,
            "num_layers": self.num_layers,
            "hidden_dim": self.hidden_dim,
            "dropout": self.dropout,
        }


def make_lstm(vocabulary_size: int, config: NewModelConfig) -> LSTMLanguageModel:
    """Makes an LSTM language model with new weights.

    Args:
      vocabulary_size: V, the number of tokens in the vocabulary.
      config: Sizes and dropout.

    Returns:
      The model.
    """
    return LSTMLanguageModel(vocabulary_size, config.num_layers, config.hidden_dim, config.dropout)
