"""Conversion of Keras models to language models, networks of hidden states, and frozen copies as reference policies."""

import keras
import keras_hub

from tfppo.errors import UsageError, one_line
from tfppo.text.models.copying import ModelsDiffer, check_same, copy_model
from tfppo.text.models.families import FAMILIES, why_refused
from tfppo.text.models.language_model import CachedLanguageModel, LanguageModel, RecurrentLanguageModel
from tfppo.text.models.lstm import LSTMLanguageModel


def as_language_model(model: keras.Model) -> LanguageModel:
    """Wraps a Keras model in the fastest available implementation of `LanguageModel`.

    Args:
      model: A KerasHub CausalLM or an `LSTMLanguageModel`.

    Returns:
      The language model, which uses the weights of `model`.

    Raises:
      UsageError: If the model is of another class, or of a family of KerasHub that cannot be tuned.
    """
    if isinstance(model, LSTMLanguageModel):
        return RecurrentLanguageModel(model)
    if isinstance(model, keras_hub.models.CausalLM):
        if reason := why_refused(model):
            raise UsageError(
                f"model is a {type(model).__name__}, which cannot be tuned, because {reason}: give a model of another "
                "family, such as Llama, Gemma 3 or Qwen 3"
            )
        return next((FAMILIES[kind] for kind in type(model).__mro__ if kind in FAMILIES), CachedLanguageModel)(model)
    raise UsageError(
        f"model is a {type(model).__name__}; it must be a language model: give a keras_hub.models.CausalLM or an "
        "LSTMLanguageModel"
    )


def states_network(model: keras.Model) -> keras.Model:
    """Returns a Keras model that computes the hidden states of a language model, with its weights.

    Args:
      model: A KerasHub CausalLM or an `LSTMLanguageModel`.

    Returns:
      A model of "token_ids" and "padding_mask", int [B, S] each; its output is [B, S, D].
    """
    if isinstance(model, keras_hub.models.CausalLM):
        return model.backbone
    inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in ("token_ids", "padding_mask")}
    return keras.Model(inputs, model.hidden_states(inputs["token_ids"], training=None))


def copy_of(model: LanguageModel) -> LanguageModel:
    """Copies a language model.

    Args:
      model: Language model to copy.

    Returns:
      A language model of the same class with the same weights in variables of its own. The same ones are frozen.

    Raises:
      UsageError: If the copy would not be complete, that is, if it gives other hidden states or logits.
    """
    try:
        twin = as_language_model(copy_model(model.model))
        check_same(model, twin)
    except ModelsDiffer as error:
        raise UsageError(
            f"{type(model.model).__name__} cannot be copied ({one_line(error)}); a reference policy and a separate "
            "critic are copies: set lora_rank and leave separate_critic out, then no copy is needed"
        ) from error
    return twin


def freeze(model: LanguageModel) -> LanguageModel:
    """Makes all variables of a language model not trainable, and returns the same model.

    Args:
      model: Language model to freeze.
    """
    model.model.trainable = False
    return model
