"""The interface of language models: whole sequences for training, one token at a time for sampling.

There are three implementations: `CachedLanguageModel` for any KerasHub CausalLM, `GPT2LanguageModel` (in `gpt2.py`),
which is faster for GPT-2, and `RecurrentLanguageModel` for the LSTM of the article.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import keras_hub
import numpy as np
import tensorflow as tf
from keras_hub.layers import ReversibleEmbedding

from tfppo.errors import UsageError
from tfppo.text.models.lstm import LSTMLanguageModel
from tfppo.text.models.rematerialization import layers_of, rematerialized

State = tuple[tf.Tensor, ...]
DECODED = 4  # largest number of tokens that `check_decoding` decodes after the shorter prompt


class LanguageModel(ABC):
    """The interface that sampling and PPO need of a language model.

    Shapes: B sequences of S tokens, a vocabulary of V tokens, hidden states of width D. Prompts have different lengths
    and are padded on the right. A causal model does not attend to later tokens, so padding does not change the results
    for real tokens.

    Args:
      model: The Keras model that owns the weights.
    """

    recomputed: Sequence[keras.layers.Layer] = ()  # layers that the backward pass computes again, see `rematerialize`
    needs_static_length: ClassVar[bool] = False  # True: a compiled program must know S

    def __init__(self, model: keras.Model):
        self.model = model

    def rematerialize(self) -> None:
        """Makes the backward pass of `hidden_states` compute the layers again. This needs less memory and more time.

        Raises:
          UsageError: If the model has no list of layers.
        """
        self.recomputed = layers_of(self.model)

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """The trainable weights, in a fixed order."""
        return self.model.trainable_variables

    @property
    @abstractmethod
    def vocabulary_size(self) -> int:
        """V, the number of tokens in the vocabulary."""

    @property
    @abstractmethod
    def hidden_dim(self) -> int:
        """D, the width of the hidden states."""

    @property
    @abstractmethod
    def context_length(self) -> int | None:
        """The largest length of a sequence, in tokens; None if there is no limit."""

    @abstractmethod
    def hidden_states(self, token_ids: tf.Tensor) -> tf.Tensor:
        """Computes hidden states in a full forward pass, without dropout.

        Args:
          token_ids: int [B, S].

        Returns:
          Hidden states [B, S, D]. The state of a token gives the logits of the next token.
        """

    @abstractmethod
    def logits(self, hidden: tf.Tensor) -> tf.Tensor:
        """Computes logits from hidden states.

        Args:
          hidden: [..., D].

        Returns:
          Logits float32 [..., V].
        """

    @property
    @abstractmethod
    def output_variables(self) -> list[keras.Variable]:
        """The variables that `logits` reads, trainable or not."""

    @abstractmethod
    def begin(self, token_ids: tf.Tensor, prompt_lengths: tf.Tensor) -> tuple[tf.Tensor, State]:
        """Starts decoding after prompts.

        Args:
          token_ids: int [B, S], the prompts in a buffer of the final length.
          prompt_lengths: int [B].

        Returns:
          The index of the first token to pass to `step`, an int scalar, and the state before this token.
        """

    @abstractmethod
    def step(self, token_ids: tf.Tensor, index: tf.Tensor, state: State) -> tuple[tf.Tensor, State]:
        """Decodes one token of each sequence.

        Args:
          token_ids: int [B], the tokens at `index`.
          index: int scalar, position of the tokens in their sequences.
          state: The state before the tokens.

        Returns:
          Logits float32 [B, V] of the tokens at `index + 1`, and the state after the tokens at `index`.
        """


def output_variables(embedding: ReversibleEmbedding) -> list[keras.Variable]:
    """Returns the variables that a token embedding reads to compute logits."""
    return embedding.variables if embedding.tie_weights else [embedding.reverse_embeddings]


def context_length(model: keras.Model) -> int | None:
    """Returns the context length of a language model, in tokens, or None if it has no limit (as an LSTM).

    Args:
      model: A Keras language model.
    """
    has_limit = isinstance(model, keras_hub.models.CausalLM) and hasattr(model.backbone, "max_sequence_length")
    return model.backbone.max_sequence_length if has_limit else None


def final_normalization(model: keras.Model) -> keras.layers.Layer | None:
    """Returns the final normalization layer of a language model, or None if it has none (as an LSTM).

    Its weights scale the logits.

    Args:
      model: A Keras language model.
    """
    has_layer = isinstance(model, keras_hub.models.CausalLM) and hasattr(model.backbone, "layer_norm")
    return model.backbone.layer_norm if has_layer else None


def check_decoding(model: LanguageModel, prompts: np.ndarray, lengths: np.ndarray, pad: int) -> None:
    """Compares the logits of decoding, token by token, with those of a full pass, on a short and a long prompt.

    With a wrong cache, a run would sample from another policy than the one it trains, and only `text/sampler_gap`
    would show it.

    Args:
      model: Language model to check.
      prompts: int [N, P], padded on the right.
      lengths: int [N].
      pad: Token id for the padding.

    Raises:
      UsageError: If the logits differ by more than rounding explains.
    """
    rows = [int(lengths.argmin()), int(lengths.argmax())]
    ends = lengths[rows]
    room = DECODED if model.context_length is None else min(DECODED, model.context_length - prompts.shape[1])
    padded = np.pad(prompts[rows], [(0, 0), (0, room)], constant_values=pad)
    token_ids = tf.constant([np.resize(row[:end], len(row)) for row, end in zip(padded, ends, strict=True)], tf.int32)
    full = model.logits(model.hidden_states(token_ids))  # [2, P + room, V]
    first, state = model.begin(tf.constant(padded, tf.int32), tf.constant(ends, tf.int32))
    relative = 0.1 if model.model.compute_dtype == "bfloat16" else 1e-3  # a wrong cache is wrong in the first digit
    for column in range(int(first), int(ends.min()) + room - 1):
        logits, state = model.step(token_ids[:, column], tf.constant(column), state)
        gap, largest = (float(tf.reduce_max(tf.abs(x))) for x in (logits - full[:, column], full[:, column]))
        if gap > relative * largest:
            raise UsageError(
                f"{type(model.model).__name__} gives other logits token by token than in a full pass (they differ by "
                f"{gap:.2g}), so that it would sample from another policy than the one that is trained: use another "
                "release of keras-hub, or give a model of another family"
            )


class CachedLanguageModel(LanguageModel):
    """Any KerasHub CausalLM; its own `call_with_cache` caches keys and values."""

    model: keras_hub.models.CausalLM

    def __init__(self, model: keras_hub.models.CausalLM):
        super().__init__(model)
        model.backbone.token_embedding.reverse_dtype = "float32"  # logits are float32 in mixed precision, too

    @property
    def vocabulary_size(self) -> int:
        """V, the number of tokens in the vocabulary."""
        return self.model.backbone.vocabulary_size

    @property
    def hidden_dim(self) -> int:
        """D, the width of the hidden states."""
        return self.model.backbone.output.shape[-1]

    @property
    def context_length(self) -> int | None:
        """The largest length of a sequence, in tokens; None if the model has no limit."""
        return context_length(self.model)

    def hidden_states(self, token_ids: tf.Tensor) -> tf.Tensor:
        """Computes the hidden states of whole sequences; see `LanguageModel.hidden_states`."""
        inputs = {"token_ids": token_ids, "padding_mask": tf.ones_like(token_ids)}
        with rematerialized(self.recomputed):
            return self.model.backbone(inputs, training=False)

    def logits(self, hidden: tf.Tensor) -> tf.Tensor:
        """Computes logits with the output embedding; see `LanguageModel.logits`."""
        return tf.cast(self.model.backbone.token_embedding(hidden, reverse=True), tf.float32)

    @property
    def output_variables(self) -> list[keras.Variable]:
        """The variables of the output embedding, which may be the token embedding."""
        return output_variables(self.model.backbone.token_embedding)

    def begin(self, token_ids: tf.Tensor, prompt_lengths: tf.Tensor) -> tuple[tf.Tensor, State]:
        """Fills the cache of keys and values; see `LanguageModel.begin`."""
        # Entries after a prompt are overwritten before they are used.
        _, cache = self.model._build_cache(token_ids)  # [B, L, 2, S, heads, D / heads]
        return tf.reduce_min(prompt_lengths) - 1, (cache,)

    def step(self, token_ids: tf.Tensor, index: tf.Tensor, state: State) -> tuple[tf.Tensor, State]:
        """Decodes one token with the cache; see `LanguageModel.step`."""
        logits, _, cache = self.model.call_with_cache(token_ids[:, None], self.arranged(state), index)
        tensors = tuple(tf.nest.flatten(cache))
        for tensor, old in zip(tensors, state, strict=True):
            tensor.set_shape(old.shape)  # which a loop needs
        return tf.cast(tf.squeeze(logits, axis=1), tf.float32), tensors

    def arranged(self, state: State) -> Any:
        """Returns the tensors of a state as `call_with_cache` expects its cache: here the only one."""
        return state[0]


class RecurrentLanguageModel(LanguageModel):
    """An `LSTMLanguageModel`; its hidden and cell states pass from token to token, through the prompts as well."""

    model: LSTMLanguageModel

    @property
    def vocabulary_size(self) -> int:
        """V, the number of tokens in the vocabulary."""
        return self.model.vocabulary_size

    @property
    def hidden_dim(self) -> int:
        """D, the width of the hidden states."""
        return self.model.hidden_dim

    @property
    def context_length(self) -> int | None:
        """None: an LSTM has no limit."""
        return None

    def hidden_states(self, token_ids: tf.Tensor) -> tf.Tensor:
        """Computes the hidden states of whole sequences; see `LanguageModel.hidden_states`."""
        with rematerialized(self.recomputed):
            return self.model.hidden_states(token_ids)

    def logits(self, hidden: tf.Tensor) -> tf.Tensor:
        """Computes logits with the token embedding; see `LanguageModel.logits`."""
        return tf.cast(self.model.token_embedding(hidden, reverse=True), tf.float32)

    @property
    def output_variables(self) -> list[keras.Variable]:
        """The variables of the token embedding."""
        return output_variables(self.model.token_embedding)

    def begin(self, token_ids: tf.Tensor, prompt_lengths: tf.Tensor) -> tuple[tf.Tensor, State]:
        """Starts at the first token of the prompts with states of zeros; see `LanguageModel.begin`."""
        zeros = tf.zeros([token_ids.shape[0], self.hidden_dim], self.model.lstm_layers[0].compute_dtype)  # [B, D]
        return tf.zeros_like(prompt_lengths[0]), (zeros,) * (2 * self.model.num_layers)

    def step(self, token_ids: tf.Tensor, index: tf.Tensor, state: State) -> tuple[tf.Tensor, State]:
        """Decodes one token with the LSTM states; see `LanguageModel.step`."""
        del index
        x = self.model.token_embedding(token_ids)  # [B, D]
        carried = []
        for number, layer in enumerate(self.model.lstm_layers):
            x, (hidden, cell) = layer.cell(x, list(state[2 * number : 2 * number + 2]), training=False)
            carried += [hidden, cell]
        return self.logits(x), tuple(carried)
