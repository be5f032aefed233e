"""Keras models as rewards: models over strings, and KerasHub's text classifiers."""

from typing import TYPE_CHECKING

import numpy as np

from tfppo.errors import UsageError
from tfppo.text.data.prompts import joined
from tfppo.text.rewards.whole_texts import ReadsTexts

if TYPE_CHECKING:
    import keras
    import keras_hub


class KerasReward(ReadsTexts):
    """Scores prompts joined with their responses with a Keras model.

    Args:
      model: A `keras_hub.models.TextClassifier` with one or two classes, or any Keras model that maps a `tf.string`
        tensor [B] to scores [B] or [B, 1].

    Raises:
      UsageError: If it is a text classifier without a preprocessor, with more classes, or with an activation.
    """

    def __init__(self, model: "keras.Model"):
        import keras_hub

        self.model = model
        self.is_classifier = isinstance(model, keras_hub.models.TextClassifier)
        if self.is_classifier:
            _check_classifier(model)
        self.__module__, self.__qualname__ = type(model).__module__, model.name  # for error messages

    def __call__(self, prompts: list[str], responses: list[str]) -> np.ndarray:
        """Scores responses.

        Args:
          prompts: B prompts.
          responses: B responses.

        Returns:
          The outputs of the model, [B] if there is one for each text. The score of a text classifier with two classes
          is the logit of the second class minus that of the first one.
        """
        import tensorflow as tf

        texts = tf.constant(joined(prompts, responses, self.between), tf.string, [len(prompts)])
        inputs = self.model.preprocessor(texts) if self.is_classifier else texts
        outputs = self.model(inputs, training=False) if self.is_classifier else self.model(texts)
        scores = np.asarray(outputs)  # [B], [B, 1] or [B, 2]
        if self.is_classifier and scores.shape[1] == 2:
            return scores[:, 1] - scores[:, 0]
        return scores[:, 0] if scores.ndim == 2 and scores.shape[1] == 1 else scores


def _check_classifier(model: "keras_hub.models.TextClassifier") -> None:
    name = type(model).__name__
    if model.preprocessor is None:
        raise UsageError(
            f"reward is a {name} without a preprocessor; it must have one, which turns texts to tokens: make it with "
            f"{name}(..., preprocessor=...)"
        )
    classes = int(model.output.shape[-1])
    if classes > 2:
        raise UsageError(
            f"reward is a {name} with {classes} classes; it must have 1 (the score) or 2 (the second is the better "
            "one): give a function of (prompts, responses) that makes one number of the classes"
        )
    activation = getattr(getattr(model, "activation", None), "__name__", "linear")
    if activation != "linear":
        raise UsageError(
            f"reward is a {name} with the activation {activation}; it must return logits: make it with activation=None"
        )
