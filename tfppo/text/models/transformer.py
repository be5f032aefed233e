"""The small transformer: a GPT-2 (Radford et al. 2019) made of KerasHub's classes."""

import keras_hub

from tfppo.settings import exact_div
from tfppo.text.config import NewModelConfig


def make_transformer(vocabulary_size: int, config: NewModelConfig) -> keras_hub.models.GPT2CausalLM:
    """Makes a GPT-2 with new weights. Its feed-forward layers have a width of `4 * hidden_dim`.

    Args:
      vocabulary_size: V, the number of tokens in the vocabulary.
      config: Sizes and dropout.

    Returns:
      The model.

    Raises:
      UsageError: If `hidden_dim` is not a multiple of `num_heads`.
    """
    exact_div(config.hidden_dim, config.num_heads, "hidden_dim", "num_heads")
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=vocabulary_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        hidden_dim=config.hidden_dim,
        intermediate_dim=4 * config.hidden_dim,
        dropout=config.dropout,
        max_sequence_length=config.context_length,
    )
    return keras_hub.models.GPT2CausalLM(backbone)
