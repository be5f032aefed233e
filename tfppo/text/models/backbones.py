"""Access to attributes that only some KerasHub backbones have."""

import keras
import keras_hub


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
