"""Builds on-policy datasets with tf.data.

Element k is collected when it is requested, after update k - 1, so that the rollout uses the current weights.
"""

import itertools
from collections.abc import Iterator
from typing import Protocol, TypeVar

import tensorflow as tf

from tfppo.ops.random import fold_in, permutation
from tfppo.settings import exact_div

R_co = TypeVar("R_co", covariant=True)


class Collect(Protocol[R_co]):
    """A function that collects one rollout. TensorFlow must be able to trace it."""

    def __call__(self, iteration: tf.Tensor, *given: tf.Tensor) -> R_co:
        """Collects a rollout.

        Args:
          iteration: int64 scalar, the number of the rollout.
          *given: Components of the source's element, such as prompts and their lengths.

        Returns:
          The rollout, a nest of tensors.
        """


def rollout_dataset(
    collect: Collect[R_co],
    start: int = 0,
    device: str = "/CPU:0",
    source: tf.data.Dataset | None = None,
) -> tf.data.Dataset:
    """Makes an infinite `tf.data.Dataset` with the elements `collect(k)` for k = start, start + 1, ...

    Do not add `.prefetch` to the dataset: it would collect rollout k + 1 before update k, with outdated weights. The
    automatic prefetching of tf.data is switched off for the same reason.

    Args:
      collect: Function of the iteration (int64 scalar) that TensorFlow can trace. It may read and assign variables.
      start: First iteration. A resumed run starts at its next iteration.
      device: TensorFlow device that runs `collect` and holds its result.
      source: Infinite dataset, for example of prompts. The components of its element k become further arguments of
        `collect`. None passes only the iteration.

    Returns:
      The dataset.
    """
    options = tf.data.Options()
    options.experimental_optimization.inject_prefetch = False
    options.autotune.enabled = False
    options.deterministic = True

    @tf.autograph.experimental.do_not_convert  # the function needs no conversion, and the attempt takes a second
    def element(iteration: tf.Tensor, *given: tf.Tensor) -> R_co:
        with tf.device(device):  # inside the mapped function, because tf.data ignores the device around it
            return collect(iteration, *given)

    dataset = tf.data.Dataset.counter(start)
    if source is not None:
        dataset = tf.data.Dataset.zip(dataset, source.skip(start)).map(lambda k, given: (k, *given))
    dataset = dataset.map(element)
    if "GPU" in device:
        dataset = dataset.apply(tf.data.experimental.copy_to_device(device))
    return dataset.with_options(options)


def rollouts_one_by_one(
    collect: Collect[R_co], start: int = 0, device: str = "/CPU:0", source: tf.data.Dataset | None = None
) -> Iterator[R_co]:
    """Yields the elements of `rollout_dataset` without tf.data, in which replicas cannot communicate.

    Args:
      collect: As for `rollout_dataset`.
      start: As for `rollout_dataset`.
      device: As for `rollout_dataset`.
      source: As for `rollout_dataset`.

    Yields:
      One rollout at a time, without end.
    """
    program = tf.function(collect, autograph=False)
    given = itertools.repeat(()) if source is None else source.skip(start)
    for number, components in zip(itertools.count(start), given):  # noqa: B905 (infinite)
        with tf.device(device):
            rollout = program(tf.constant(number, tf.int64), *components)
        yield rollout


def prompt_dataset(
    prompts: tf.Tensor, lengths: tf.Tensor, batch_size: int, seed: int, repeats: int = 1
) -> tf.data.Dataset:
    """Makes an infinite dataset of batches of prompts.

    The order is a sequence of random permutations: every prompt appears once before any prompt appears again. Element k
    is the same in every run with the same seed. With `repeats` each appearance fills that many neighboring rows of a
    batch.

    Args:
      prompts: Token ids, int32 [N, P], padded on the right.
      lengths: Number of tokens of each prompt, int32 [N].
      batch_size: Number of rows per batch, B.
      seed: Seed of the order.
      repeats: Number of rows in a row with the same prompt; must divide B.

    Returns:
      A dataset of triples: prompts int32 [B, P], lengths int32 [B], and the rows of `prompts` that they are, int32 [B].

    Raises:
      UsageError: If `repeats` does not divide the batch size.
    """
    different = exact_div(batch_size, repeats, "batch_size", "repeats")
    root = tf.constant([seed, 0x9804], tf.int32)

    def one_pass(number: tf.Tensor) -> tf.data.Dataset:  # Dataset.shuffle would depend on TensorFlow's global seed
        return tf.data.Dataset.from_tensor_slices(permutation(len(lengths), fold_in(root, number)))

    rows = tf.data.Dataset.counter().flat_map(one_pass).batch(different, drop_remainder=True)
    if repeats > 1:
        rows = rows.map(lambda index: tf.repeat(index, repeats))
    return rows.map(lambda index: (tf.gather(prompts, index), tf.gather(lengths, index), index))
