"""Families of KerasHub whose cached decoding differs from that of the others, and families that cannot be tuned.

Tests compare each family with its full forward pass (KerasHub 0.32).
"""

from collections.abc import Mapping

import keras
import keras_hub
import tensorflow as tf

from tfppo.text.models.gpt2 import GPT2LanguageModel
from tfppo.text.models.language_model import CachedLanguageModel, State


class Gemma3LanguageModel(CachedLanguageModel):
    """A Gemma 3 of text only. Its cache is a pair of tensors for each layer."""

    def begin(self, token_ids: tf.Tensor, prompt_lengths: tf.Tensor) -> tuple[tf.Tensor, State]:
        """Fills the cache of keys and values; see `LanguageModel.begin`."""
        images = {"img_embeddings": None, "vision_mask": None, "vision_indices": None}
        _, cache = self.model._build_cache(token_ids, padding_mask=tf.ones_like(token_ids), **images)
        return tf.reduce_min(prompt_lengths) - 1, tuple(tf.nest.flatten(cache))  # [B, S, heads, D / heads] each

    def arranged(self, state: State) -> tuple[tuple[tf.Tensor, tf.Tensor], ...]:
        """Returns the keys and values of each layer as a pair."""
        return tuple(zip(state[::2], state[1::2], strict=True))


class LinearAttentionLanguageModel(CachedLanguageModel):
    """A Qwen3.5 of text only. Most of its layers keep a recurrent state, which padding would change.

    So decoding starts with an empty state at the first token of the prompts, as with an LSTM.
    """

    needs_static_length = True  # KerasHub divides the sequence into chunks in Python

    def begin(self, token_ids: tf.Tensor, prompt_lengths: tf.Tensor) -> tuple[tf.Tensor, State]:
        """Makes an empty state; see `LanguageModel.begin`."""
        _, state = self.model._build_cache(token_ids, padding_mask=tf.ones_like(token_ids))
        return tf.zeros_like(prompt_lengths[0]), tuple(map(tf.zeros_like, state))  # only its shapes are used

    def arranged(self, state: State) -> State:
        """Returns the three tensors of the state as they are."""
        return state


class GPTNeoXLanguageModel(CachedLanguageModel):
    """A GPT-NeoX. KerasHub's cached pass rotates each query as if it were at position 0; this one does not."""

    def step(self, token_ids: tf.Tensor, index: tf.Tensor, state: State) -> tuple[tf.Tensor, State]:
        """Decodes one token with the cache; see `LanguageModel.step`."""
        backbone, (old,) = self.model.backbone, state
        x = backbone.token_embedding(token_ids[:, None])  # [B, 1, D]
        is_past = tf.broadcast_to(tf.range(old.shape[3]) <= index, [old.shape[0], 1, old.shape[3]])
        is_now = (tf.range(old.shape[3]) == index)[:, None, None]  # [S, 1, 1]
        cache = []
        for number, layer in enumerate(backbone.transformer_layers):
            attention = layer._self_attention_layer
            projected = attention._qkv_dense(layer._self_attention_layer_norm(x))  # [B, 1, heads, 3 D / heads]
            query, key, value = tf.split(projected, 3, axis=-1)
            keys = tf.where(is_now, key, old[:, number, 0])  # [B, S, heads, D / heads], not rotated
            values = tf.where(is_now, value, old[:, number, 1])
            cache.append(tf.stack([keys, values], axis=1))
            rotated = (_rotate(attention, query, index), _rotate(attention, keys, 0), values)
            attended = attention._compute_attention(*rotated, is_past, training=False)
            x += attention._output_dense(tf.reshape(attended, x.shape)) + _feed_forward(layer, x)
        return self.logits(backbone.layer_norm(x))[:, 0], (tf.stack(cache, axis=1),)


FAMILIES: Mapping[type[keras_hub.models.CausalLM], type[CachedLanguageModel]] = {
    keras_hub.models.GPT2CausalLM: GPT2LanguageModel,
    keras_hub.models.Gemma3CausalLM: Gemma3LanguageModel,
    keras_hub.models.GPTNeoXCausalLM: GPTNeoXLanguageModel,
    keras_hub.models.Qwen3_5CausalLM: LinearAttentionLanguageModel,
    keras_hub.models.Qwen3_5MoeCausalLM: LinearAttentionLanguageModel,
}
"""The implementation of each family. All other families have a `CachedLanguageModel`."""

_IMAGES = "it works on images"
REFUSED: Mapping[type[keras_hub.models.CausalLM], str] = {
    keras_hub.models.RWKV7CausalLM: "its recurrent state cannot hold prompts of different lengths",
    keras_hub.models.Gemma3nCausalLM: "its forward pass needs inputs for images and sounds",
    keras_hub.models.Gemma4CausalLM: "its forward pass needs inputs for images and sounds",
    keras_hub.models.Gemma4AssistantCausalLM: "it only drafts tokens for another model",
    keras_hub.models.PaliGemmaCausalLM: _IMAGES,
    keras_hub.models.BLIP2CausalLM: _IMAGES,
    keras_hub.models.PARSeqCausalLM: _IMAGES,
    keras_hub.models.Seq2SeqLM: "it has an encoder, and PPO here tunes models that only decode",
}
"""Families that cannot be tuned, with the reason."""


def why_refused(model: keras_hub.models.CausalLM) -> str | None:
    """Returns the reason why a language model cannot be tuned, or None if its family can."""
    if getattr(model.backbone, "vision_encoder", None) is not None:
        return "it has a vision encoder, and only its text-only form can be tuned"
    return next((reason for kind, reason in REFUSED.items() if isinstance(model, kind)), None)


def _rotate(attention: keras.layers.Layer, x: tf.Tensor, index: tf.Tensor | int) -> tf.Tensor:
    """Rotates the first part of queries or keys [B, S, heads, D / heads], of which the first is at position `index`."""
    rotated, plain = x[..., : attention.rotary_dim], x[..., attention.rotary_dim :]
    return tf.concat([attention.rotary_embedding_layer(rotated, start_index=index), plain], axis=-1)


def _feed_forward(layer: keras.layers.Layer, x: tf.Tensor) -> tf.Tensor:
    hidden = layer._feedforward_intermediate_dense(layer._feedforward_layer_norm(x))
    return layer._feedforward_output_dense(hidden)
