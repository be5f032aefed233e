"""Low-rank adapters (Hu et al. 2021, "LoRA"): few weights are tuned; without them the model is its own reference."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras
import keras_hub
import tensorflow as tf

from tfppo.errors import UsageError
from tfppo.text.models.language_model import LanguageModel, State


def add_adapters(model: keras.Model, rank: int, seed: int = 0) -> None:
    """Gives a language model adapters, on queries and values as KerasHub does, and freezes everything else.

    They change nothing until they are trained: the second factor is 0.

    Args:
      model: a KerasHub CausalLM without adapters.
      rank: of the adapters.
      seed: of the first factor.

    Raises:
      UsageError: if the model can have none.
    """
    if not isinstance(model, keras_hub.models.CausalLM):
        raise UsageError(f"lora_rank is {rank}, but a {type(model).__name__} can have no adapters: leave lora_rank out")
    if _adapted_layers(model):
        raise UsageError(f"lora_rank is {rank}, but the model has adapters already: merge them, or leave lora_rank out")
    model.backbone.enable_lora(rank)
    layers = _adapted_layers(model)
    if not layers:
        raise UsageError(f"lora_rank is {rank}, but KerasHub knows no layers of {type(model).__name__} to adapt")
    for number, layer in enumerate(layers):
        for variable in layer.trainable_variables:  # KerasHub leaves the biases trainable: "off" would drift
            variable.trainable = variable is layer.lora_kernel_a or variable is layer.lora_kernel_b
        initializer = keras.initializers.HeUniform(seed=seed + number)  # KerasHub's own hangs on a global seed
        layer.lora_kernel_a.assign(initializer(layer.lora_kernel_a.shape))


@contextmanager
def adapters_off(model: keras.Model) -> Iterator[None]:
    """What is computed, or traced into a graph, in here is computed as if there were no adapters."""
    layers = _adapted_layers(model)
    for layer in layers:
        layer.lora_enabled = False
    try:
        yield
    finally:
        for layer in layers:
            layer.lora_enabled = True


class WithoutAdapters(LanguageModel):
    """What a language model was before its adapters were trained. It has the same weights: there is no second copy.

    Args:
      adapted: the language model whose adapters are off here.
    """

    def __init__(self, adapted: LanguageModel):
        super().__init__(adapted.model)
        self._adapted = adapted

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        return []

    @property
    def vocabulary_size(self) -> int:
        return self._adapted.vocabulary_size

    @property
    def hidden_dim(self) -> int:
        return self._adapted.hidden_dim

    @property
    def context_length(self) -> int | None:
        return self._adapted.context_length

    def hidden_states(self, token_ids: tf.Tensor) -> tf.Tensor:
        with adapters_off(self.model):
            return self._adapted.hidden_states(token_ids)

    def logits(self, hidden: tf.Tensor) -> tf.Tensor:
        with adapters_off(self.model):
            return self._adapted.logits(hidden)

    def begin(self, token_ids: tf.Tensor, prompt_lengths: tf.Tensor) -> tuple[tf.Tensor, State]:
        with adapters_off(self.model):
            return self._adapted.begin(token_ids, prompt_lengths)

    def step(self, token_ids: tf.Tensor, index: tf.Tensor, state: State) -> tuple[tf.Tensor, State]:
        with adapters_off(self.model):
            return self._adapted.step(token_ids, index, state)


def _adapted_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers that have adapters: Keras gives `lora_enabled` only to the kinds of layers that can have them."""
    layers = model._flatten_layers()
    return [layer for layer in layers if hasattr(layer, "lora_enabled") and layer.lora_enabled]
