"""A faster implementation of GPT-2, with the weights of KerasHub's layers.

One matrix product computes queries, keys and values together. Each layer caches its keys and values in tensors of
their own, so that a step writes only one row of each. Tests compare the numbers with those of KerasHub.
"""

from collections.abc import Callable

import keras
import keras_hub
import tensorflow as tf

from tfppo.text.models.language_model import CachedLanguageModel, State
from tfppo.text.models.rematerialization import recomputed


class GPT2LanguageModel(CachedLanguageModel):
    """A KerasHub GPT2CausalLM, computed by this module."""

    def hidden_states(self, token_ids: tf.Tensor) -> tf.Tensor:
        """Computes the hidden states of whole sequences; see `LanguageModel.hidden_states`."""

        def block(layer: keras.Layer, x: tf.Tensor, is_past: tf.Tensor) -> tf.Tensor:
            def of_layer(x: tf.Tensor) -> tf.Tensor:
                return _block(layer, x, self.model.backbone.num_heads, is_past)[0]

            return recomputed(of_layer, layer.variables, x) if self.recomputed else of_layer(x)

        return self._hidden_states(token_ids, block)

    def begin(self, token_ids: tf.Tensor, prompt_lengths: tf.Tensor) -> tuple[tf.Tensor, State]:
        """Fills the cache of keys and values; see `LanguageModel.begin`."""
        cache = []  # entries after a prompt are overwritten before they are used

        def block(layer: keras.Layer, x: tf.Tensor, is_past: tf.Tensor) -> tf.Tensor:
            x, key, value = _block(layer, x, self.model.backbone.num_heads, is_past)
            cache.extend([key, value])
            return x

        self._hidden_states(token_ids, block)
        return tf.reduce_min(prompt_lengths) - 1, tuple(cache)

    def step(self, token_ids: tf.Tensor, index: tf.Tensor, state: State) -> tuple[tf.Tensor, State]:
        """Decodes one token with the cache; see `LanguageModel.step`."""
        backbone = self.model.backbone
        embeddings, positions = _embeddings(backbone)
        x = tf.gather(embeddings, token_ids) + tf.gather(positions, index)  # [B, D]
        length = state[0].shape[2]
        is_past = tf.range(length) <= index  # [S]
        is_now = (tf.range(length) == index)[:, None]  # [S, 1]
        cache = []
        for number, layer in enumerate(backbone.transformer_layers):
            query, key, value = _project(layer, x[:, None, :], backbone.num_heads)  # [B, H, 1, D / H]
            keys = tf.where(is_now, key, state[2 * number])  # [B, H, S, D / H]
            values = tf.where(is_now, value, state[2 * number + 1])
            cache += [keys, values]
            x = _finish(layer, x[:, None, :], _attend(query, keys, values, is_past))[:, 0]
        return self.logits(_normalize(backbone.layer_norm, x)), tuple(cache)

    def _hidden_states(
        self, token_ids: tf.Tensor, block: Callable[[keras.Layer, tf.Tensor, tf.Tensor], tf.Tensor]
    ) -> tf.Tensor:
        """Computes hidden states [B, S, D]. `block` computes a layer from its input [B, S, D] and the mask [S, S]."""
        backbone = self.model.backbone
        embeddings, positions = _embeddings(backbone)
        length = token_ids.shape[1]
        x = tf.gather(embeddings, token_ids) + positions[:length]  # [B, S, D]
        is_past = tf.linalg.band_part(tf.ones([length, length], tf.bool), -1, 0)  # [S, S]
        for layer in backbone.transformer_layers:
            x = block(layer, x, is_past)
        return _normalize(backbone.layer_norm, x)


def _embeddings(backbone: keras_hub.models.GPT2Backbone) -> tuple[tf.Tensor, tf.Tensor]:
    dtype = backbone.token_embedding.compute_dtype
    tables = (backbone.token_embedding.embeddings, backbone.position_embedding.position_embeddings)
    return tuple(tf.cast(tf.convert_to_tensor(table), dtype) for table in tables)  # [V, D], [P, D]


