"""Numbers that are not finite never reach the weights: the update is skipped and counted, and too many in a row end the
run."""

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

import tensorflow as tf

from tfppo.errors import UsageError
from tfppo.ops.masking import masked_finite
from tfppo.ops.nest import Nest

MAX_IN_A_ROW = 5  # skipped updates after which a run stops


class Quantity(Enum):
    """What must be finite in an update, in the order in which it is looked at.

    Each has the words that messages use, and the advice that they give. Checkpoints hold indices into this order.
    """

    OBSERVATION = "an observation", "mend the environment"
    REWARD = "a reward", "mend the environment"
    SCORE = "a score", "mend the reward"
    OLD_LOG_PROBS = "old_log_probs", "the policy's outputs have overflowed: lower the learning rate"
    OLD_VALUES = (
        "old_values",
        "the critic's outputs have overflowed: lower the learning rate or scale the rewards down",
    )
    REFERENCE_LOG_PROBS = "reference_log_probs", "the reference gives a token no probability: look at its weights"
    ADVANTAGES = "advantages", "scale the rewards down"
    RETURNS = "returns", "scale the rewards down"
    LOSS = "the loss", "lower the learning rate"
    GRADIENT = "the gradient", "lower the learning rate"

    def __init__(self, words: str, advice: str):
        self.words = words
        self.advice = advice

    def __str__(self) -> str:
        return self.words


QUANTITIES = tuple(Quantity)
NOTHING = -1  # in place of an index into QUANTITIES: every number is finite


class Masked(NamedTuple):
    """Numbers, and which of them count."""

    values: Nest  # [..., *rest] each; those that are not floats are finite
    mask: tf.Tensor | None = None  # [...] bool; None: all of them count


class Guard(tf.Module):
    """Finds what is not finite in an update, and counts the updates that were skipped for it.

    An update ends at the first gradient step that is not finite, and leaves no trace in weights and optimizer; where
    the rollout itself is not finite, it does not begin. What is found is an index into `QUANTITIES`, or NOTHING.
    """

    def __init__(self) -> None:
        super().__init__(name="guard")
        self.skipped = tf.Variable(0, dtype=tf.int64, trainable=False, name="skipped")
        self.in_a_row = tf.Variable(0, dtype=tf.int64, trainable=False, name="skipped_in_a_row")
        self.found = tf.Variable(NOTHING, dtype=tf.int64, trainable=False, name="found")  # in the latest update

    @property
    def state(self) -> list[tf.Variable]:
        """Everything that changes, in a fixed order."""
        return [self.skipped, self.in_a_row, self.found]

    def of_data(self, data: Mapping[Quantity, Masked]) -> tf.Tensor:
        """Finds the first quantity of a rollout and its batch that is not finite, scalar int64."""
        return _first({quantity: masked_finite(*masked) for quantity, masked in data.items()})

    def of_step(self, loss: tf.Tensor, gradient_norm: tf.Tensor) -> tf.Tensor:
        """Finds which of two scalars is not finite, scalar int64. A norm is finite only where every gradient is."""
        return _first({Quantity.LOSS: tf.math.is_finite(loss), Quantity.GRADIENT: tf.math.is_finite(gradient_norm)})

    def count(self, found: tf.Tensor) -> tf.Tensor:
        """Takes note of what an update has found. Returns the updates that were skipped so far, a float32 scalar."""
        bad = tf.cast(found != NOTHING, tf.int64)
        self.found.assign(found)
        self.in_a_row.assign((self.in_a_row.read_value() + 1) * bad)
        return tf.cast(self.skipped.assign_add(bad), tf.float32)

    def check(self, iteration: int) -> None:
        """Raises UsageError if so many updates in a row were skipped, up to this iteration, that more are no use."""
        culprit, in_a_row = self.culprit, int(self.in_a_row.numpy())
        if culprit is not None and in_a_row >= MAX_IN_A_ROW:
            raise UsageError(
                f"{culprit} was not finite in {in_a_row} updates in a row, the latest of them in "
                f"iteration {iteration + 1}: {culprit.advice}; weights and checkpoints are as they were before"
            )

    @property
    def culprit(self) -> Quantity | None:
        """What was not finite in the latest update; None: nothing."""
        found = int(self.found.numpy())
        return None if found == NOTHING else QUANTITIES[found]


def _first(finite: Mapping[Quantity, tf.Tensor]) -> tf.Tensor:
    """Returns the index of the first quantity that is not finite, by bool scalars."""
    found = tf.constant(NOTHING, tf.int64)
    for index, quantity in reversed(list(enumerate(QUANTITIES))):
        if quantity in finite:
            found = tf.where(finite[quantity], found, tf.constant(index, tf.int64))
    return found
