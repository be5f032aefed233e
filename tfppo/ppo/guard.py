"""Keeps numbers that are not finite out of the weights.

An update with such a number is skipped and counted. After too many skipped updates in a row the run ends.
"""

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

import tensorflow as tf

from tfppo.errors import UsageError, see
from tfppo.ops.masking import masked_finite
from tfppo.ops.nest import Nest

MAX_IN_A_ROW = 5  # number of skipped updates in a row that ends a run


class Quantity(Enum):
    """The quantities that must be finite in an update, in the order in which they are checked.

    Each has a name and an advice for error messages. Checkpoints store indices into this order.
    """

    OBSERVATION = "an observation", "fix the environment"
    REWARD = "a reward", "fix the environment"
    SCORE = "a score", "fix the reward"
    OLD_LOG_PROBS = "old_log_probs", "the outputs of the policy overflowed, lower the learning rate"
    OLD_VALUES = (
        "old_values",
        "the outputs of the critic overflowed, lower the learning rate or scale the rewards down",
    )
    REFERENCE_LOG_PROBS = "reference_log_probs", "the reference gives a token no probability, check its weights"
    ADVANTAGES = "advantages", "scale the rewards down"
    RETURNS = "returns", "scale the rewards down"
    LOSS = "the loss", "lower the learning rate"
    GRADIENT = "the gradient", "lower the learning rate"

    def __init__(self, words: str, advice: str):
        self.words = words
        self.verb = "were" if words.isidentifier() else "was"  # names of fields are plurals
        self.advice = advice

    def __str__(self) -> str:
        return self.words


QUANTITIES = tuple(Quantity)
NOTHING = -1  # stands for an index into QUANTITIES if every number is finite


class Masked(NamedTuple):
    """Numbers with a mask of those that must be finite."""

    values: Nest  # [..., *rest] each; values that are not floats count as finite
    mask: tf.Tensor | None = None  # [...] bool; None counts all of them


class Guard(tf.Module):
    """Finds numbers in an update that are not finite, and counts the skipped updates.

    An update stops at the first gradient step that is not finite, and weights and optimizer return to their state
    before the update. If the rollout is not finite, the update does not begin. The guard describes what it found by an
    index into `QUANTITIES`, or by `NOTHING`.
    """

    def __init__(self) -> None:
        super().__init__(name="guard")
        self.skipped = tf.Variable(0, dtype=tf.int64, trainable=False, name="skipped")
        self.in_a_row = tf.Variable(0, dtype=tf.int64, trainable=False, name="skipped_in_a_row")
        self.found = tf.Variable(NOTHING, dtype=tf.int64, trainable=False, name="found")  # of the latest update

    @property
    def state(self) -> list[tf.Variable]:
        """The variables of the guard, in a fixed order."""
        return [self.skipped, self.in_a_row, self.found]

    def of_data(self, data: Mapping[Quantity, Masked]) -> tf.Tensor:
        """Finds the first quantity of a rollout and its batch that is not finite.

        Args:
          data: The numbers to check, by quantity.

        Returns:
          int64 scalar, an index into `QUANTITIES` or `NOTHING`.
        """
        return _first({quantity: masked_finite(*masked) for quantity, masked in data.items()})

    def of_step(self, loss: tf.Tensor, gradient_norm: tf.Tensor) -> tf.Tensor:
        """Checks the loss and the gradients of a step.

        Args:
          loss: Scalar.
          gradient_norm: Scalar, the global norm of the gradients. It is finite only if every gradient is finite.

        Returns:
          int64 scalar, an index into `QUANTITIES` or `NOTHING`.
        """
        return _first({Quantity.LOSS: tf.math.is_finite(loss), Quantity.GRADIENT: tf.math.is_finite(gradient_norm)})

    def count(self, found: tf.Tensor) -> tf.Tensor:
        """Counts an update.

        Args:
          found: int64 scalar, what was found in the update.

        Returns:
          float32 scalar, the number of skipped updates so far.
        """
        bad = tf.cast(found != NOTHING, tf.int64)
        self.found.assign(found)
        self.in_a_row.assign((self.in_a_row.read_value() + 1) * bad)
        return tf.cast(self.skipped.assign_add(bad), tf.float32)

    def check(self, iteration: int) -> None:
        """Checks that not too many updates in a row were skipped.

        Args:
          iteration: Index of the latest iteration.

        Raises:
          UsageError: If at least `MAX_IN_A_ROW` updates in a row were skipped.
        """
        culprit, in_a_row = self.culprit, int(self.in_a_row.numpy())
        if culprit is not None and in_a_row >= MAX_IN_A_ROW:
            raise UsageError(
                f"{culprit} {culprit.verb} not finite in {in_a_row} updates in a row, most recently in iteration "
                f"{iteration + 1}: {culprit.advice}; these updates did not change the weights "
                f"{see('many-updates-in-a-row-were-skipped')}"
            )

    @property
    def culprit(self) -> Quantity | None:
        """The quantity that was not finite in the latest update, or None."""
        found = int(self.found.numpy())
        return None if found == NOTHING else QUANTITIES[found]


def _first(finite: Mapping[Quantity, tf.Tensor]) -> tf.Tensor:
    """Returns the index of the first quantity that is not finite, or `NOTHING`.

    Args:
      finite: A bool scalar for each quantity.
    """
    found = tf.constant(NOTHING, tf.int64)
    for index, quantity in reversed(list(enumerate(QUANTITIES))):
        if quantity in finite:
            found = tf.where(finite[quantity], found, tf.constant(index, tf.int64))
    return found
