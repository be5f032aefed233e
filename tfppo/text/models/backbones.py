"""Attributes that some of KerasHub's backbones have, and others lack."""

import keras
import keras_hub


def context_length(model: keras.Model) -> int | None:
    """The longest sequence that a language model reads, in tokens; None: any, as for an LSTM."""
    has_limit = isinstance(model, keras_hub.models.CausalLM) and hasattr(model.backbone, "max_sequence_length")
    return model.backbone.max_sequence_length if has_limit else None


def final_normalization(model: keras.Model) -> keras.layers.Layer | None:
    """The layer whose weights scale a language model's logits; None: there is none, as in an LSTM."""
    has_layer = isinstance(model, keras_hub.models.CausalLM) and hasattr(model.backbone, "layer_norm")
    return model.backbone.layer_norm if has_layer else None
