"""The batches of a training, as a function of the seed and of the number of the gradient step alone.

So a resumed run continues with the same batches, whatever has happened before.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from tfppo.text.supervised.examples import Example
from tfppo.text.supervised.packing import Batch, lay_out

MEASURED = 100  # batches whose padding is measured
WINDOW = 16  # batches whose examples are sorted by length, if they are not packed

Element = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]
"""Inputs, targets and weights of a step, as Keras' `fit` takes them."""


class Batches:
    """The batches of examples in each epoch.

    Args:
      examples: N examples.
      batch_size: B; the last batch of an epoch may have fewer examples.
      packs: True packs the examples of a batch. False makes batches of similar lengths, which need little padding: the
        shuffled examples are sorted by length within windows of 16 batches.
      seed: Seed of the order. None keeps the order of the examples.
    """

    def __init__(self, examples: Sequence[Example], batch_size: int, packs: bool, seed: int | None = None):
        self.examples, self.batch_size, self.packs, self.seed = examples, batch_size, packs, seed

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
        if self.packs:
            return np.split(numbers, range(size, count, size))
        lengths = np.array([len(example.tokens) for example in self.examples])
        windows = np.split(numbers, range(WINDOW * size, count, WINDOW * size))
        ordered = np.concatenate([window[np.argsort(lengths[window], kind="stable")] for window in windows])
        batches = np.split(ordered, range(size, count, size))
        return [batches[number] for number in random.permutation(len(batches))]

    def steps(self, start: int, stop: int) -> Iterator[Batch]:
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
            yield lay_out([self.examples[number] for number in order[place]], self.packs)

    def dataset(self, start: int, stop: int) -> tf.data.Dataset:
        """Returns the batches of gradient steps for `fit`, see `steps`."""

        def elements() -> Iterator[Element]:
            for batch in self.steps(start, stop):
                yield {"token_ids": batch.token_ids, "padding_mask": batch.segments}, batch.targets, batch.weights

        matrix = [tf.TensorSpec([None, None], kind) for kind in (tf.int32, tf.int32, tf.int32, tf.float32)]
        signature = ({"token_ids": matrix[0], "padding_mask": matrix[1]}, matrix[2], matrix[3])
        dataset = tf.data.Dataset.from_generator(elements, output_signature=signature)
        return dataset.apply(tf.data.experimental.assert_cardinality(stop - start)).prefetch(2)

    def padding(self) -> float:
        """Returns the share of positions without a token in the first epoch, or in its first 100 batches."""
        segments = [batch.segments for batch in self.steps(0, min(len(self), MEASURED))]
        return float(sum(np.sum(each == 0) for each in segments) / sum(each.size for each in segments))
