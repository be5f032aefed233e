"""Complete copies of Keras language models: built from the config, repaired, and compared with the original.

The config of some KerasHub models is incomplete, and attributes of layers can be changed after a model is built. A
copy that only its config describes may therefore compute something else.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import keras_hub
import numpy as np
import tensorflow as tf

from tfppo.errors import kind_and_text
from tfppo.text.models.language_model import LanguageModel
from tfppo.text.models.weights import layers_by_path, weights_by_path

Plain = str | int | float | bool | None
CHECKED = (2, 8)  # sequences and tokens on which two models are compared
ADAPTER = "lora_"  # attributes of adapters; a saved model has none, because its adapters are merged


class ModelsDiffer(Exception):
    """Two models differ that must be equal. The text says where."""


def complete_config(model: keras.Model) -> dict[str, Any]:
    """Returns the config of a model, with the arguments that its `get_config` leaves out.

    KerasHub's models keep each argument of their constructor in an attribute of the same name. Llama's config
    (KerasHub 0.32), for example, leaves out `tie_word_embeddings`.

    Args:
      model: A KerasHub backbone or an `LSTMLanguageModel`.

    Returns:
      The config.
    """
    config = dict(model.get_config())
    for name, parameter in inspect.signature(type(model).__init__).parameters.items():
        is_named = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if is_named and name not in config and hasattr(model, name) and isinstance(getattr(model, name), Plain):
            config[name] = getattr(model, name)
    return config


@contextmanager
def default_policy(policy: str) -> Iterator[None]:
    """Sets Keras' dtype policy within a `with` block. KerasHub's SmolLM3 does not pass its own to its layers.

    Args:
      policy: Name of the policy, such as "mixed_bfloat16".

    Yields:
      None.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def rebuilt(model: keras.Model, **settings: object) -> keras.Model:
    """Builds a language model from the config of another one. It gets new weights and no preprocessor.

    Args:
      model: A KerasHub CausalLM or an `LSTMLanguageModel`.
      **settings: Values of the config that replace those of `model`.

    Returns:
      A model of the same class.
    """
    if not isinstance(model, keras_hub.models.CausalLM):
        return type(model).from_config(complete_config(model) | settings)
    with default_policy(model.backbone.token_embedding.dtype_policy.name):
        backbone = type(model.backbone).from_config(complete_config(model.backbone) | settings)
    return type(model).from_config(dict(model.get_config()) | {"backbone": backbone, "preprocessor": None})


def copy_weights(model: keras.Model, twin: keras.Model, has_adapters: bool = False) -> None:
    """Copies weights by path, and freezes the same ones.

    Args:
      model: A Keras language model.
      twin: Gets the weights.
      has_adapters: Leaves out the adapters of `model`. Nothing is frozen then, because adapters freeze all else.

    Raises:
      ModelsDiffer: If the two models do not have the same weights.
    """
    weights, copies = weights_by_path(model), weights_by_path(twin)
    if has_adapters:
        weights = {path: weight for path, weight in weights.items() if not path.split("/")[-1].startswith(ADAPTER)}
    for path in dict.fromkeys((*weights, *copies)):
        mine, other = weights.get(path), copies.get(path)
        if mine is None or other is None or (mine.shape, mine.dtype) != (other.shape, other.dtype):
            raise ModelsDiffer(f"weight {path} is {_form(mine)} in the model and {_form(other)} in its copy")
    for path, weight in weights.items():
        copies[path].assign(keras.ops.convert_to_numpy(weight))
    if has_adapters:
        return
    twin.trainable = model.trainable
    for path, weight in weights.items():
        copies[path].trainable = weight.trainable


def copy_model(model: keras.Model, has_adapters: bool = False) -> keras.Model:
    """Copies a Keras language model. The attributes of layers are copied, too, for example a changed epsilon.

    Args:
      model: A KerasHub CausalLM or an `LSTMLanguageModel`.
      has_adapters: As for `copy_weights`.

    Returns:
      A model of the same class, with weights of its own and without a preprocessor.

    Raises:
      ModelsDiffer: If the model cannot be built from its config, or has other layers or weights than its config says.
    """
    try:
        twin = rebuilt(model)
    except Exception as error:  # the constructor of a model may raise anything
        raise ModelsDiffer(f"it cannot be built from its config: {kind_and_text(error)}") from error
    copy_weights(model, twin, has_adapters)
    for layer, name, value, _ in changed_attributes(model, twin):
        setattr(layer, name, value)
    return twin


def changed_attributes(model: keras.Model, twin: keras.Model) -> Iterator[tuple[keras.Layer, str, Plain, Plain]]:
    """Compares the numbers, texts and flags that the layers of two models hold.

    Args:
      model: A Keras language model.
      twin: A model of the same class.

    Yields:
      A layer of `twin`, the name of an attribute, and its values in `model` and in `twin`, which differ.

    Raises:
      ModelsDiffer: If the two models do not have the same layers.
    """
    layers, others = layers_by_path(model), layers_by_path(twin)
    of_keras = {*vars(keras.layers.Layer()), "training"}  # names, flags and counters of Keras, and of its latest call
    for path in dict.fromkeys((*layers, *others)):
        mine, other = layers.get(path), others.get(path)
        if mine is None or other is None or type(mine) is not type(other):
            raise ModelsDiffer(f"layer {path} is {_kind(mine)} in the model and {_kind(other)} in its copy")
        if isinstance(mine, keras.Model):  # its arguments are in its config; the rest is the state of Keras' training
            continue
        for name, value in list(vars(mine).items()):
            if name in of_keras or name.startswith(ADAPTER) or not isinstance(value, Plain):
                continue
            old = getattr(other, name, None)
            if isinstance(old, Plain) and value != old:
                yield other, name, value, old


def check_same(model: LanguageModel, twin: LanguageModel, tolerance: float = 0.0) -> None:
    """Compares the hidden states and logits of two models on a few tokens.

    A copy must be equal to the bit, because it applies the same operations to the same numbers. Only if the model
    itself gives different numbers in two passes, as some operations on GPUs do, its copy may differ as much.

    Args:
      model: A language model.
      twin: Its copy.
      tolerance: Largest difference, relative to the largest number of the model, for a copy with merged adapters.

    Raises:
      ModelsDiffer: If a number differs.
    """
    rows, length = CHECKED
    length = min(length, model.context_length or length)
    tokens = tf.constant(np.arange(rows * length).reshape(rows, length) * 7919 % model.vocabulary_size, tf.int32)

    def outputs(which: LanguageModel) -> list[np.ndarray]:
        hidden = which.hidden_states(tokens)
        return [tf.cast(x, tf.float32).numpy() for x in (hidden, which.logits(hidden))]

    for name, first, again, copied in zip(
        ("hidden states", "logits"), outputs(model), outputs(model), outputs(twin), strict=True
    ):
        difference = np.max(np.abs(copied - first))
        allowed = np.max(np.abs(again - first)) + tolerance * np.max(np.abs(first))
        if not (np.array_equal(copied, first, equal_nan=True) or difference <= allowed):
            raise ModelsDiffer(f"the {name} of its copy differ by up to {difference:.3g}")


def _form(weight: keras.Variable | None) -> str:
    return "missing" if weight is None else f"{weight.dtype} {list(weight.shape)}"


def _kind(layer: keras.Layer | None) -> str:
    return "missing" if layer is None else f"a {type(layer).__name__}"
