"""The document's language model of section 4.3: an LSTM over words, in Keras."""

import keras
import tensorflow as tf
from keras_hub.layers import ReversibleEmbedding

from tfppo.text.config import PretrainConfig


@keras.saving.register_keras_serializable(package="tfppo")
class LSTMLanguageModel(keras.Model):
    """Embedding, LSTM layers [Hochreiter and Schmidhuber 1997], and the embedding again for the logits.

    Called like a KerasHub CausalLM: {"token_ids": int [B, S], "padding_mask": [B, S]} to logits [B, S, V]. The mask is
    not looked at: padding stands on the right, where nothing that counts reads it.

    Args:
      vocabulary_size: V.
      num_layers: LSTM layers.
      hidden_dim: D, width of the embedding and of every layer.
      dropout: after the embedding and after every layer.
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
        self.token_embedding.build((None, None))
        for layer in self.lstm_layers:
            layer.build((None, None, self.hidden_dim))
        self.built = True

    def call(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        return self.token_embedding(self.hidden_states(inputs["token_ids"], training), reverse=True)

    def hidden_states(self, token_ids: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The last layer's outputs [B, S, D] for tokens [B, S]."""
        x = self.dropouts[0](self.token_embedding(token_ids), training=training)
        for layer, dropout in zip(self.lstm_layers, self.dropouts[1:], strict=True):
            x = dropout(layer(x), training=training)
        return x

    def get_config(self) -> dict[str, int | float]:
        return {
            "vocabulary_size": self.vocabulary_size,
            "num_layers": self.num_layers,
            "hidden_dim": self.hidden_dim,
            "dropout": self.dropout,
        }


def make_lstm(vocabulary_size: int, config: PretrainConfig) -> LSTMLanguageModel:
    """An LSTM language model with fresh weights."""
    return LSTMLanguageModel(vocabulary_size, config.num_layers, config.hidden_dim, config.dropout)
