"""The network that is trained: a language model, with an attention mask for packed examples where its family has one.

The network shares its layers and weights with the language model.
"""

from typing import Any

import keras
import keras_hub
import tensorflow as tf

from tfppo.text.models.reference import as_language_model

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


def training_network(model: keras.Model, packs: bool) -> keras.Model:
    """Makes the network that is trained.

    Args:
      model: A KerasHub CausalLM or an `LSTMLanguageModel`.
      packs: True gives a network for packed examples; only if `can_pack`.

    Returns:
      A Keras model with the weights of `model`. Its inputs are "token_ids" and "padding_mask", int [B, S] each; the
      padding mask numbers the examples of each row from 1, and is 0 at padding. Its outputs are logits, float32
      [B, S, V].
    """
    if not isinstance(model, keras_hub.models.CausalLM):
        return model
    as_language_model(model)  # logits are float32 in mixed precision, too
    backbone = _with_segments(model.backbone) if packs else model.backbone
    logits = model.backbone.token_embedding(backbone.output, reverse=True)
    return keras.Model(backbone.input, logits)


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
