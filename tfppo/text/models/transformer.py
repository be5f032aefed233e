"""The small transformer: GPT-2 [Radford et al. 2019] made of KerasHub's own parts."""

import keras_hub

from tfppo.settings import exact_div
from tfppo.text.config import PretrainConfig


def make_transformer(vocabulary_size: int, config: PretrainConfig) -> keras_hub.models.GPT2CausalLM:
    """A GPT-2 with fresh weights. Its feed-forward layers are four times as wide as the model.

    Raises:
      UsageError: if the heads do not divide the width.
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
