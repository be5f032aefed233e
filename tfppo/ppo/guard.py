"""Numbers that are not finite never reach the weights: the update is skipped and counted, and too many in a row end the
run."""

from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from tfppo.errors import UsageError
from tfppo.ops.masking import masked_finite
from tfppo.ppo.types import Batch, value_mask_of

MAX_IN_A_ROW = 5  # skipped updates after which a run stops
ADVICE = {
    "an observation": "mend the environment",
    "a reward": "mend the environment",
    "a score": "mend the reward",
    "old_log_probs": "the policy's outputs have overflowed: lower the learning rate",
    "old_values": "the critic's outputs have overflowed: lower the learning rate or scale the rewards down",
    "reference_log_probs": "the reference gives a token no probability: look at its weights",
    "advantages": "scale the rewards down",
    "returns": "scale the rewards down",
    "the loss": "lower the learning rate",
    "the gradient": "lower the learning rate",
}
NAMES = tuple(ADVICE)
FIELDS = tuple(name for name in NAMES if name in Batch._fields)
NOTHING = -1  # every number is finite


class Guard(tf.Module):
    """Finds what is not finite in an update, and counts the updates that were skipped for it.

    An update ends at the first gradient step that is not finite, and leaves no trace in weights and optimizer; where
    the rollout itself is not finite, it does not begin. `NAMES` are what is looked at, in this order; what is found is
    an index into them.
    """

    def __init__(self):
        super().__init__(name="guard")
        self.skipped = tf.Variable(0, dtype=tf.int64, trainable=False, name="skipped")
        self.in_a_row = tf.Variable(0, dtype=tf.int64, trainable=False, name="skipped_in_a_row")
        self.found = tf.Variable(NOTHING, dtype=tf.int64, trainable=False, name="found")  # in the latest update

    @property
    def state(self) -> list[tf.Variable]:
        """Everything that changes, in a fixed order."""
        return [self.skipped, self.in_a_row, self.found]

    def of_batch(self, data: Any, batch: Batch) -> tf.Tensor:
        """The first thing in a rollout or its batch that is not finite, scalar int64.

        Args:
          data: what the learner was given; its property `guarded` names tensors, with the masks of what counts.
          batch: what was made of it.
        """
        named = dict(getattr(data, "guarded", {}))
        for name in FIELDS:
            x = getattr(batch, name)
            if x is not None:
                named[name] = (x, value_mask_of(batch) if name in ("old_values", "returns") else batch.mask)
        return _first((name, masked_finite(*named[name])) for name in NAMES if name in named)

    def of_step(self, loss: tf.Tensor, gradient_norm: tf.Tensor) -> tf.Tensor:
        """Which of the two, scalars, is not finite, scalar int64. A norm is finite only where every gradient is."""
        return _first([("the loss", tf.math.is_finite(loss)), ("the gradient", tf.math.is_finite(gradient_norm))])

    def count(self, found: tf.Tensor) -> tf.Tensor:
        """Takes note of what an update has found. Returns the updates that were skipped so far, a float32 scalar."""
        bad = tf.cast(found != NOTHING, tf.int64)
        self.found.assign(found)
        self.in_a_row.assign((self.in_a_row.read_value() + 1) * bad)
        return tf.cast(self.skipped.assign_add(bad), tf.float32)

    def check(self, iteration: int) -> None:
        """Raises UsageError if so many updates in a row were skipped, up to this iteration, that more are no use."""
        if int(self.in_a_row.numpy()) >= MAX_IN_A_ROW:
            name = self.culprit
            raise UsageError(
                f"{name} was not finite in {int(self.in_a_row.numpy())} updates in a row, the latest of them in "
                f"iteration {iteration + 1}: {ADVICE[name]}; weights and checkpoints are as they were before"
            )

    @property
    def culprit(self) -> str | None:
        """What was not finite in the latest update; None: nothing."""
        found = int(self.found.numpy())
        return None if found == NOTHING else NAMES[found]


def _first(checks: Iterable[tuple[str, tf.Tensor]]) -> tf.Tensor:
    """The index into NAMES of the first check that fails."""
    found = tf.constant(NOTHING, tf.int64)
    for name, is_finite in reversed(list(checks)):
        found = tf.where(is_finite, found, tf.constant(NAMES.index(name), tf.int64))
    return found
