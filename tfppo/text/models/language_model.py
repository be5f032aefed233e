"""Language models behind one interface: whole sequences for scoring and training, one token at a time for sampling.

Three kinds: any KerasHub CausalLM through its `call_with_cache`, GPT-2 by a faster path of its own (`gpt2.py`), and
the document's LSTM with its carried state.
"""

from abc import ABC, abstractmethod

import keras
import keras_hub
import tensorflow as tf

from tfppo.text.models import backbones
from tfppo.text.models.lstm import LSTMLanguageModel

State = tuple[tf.Tensor, ...]


class LanguageModel(ABC):
    """What sampling and PPO ask of a language model. B sequences of S tokens, V tokens in the vocabulary, width D.

    Prompts are ragged and padded on the RIGHT: a causal model never looks to the right, so what is padded, and how
    much, changes nothing that counts.

    Args:
      model: the Keras model, which owns the weights.
    """

    def __init__(self, model: keras.Model):
        self.model = model

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """The weights that training changes, in a fixed order."""
        return self.model.trainable_variables

    @property
    @abstractmethod
    def vocabulary_size(self) -> int:
        """V."""

    @property
    @abstractmethod
    def hidden_dim(self) -> int:
        """D."""

    @property
    @abstractmethod
    def context_length(self) -> int | None:
        """The longest sequence, in tokens; None: any."""

    @abstractmethod
    def hidden_states(self, token_ids: tf.Tensor) -> tf.Tensor:
        """int [B, S] -> [B, S, D], what the logits of the NEXT tokens are made from. Dropout is off."""

    @abstractmethod
    def logits(self, hidden: tf.Tensor) -> tf.Tensor:
        """[..., D] -> float32 [..., V]."""

    @abstractmethod
    def begin(self, token_ids: tf.Tensor, prompt_lengths: tf.Tensor) -> tuple[tf.Tensor, State]:
        """The index of the first token that `step` is to be given, and the state before it.

        Args:
          token_ids: int [B, S], prompts in a buffer of the final length.
          prompt_lengths: int [B].
        """

    @abstractmethod
    def step(self, token_ids: tf.Tensor, index: tf.Tensor, state: State) -> tuple[tf.Tensor, State]:
        """Logits [B, V] of the tokens at index + 1, from the tokens [B] at `index` and the state before them."""


class CachedLanguageModel(LanguageModel):
    """A KerasHub CausalLM, its keys and values cached by its own `call_with_cache`."""

    model: keras_hub.models.CausalLM

    def __init__(self, model: keras_hub.models.CausalLM):
        super().__init__(model)
        model.backbone.token_embedding.reverse_dtype = "float32"  # of the logits, whatever the layers compute in

    @property
    def vocabulary_size(self) -> int:
        return self.model.backbone.vocabulary_size

    @property
    def hidden_dim(self) -> int:
        return self.model.backbone.output.shape[-1]

    @property
    def context_length(self) -> int | None:
        return backbones.context_length(self.model)

    def hidden_states(self, token_ids: tf.Tensor) -> tf.Tensor:
        inputs = {"token_ids": token_ids, "padding_mask": tf.ones_like(token_ids)}
        return self.model.backbone(inputs, training=False)

    def logits(self, hidden: tf.Tensor) -> tf.Tensor:
        return tf.cast(self.model.backbone.token_embedding(hidden, reverse=True), tf.float32)

    def begin(self, token_ids: tf.Tensor, prompt_lengths: tf.Tensor) -> tuple[tf.Tensor, State]:
        # What is cached for positions behind a prompt is overwritten before anything looks at it.
        _, cache = self.model._build_cache(token_ids)  # [B, L, 2, S, heads, D / heads]
        return tf.reduce_min(prompt_lengths) - 1, (cache,)

    def step(self, token_ids: tf.Tensor, index: tf.Tensor, state: State) -> tuple[tf.Tensor, State]:
        logits, _, cache = self.model.call_with_cache(token_ids[:, None], state[0], index)
        cache.set_shape(state[0].shape)
        return tf.cast(tf.squeeze(logits, axis=1), tf.float32), (cache,)


class RecurrentLanguageModel(LanguageModel):
    """The LSTM: its state is carried from token to token, prompts included."""

    model: LSTMLanguageModel

    @property
    def vocabulary_size(self) -> int:
        return self.model.vocabulary_size

    @property
    def hidden_dim(self) -> int:
        return self.model.hidden_dim

    @property
    def context_length(self) -> int | None:
        return None

    def hidden_states(self, token_ids: tf.Tensor) -> tf.Tensor:
        return self.model.hidden_states(token_ids)

    def logits(self, hidden: tf.Tensor) -> tf.Tensor:
        return tf.cast(self.model.token_embedding(hidden, reverse=True), tf.float32)

    def begin(self, token_ids: tf.Tensor, prompt_lengths: tf.Tensor) -> tuple[tf.Tensor, State]:
        zeros = tf.zeros([token_ids.shape[0], self.hidden_dim], self.model.lstm_layers[0].compute_dtype)  # [B, D]
        return tf.zeros_like(prompt_lengths[0]), (zeros,) * (2 * self.model.num_layers)

    def step(self, token_ids: tf.Tensor, index: tf.Tensor, state: State) -> tuple[tf.Tensor, State]:
        del index
        x = self.model.token_embedding(token_ids)  # [B, D]
        carried = []
        for number, layer in enumerate(self.model.lstm_layers):
            x, (hidden, cell) = layer.cell(x, list(state[2 * number : 2 * number + 2]), training=False)
            carried += [hidden, cell]
        return self.logits(x), tuple(carried)
