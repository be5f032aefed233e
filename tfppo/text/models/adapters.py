"""Low-rank adapters ("LoRA", Hu et al. 2021): only few weights are tuned.

With its adapters switched off, the tuned model is its own reference policy, so that no copy is needed.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import keras
import keras_hub
import tensorflow as tf

from tfppo.errors import UsageError
from tfppo.text.models.copying import ModelsDiffer, copy_model
from tfppo.text.models.language_model import LanguageModel, State
from tfppo.text.models.reference import as_language_model
from tfppo.text.models.weights import weights_by_path

QUERIES_AND_VALUES = (  # names of the layers in the families of KerasHub
    *("query", "value", "query_dense", "value_dense", "q_proj", "v_proj"),
    *("query_key_value", "in_proj_qkv"),  # of GPT-NeoX, and of the linear attention of Qwen3.5
)
ROUTERS = ("sparse_feedforward_gate_dense", "router_dense", "router_gate")  # choose the experts of a token


def add_adapters(
    model: keras.Model, rank: int, seed: int = 0, alpha: float | None = None, targets: str = "attention"
) -> None:
    """Adds adapters to layers of a language model, and freezes all other weights.

    The second factor of each adapter starts at 0, so that new adapters do not change the model's output.

    Args:
      model: A KerasHub CausalLM without adapters.
      rank: Rank of the adapters.
      seed: Seed of the first factor of each adapter.
      alpha: The product of the two factors is multiplied by `alpha / rank`. None: by 1.
      targets: "attention" for the queries and values (Hu et al. 2021, section 4.2), "all" for all dense layers but
        those that choose experts (Dettmers et al. 2023), or names of layers with commas between them.

    Raises:
      UsageError: If the model cannot have adapters, has some already, or has no layer of a name.
    """
    if not isinstance(model, keras_hub.models.CausalLM):
        raise UsageError(
            f"lora_rank is {rank}; {type(model).__name__} can have no adapters, only a KerasHub CausalLM can: leave "
            "lora_rank out"
        )
    if has_adapters(model):
        raise UsageError(f"lora_rank is {rank}; the model has adapters already: merge them, or leave lora_rank out")
    layers = _targets(model, targets)
    model.trainable = True  # a frozen model lists no trainable variables
    for layer in model.backbone._flatten_layers(include_self=False):
        layer.trainable = False
    for number, layer in enumerate(layers):
        initializer = keras.initializers.HeUniform(seed=seed + number)  # KerasHub's initializer uses the global seed
        layer.trainable = True
        layer.enable_lora(rank, alpha, a_initializer=initializer)
        for variable in layer.trainable_variables:  # Keras leaves biases trainable, which would change the reference
            variable.trainable = variable is layer.lora_kernel_a or variable is layer.lora_kernel_b


def _targets(model: keras_hub.models.CausalLM, targets: str) -> list[keras.layers.Layer]:
    """Returns the layers of a model that get adapters; see `add_adapters`."""
    kinds = (keras.layers.Dense, keras.layers.EinsumDense)
    dense = [layer for layer in model.backbone._flatten_layers() if isinstance(layer, kinds) and layer.weights]
    names = list(dict.fromkeys(layer.name for layer in dense))
    chosen = {
        "attention": [name for name in names if name in QUERIES_AND_VALUES],
        "all": [name for name in names if name not in ROUTERS],
    }.get(targets, targets.split(","))
    missing = [name for name in chosen if name not in names]
    if missing or not chosen:
        raise UsageError(
            f"lora_targets is {targets!r}; {type(model).__name__} has no layer {', '.join(missing) or 'of attention'}: "
            f"choose attention, all or some of {', '.join(names)}"
        )
    return [layer for layer in dense if layer.name in chosen]


def has_adapters(model: keras.Model) -> bool:
    """Returns True if a layer of the model has adapters."""
    return bool(_adapted_layers(model))


@contextmanager
def adapters_off(model: keras.Model) -> Iterator[None]:
    """Switches the adapters of a model off within a `with` block.

    This also holds for what the block traces into a graph.

    Args:
      model: A model with adapters.

    Yields:
      None.
    """
    layers = _adapted_layers(model)
    for layer in layers:
        layer.lora_enabled = False
    try:
        yield
    finally:
        for layer in layers:
            layer.lora_enabled = True


class WithoutAdapters(LanguageModel):
    """A language model as it was before its adapters were trained; shares its weights with the adapted model.

    Args:
      adapted: Language model with adapters.
    """

    def __init__(self, adapted: LanguageModel):
        super().__init__(adapted.model)
        self._adapted = adapted

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """An empty list: the reference policy is not trained."""
        return []

    @property
    def vocabulary_size(self) -> int:
        """V, the number of tokens in the vocabulary."""
        return self._adapted.vocabulary_size

    @property
    def hidden_dim(self) -> int:
        """D, the width of the hidden states."""
        return self._adapted.hidden_dim

    @property
    def context_length(self) -> int | None:
        """The largest length of a sequence, in tokens; None if there is no limit."""
        return self._adapted.context_length

    def hidden_states(self, token_ids: tf.Tensor) -> tf.Tensor:
        """Computes hidden states without the adapters; see `LanguageModel.hidden_states`."""
        with adapters_off(self.model):
            return self._adapted.hidden_states(token_ids)

    def logits(self, hidden: tf.Tensor) -> tf.Tensor:
        """Computes logits without the adapters; see `LanguageModel.logits`."""
        with adapters_off(self.model):
            return self._adapted.logits(hidden)

    @property
    def output_variables(self) -> list[keras.Variable]:
        """The variables that `logits` reads."""
        return self._adapted.output_variables

    def begin(self, token_ids: tf.Tensor, prompt_lengths: tf.Tensor) -> tuple[tf.Tensor, State]:
        """Starts decoding without the adapters; see `LanguageModel.begin`."""
        with adapters_off(self.model):
            return self._adapted.begin(token_ids, prompt_lengths)

    def step(self, token_ids: tf.Tensor, index: tf.Tensor, state: State) -> tuple[tf.Tensor, State]:
        """Decodes one token without the adapters; see `LanguageModel.step`."""
        with adapters_off(self.model):
            return self._adapted.step(token_ids, index, state)


def size_without_adapters(model: keras.Model) -> int:
    """Returns the number of parameters of a language model, without those of adapters."""
    return int(model.count_params()) - sum(math.prod(variable.shape) for variable in adapter_variables(model))


def adapter_variables(model: keras.Model) -> list[keras.Variable]:
    """Returns the weights of all adapters of a model, in a fixed order; an empty list if there are none."""
    return [variable for layer in _adapted_layers(model) for variable in (layer.lora_kernel_a, layer.lora_kernel_b)]


def merged_copy(model: LanguageModel) -> LanguageModel:
    """Copies a language model, with its adapters merged into the weights of the copy."""
    return _copy_with_kernels(model, {id(layer._kernel): layer.kernel for layer in _adapted_layers(model.model)})


def base_copy(model: LanguageModel) -> LanguageModel:
    """Copies a language model without its adapters."""
    return _copy_with_kernels(model, {})


def _copy_with_kernels(model: LanguageModel, kernels: Mapping[int, tf.Tensor]) -> LanguageModel:
    """Copies a language model without its adapters. `kernels` replaces some weights, which are named by their `id`."""
    try:
        twin = copy_model(model.model, has_adapters=bool(_adapted_layers(model.model)))
    except ModelsDiffer as error:
        raise UsageError(f"{type(model.model).__name__} cannot be copied without its adapters ({error})") from error
    copies = weights_by_path(twin)
    for path, weight in weights_by_path(model.model).items():
        if id(weight) in kernels:
            copies[path].assign(keras.ops.convert_to_numpy(kernels[id(weight)]))
    return as_language_model(twin)


def _adapted_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns the layers with adapters; Keras layers that cannot have adapters lack the attribute `lora_enabled`."""
    layers = model._flatten_layers()
    return [layer for layer in layers if hasattr(layer, "lora_enabled") and layer.lora_enabled]
