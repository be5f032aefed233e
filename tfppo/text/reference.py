"""The reference policy: what the language model was before PPO touched it."""

from tfppo.text.language_model import LanguageModel, as_language_model


def copy_of(model: LanguageModel) -> LanguageModel:
    """A language model of the same make and weights, with variables of its own."""
    twin = type(model.model).from_config(model.model.get_config())
    twin.set_weights(model.model.get_weights())
    return as_language_model(twin)


def freeze(model: LanguageModel) -> LanguageModel:
    """The same model, none of whose variables is trainable."""
    model.model.trainable = False
    return model
