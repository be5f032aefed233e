"""Keras models as language models, and the reference: what a policy was before PPO touched it."""

import keras
import keras_hub

from tfppo.errors import UsageError
from tfppo.text.models.gpt2 import GPT2LanguageModel
from tfppo.text.models.language_model import CachedLanguageModel, LanguageModel, RecurrentLanguageModel
from tfppo.text.models.lstm import LSTMLanguageModel


def as_language_model(model: keras.Model) -> LanguageModel:
    """The fastest form of a Keras language model that there is here.

    Raises:
      UsageError: if it is neither a KerasHub CausalLM nor an LSTMLanguageModel.
    """
    if isinstance(model, LSTMLanguageModel):
        return RecurrentLanguageModel(model)
    if isinstance(model, keras_hub.models.GPT2CausalLM):
        return GPT2LanguageModel(model)
    if isinstance(model, keras_hub.models.CausalLM):
        return CachedLanguageModel(model)
    raise UsageError(
        f"{type(model).__name__} is no language model that can be tuned here: give a keras_hub.models.CausalLM, "
        "or an LSTMLanguageModel"
    )


def copy_of(model: LanguageModel) -> LanguageModel:
    """A language model of the same make and weights, with variables of its own."""
    twin = type(model.model).from_config(model.model.get_config())
    twin.set_weights(model.model.get_weights())
    return as_language_model(twin)


def freeze(model: LanguageModel) -> LanguageModel:
    """The same model, none of whose variables is trainable."""
    model.model.trainable = False
    return model
