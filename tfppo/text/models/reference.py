"""Conversion of Keras models to language models, and frozen copies as reference policies."""

import keras
import keras_hub

from tfppo.errors import UsageError
from tfppo.text.models.gpt2 import GPT2LanguageModel
from tfppo.text.models.language_model import CachedLanguageModel, LanguageModel, RecurrentLanguageModel
from tfppo.text.models.lstm import LSTMLanguageModel


def as_language_model(model: keras.Model) -> LanguageModel:
    """Wraps a Keras model in the fastest available implementation of `LanguageModel`.

    Args:
      model: A KerasHub CausalLM or an `LSTMLanguageModel`.

    Returns:
      The language model, which uses the weights of `model`.

    Raises:
      UsageError: If the model is of another class.
    """
    if isinstance(model, LSTMLanguageModel):
        return RecurrentLanguageModel(model)
    if isinstance(model, keras_hub.models.GPT2CausalLM):
        return GPT2LanguageModel(model)
    if isinstance(model, keras_hub.models.CausalLM):
        return CachedLanguageModel(model)
    raise UsageError(
        f"model is a {type(model).__name__}; it must be a language model: give a keras_hub.models.CausalLM or an "
        "LSTMLanguageModel"
    )


def copy_of(model: LanguageModel) -> LanguageModel:
    """Copies a language model.

    Args:
      model: Language model to copy.

    Returns:
      A language model of the same class with the same weights in variables of its own.
    """
    twin = type(model.model).from_config(model.model.get_config())
    twin.set_weights(model.model.get_weights())
    return as_language_model(twin)


def freeze(model: LanguageModel) -> LanguageModel:
    """Makes all variables of a language model not trainable, and returns the same model.

    Args:
      model: Language model to freeze.
    """
    model.model.trainable = False
    return model
