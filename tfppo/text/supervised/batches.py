"""The batches of a training, as a function of the seed and of the number of the gradient step alone.

So a resumed run continues with the same batches, whatever has happened before.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import tensorflow as tf

MEASURED = 100  # batches whose padding is measured
WINDOW = 16  # batches whose examples are sorted by length, if they are not packed


class Example(Protocol):
    """An example of a training."""

    @property
    def length(self) -> int:
        """Number of tokens, by which examples are sorted."""


class Batch(Protocol):
    """The arrays of a gradient step."""

    @property
    def is_token(self) -> np.ndarray:
        """Bool [R, S], False at padding."""

    def element(self) -> Any:
        """Returns the arrays in the nest that `Tuner.measures` takes."""


E = TypeVar("E", bound=Example)
B = TypeVar("B", bound=Batch)


@dataclass(frozen=True)
class Layout(Generic[E, B]):
    """How examples become batches."""

    lay_out: Callable[[Sequence[E]], B]
    """Makes a batch of examples."""
    signature: Any
    """Nest of `tf.TensorSpec`, of `Batch.element`."""
    sorts: bool
    """True makes batches of similar lengths, which need little padding: the shuffled examples are sorted by length
    within windows of 16 batches."""


class Batches(Generic[E, B]):
    """The batches of examples in each epoch.

    Args:
      examples: N examples.
      batch_size: Examples in a batch; the last batch of an epoch may have fewer.
      layout: How examples become batches.
      seed: Seed of the order. None keeps the order of the examples.
    """

    def __init__(self, examples: Sequence[E], batch_size: int, layout: Layout[E, B], seed: int | None = None):
        self.examples, self.batch_size, self.layout, self.seed = examples, batch_size, layout, seed

    def __len__(self) -> int:
        """Returns the number of batches of an epoch."""
        return -(-len(self.examples) // self.batch_size)

    def order(self, epoch: int) -> list[np.ndarray]:
        """Returns the numbers of the examples in each batch of an epoch."""
        count, size = len(self.examples), self.batch_size
        if self.seed is None:
            return np.split(np.arange(count), range(size, count, size))
        random = np.random.default_rng([self.seed, epoch])
        numbers = random.permutation(count)
        if not self.layout.sorts:
            return np.split(numbers, range(size, count, size))
        lengths = np.array([example.length for example in self.examples])
        windows = np.split(numbers, range(WINDOW * size, count, WINDOW * size))
        ordered = np.concatenate([window[np.argsort(lengths[window], kind="stable")] for window in windows])
        batches = np.split(ordered, range(size, count, size))
        return [batches[number] for number in random.permutation(len(batches))]

    def steps(self, start: int, stop: int) -> Iterator[B]:
        """Makes the batches of gradient steps.

        Args:
          start: Number of the first step of the training, from 0.
          stop: Number behind the last step.

        Yields:
          The batches.
        """
        order: list[np.ndarray] = []
        for step in range(start, stop):
            epoch, place = divmod(step, len(self))
            if not order or place == 0:
                order = self.order(epoch)
            yield self.layout.lay_out([self.examples[number] for number in order[place]])

    def dataset(self, start: int, stop: int) -> tf.data.Dataset:
        """Returns the batches of gradient steps for `fit`, see `steps`."""

        def elements() -> Iterator[Any]:
            for batch in self.steps(start, stop):
                yield batch.element()

        dataset = tf.data.Dataset.from_generator(elements, output_signature=self.layout.signature)
        return dataset.apply(tf.data.experimental.assert_cardinality(stop - start)).prefetch(2)

    def padding(self) -> float:
        """Returns the share of positions without a token in the first epoch, or in its first 100 batches."""
        masks = [batch.is_token for batch in self.steps(0, min(len(self), MEASURED))]
        return 1.0 - float(sum(mask.sum() for mask in masks) / sum(mask.size for mask in masks))


def by_length(examples: Sequence[E]) -> list[E]:
    """Returns examples in the order of their lengths, so that batches of them need little padding."""
    return sorted(examples, key=lambda example: example.length)
