"""The network that is trained: a language model, with an attention mask for packed examples where its family has one.

The network shares its layers and weights with the language model.
"""

from collections.abc import Sequence
from typing import Any

import keras
import keras_hub
import tensorflow as tf

from tfppo.text.models.language_model import LanguageModel
from tfppo.text.models.reference import as_language_model, states_network
from tfppo.text.models.rematerialization import layers_of, rematerialized
from tfppo.text.models.vocabulary import measure_tokens
from tfppo.text.sft.tuner import token_losses

PACKED: tuple[type[keras_hub.models.CausalLM], ...] = (
    keras_hub.models.GPT2CausalLM,
    keras_hub.models.OPTCausalLM,
    keras_hub.models.GPTNeoXCausalLM,
    keras_hub.models.BloomCausalLM,
    keras_hub.models.FalconCausalLM,
    keras_hub.models.LlamaCausalLM,
    keras_hub.models.Llama3CausalLM,
    keras_hub.models.MistralCausalLM,
    keras_hub.models.Phi3CausalLM,
    keras_hub.models.QwenCausalLM,
    keras_hub.models.Qwen3CausalLM,
    keras_hub.models.SmolLM3CausalLM,
)
"""Families whose layers take an attention mask, and whose positions are relative or can be given (KerasHub 0.32).

In the others examples in one row would see each other: the layers of Gemma make their masks from the padding alone, and
an LSTM and linear attention carry a state along. The loss of mixtures of experts depends on the padding.
"""


def can_pack(model: keras.Model) -> bool:
    """Returns True if several examples can share a row of the model without attention between them."""
    return type(model) in PACKED


class TrainingNetwork(keras.Model):
    """A language model for training. Its inputs are "token_ids" and "padding_mask", int [B, S] each.

    The padding mask is 0 at padding. In packed rows it numbers the examples from 1.

    Args:
      model: The language model.
      states: Computes hidden states [B, S, D] of these inputs with the weights of `model`.
      recomputed: Layers that the backward pass computes again.
    """

    def __init__(self, model: LanguageModel, states: keras.Model, recomputed: Sequence[keras.layers.Layer] = ()):
        super().__init__()
        self.model = model
        self.states = states
        self.recomputed = tuple(recomputed)
        self.built = True

    def hidden_states(self, inputs: dict[str, tf.Tensor], training: bool) -> tf.Tensor:
        """Computes hidden states [B, S, D]; dropout is on only in training."""
        with rematerialized(self.recomputed):
            return self.states(inputs, training=training)

    def call(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Computes logits, float32 [B, S, V]."""
        return self.model.logits(self.hidden_states(inputs, training))

    def measures(self, inputs: dict[str, tf.Tensor], targets: tf.Tensor, training: bool) -> tuple[tf.Tensor, ...]:
        """Computes the losses of tokens, in chunks if the logits are large.

        Args:
          inputs: The inputs.
          targets: int [B, S], the tokens.
          training: True switches dropout on.

        Returns:
          The negative log-likelihoods in nats, float32 [B, S], and 1 where a token has the highest probability, else 0.
        """

        def measure(logits: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            hits = tf.argmax(logits, axis=-1, output_type=targets.dtype) == targets
            return token_losses(targets, logits), tf.cast(hits, tf.float32)

        return measure_tokens(self.model, self.hidden_states(inputs, training), targets, measure, outputs=2)


def training_network(model: keras.Model, packs: bool, rematerialize: bool = False) -> TrainingNetwork:
    """Makes the network that is trained.

    Args:
      model: A KerasHub CausalLM or an `LSTMLanguageModel`.
      packs: True gives a network for packed examples; only if `can_pack`.
      rematerialize: True computes the layers again in the backward pass.

    Returns:
      The network. It has the weights of `model`.

    Raises:
      UsageError: If the layers cannot be computed again.
    """
    language_model = as_language_model(model)  # logits are float32 in mixed precision, too
    states = _with_segments(model.backbone) if packs else states_network(model)
    return TrainingNetwork(language_model, states, layers_of(model) if rematerialize else ())


class SegmentMask(keras.layers.Layer):
    """Computes an attention mask and positions from the numbers of the examples in packed rows."""

    def call(self, segments: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Computes the mask and the positions.

        Args:
          segments: int [B, S], equal for the tokens of an example, which are neighbors.

        Returns:
          A mask int32 [B, S, S], 1 where two tokens are of the same example, and positions int32 [B, S] of the tokens
          in their examples, from 0.
        """
        is_same = tf.cast(segments[:, :, None] == segments[:, None, :], tf.int32)  # [B, S, S]
        earlier = tf.linalg.band_part(is_same, -1, 0)
        return is_same, tf.reduce_sum(earlier, axis=-1) - 1


def _with_segments(backbone: keras_hub.models.Backbone) -> keras.Model:
    """Calls the layers of a backbone again, with an attention mask and with positions of packed examples."""
    inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in backbone.input}
    mask, positions = SegmentMask(name="segment_mask")(inputs["padding_mask"])
    embeddings = (keras_hub.layers.PositionEmbedding, keras_hub.layers.TokenAndPositionEmbedding)

    def call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        if "decoder_padding_mask" in kwargs:
            kwargs = kwargs | {"decoder_padding_mask": None, "decoder_attention_mask": mask}
        if isinstance(layer, embeddings):
            kwargs = kwargs | {"positions": positions}
        return layer(*args, **kwargs)

    return keras.models.clone_model(backbone, inputs, clone_function=lambda layer: layer, call_function=call)
