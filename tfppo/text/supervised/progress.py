"""The progress of a training: early stopping, and the state that a checkpoint holds."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tfppo.text.supervised.tuner import Tuner


class Progress:
    """Counts gradient steps and validations, and decides when to stop.

    Training stops early after `patience` validations in a row without a lower loss.

    Args:
      patience: Number of validations.
    """

    def __init__(self, patience: int):
        self.patience = patience
        self.steps = _counter("steps")  # gradient steps, the skipped ones too
        self.rows = _counter("rows")  # rows of metrics, each with a validation
        self.waiting = _counter("waiting")  # validations since the lowest loss
        self.best_row = _counter("best_row")  # the validation with the lowest loss, from 1; 0: there was none
        self.losses = tf.Variable([np.nan, np.inf], dtype=tf.float64, trainable=False)  # before training, and lowest

    @property
    def state(self) -> list[tf.Variable]:
        """The variables, in a fixed order."""
        return [self.steps, self.rows, self.waiting, self.best_row, self.losses]

    @property
    def first_loss(self) -> float:
        """Validation loss before the training; NaN if it is unknown."""
        return float(self.losses.numpy()[0])

    @property
    def best_loss(self) -> float:
        """Lowest validation loss; infinite if there was no validation."""
        return float(self.losses.numpy()[1])

    @property
    def is_stopped(self) -> bool:
        """True if the training stops early."""
        return int(self.waiting) >= self.patience

    def begin(self, loss: float) -> None:
        """Records the validation loss before the training."""
        self.losses.assign([loss, self.best_loss])

    def record(self, loss: float | None) -> None:
        """Records a row of metrics, with the validation loss if there is a validation."""
        self.rows.assign_add(1)
        if loss is None:
            return
        if loss < self.best_loss:
            self.losses.assign([self.first_loss, loss])
            self.best_row.assign(self.rows)
            self.waiting.assign(0)
        else:
            self.waiting.assign_add(1)


def state_of(tuner: Tuner, model: keras.Model, progress: Progress) -> dict[str, list[tf.Variable]]:
    """Returns everything that a checkpoint of a training must hold, by name.

    Args:
      tuner: Trains the model; compiled, and with a built optimizer.
      model: The language model.
      progress: Progress of the training.
    """
    seeds = [variable for variable in model.variables if not _is_in(variable, model.weights)]
    return {
        "model": list(model.weights),
        **({"new": tuner.new_weights} if tuner.new_weights else {}),
        "seeds": seeds,  # of dropout
        "optimizer": list(tuner.optimizer.variables),
        "metrics": [variable for metric in tuner.metrics for variable in metric.variables],  # of the current interval
        "guard": tuner.guard.state,
        "progress": progress.state,
    }


def _is_in(variable: keras.Variable, variables: Sequence[keras.Variable]) -> bool:
    return any(variable is other for other in variables)


def _counter(name: str) -> tf.Variable:
    return tf.Variable(0, dtype=tf.int64, trainable=False, name=name)