def _block(
    layer: keras.Layer, x: tf.Tensor, num_heads: int, is_past: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Computes a layer from [B, S, D]. Returns its output, and its keys and values, [B, H, S, D / H] each."""
    query, key, value = _project(layer, x, num_heads)
    return _finish(layer, x, _attend(query, key, value, is_past)), key, value


def _project(layer: keras.Layer, x: tf.Tensor, num_heads: int) -> list[tf.Tensor]:
    """Computes queries, keys and values, [B, H, S, D / H] each, from [B, S, D]."""
    attention = layer._self_attention_layer
    dense = (attention.query_dense, attention.key_dense, attention.value_dense)
    batch, length, width = x.shape
    # In mixed precision, kernels with adapters and the others have different dtypes outside of Keras' calls.
    kernel = tf.concat([tf.cast(tf.reshape(d.kernel, [width, width]), x.dtype) for d in dense], axis=1)  # [D, 3 D]
    bias = tf.concat([tf.cast(tf.reshape(d.bias, [width]), x.dtype) for d in dense], axis=0)  # [3 D]
    projected = _dense(_normalize(layer._self_attention_layer_norm, x), kernel, bias)  # [B, S, 3 D]
    heads = tf.reshape(projected, [batch, length, 3, num_heads, width // num_heads])
    return tf.unstack(tf.transpose(heads, [2, 0, 3, 1, 4]))


def _attend(query: tf.Tensor, keys: tf.Tensor, values: tf.Tensor, is_past: tf.Tensor) -> tf.Tensor:
    """Computes attention [B, Q, D] of queries [B, H, Q, D / H]; `is_past`, bool [Q, S] or [S], masks the keys."""
    batch, num_heads, length, head_dim = query.shape
    scores = tf.matmul(query * tf.cast(head_dim**-0.5, query.dtype), keys, transpose_b=True)  # [B, H, Q, S]
    scores = tf.where(is_past, tf.cast(scores, tf.float32), -1e9)
    weights = tf.cast(tf.nn.softmax(scores), values.dtype)
    return tf.reshape(tf.transpose(tf.matmul(weights, values), [0, 2, 1, 3]), [batch, length, num_heads * head_dim])


def _finish(layer: keras.Layer, x: tf.Tensor, attended: tf.Tensor) -> tf.Tensor:
    """Computes the rest of a layer after its attention: output projection, residuals and feed-forward block."""
    output = layer._self_attention_layer.output_dense
    width = x.shape[-1]
    x += _dense(attended, tf.reshape(output.kernel, [width, width]), output.bias)
    inner, outer = layer._feedforward_intermediate_dense, layer._feedforward_output_dense
    hidden = _dense(_normalize(layer._feedforward_layer_norm, x), inner.kernel, inner.bias)
    return x + _dense(tf.nn.gelu(hidden, approximate=True), outer.kernel, outer.bias)


def _dense(x: tf.Tensor, kernel: tf.Tensor | keras.Variable, bias: tf.Tensor | keras.Variable) -> tf.Tensor:
    """Computes `x kernel + bias` over the last axis, as one product of two matrices."""
    kernel, bias = (tf.cast(tf.convert_to_tensor(w), x.dtype) for w in (kernel, bias))
    flat = tf.reshape(x, [-1, x.shape[-1]])
    return tf.reshape(tf.nn.bias_add(tf.matmul(flat, kernel), bias), [*x.shape[:-1], kernel.shape[-1]])


def _normalize(layer: keras.Layer, x: tf.Tensor) -> tf.Tensor:
    """Applies a layer normalization, in float32."""
    wide = tf.cast(x, tf.float32)
    mean, variance = tf.nn.moments(wide, axes=[-1], keepdims=True)
    gamma, beta = (tf.cast(tf.convert_to_tensor(w), tf.float32) for w in (layer.gamma, layer.beta))
    return tf.cast((wide - mean) * tf.math.rsqrt(variance + layer.epsilon) * gamma + beta, x.dtype)
