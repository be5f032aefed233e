"""The on-policy tf.data pipeline: element k is collected with the weights of version k, when it is asked for."""

import itertools
from collections.abc import Iterator
from typing import Protocol, TypeVar

import tensorflow as tf

from tfppo.ops.random import fold_in, permutation

R_co = TypeVar("R_co", covariant=True)


class Collect(Protocol[R_co]):
    """Makes element `iteration` (int64 scalar) of an on-policy dataset; TensorFlow can trace it."""

    def __call__(self, iteration: tf.Tensor, *given: tf.Tensor) -> R_co: ...


def rollout_dataset(
    collect: Collect[R_co],
    start: int = 0,
    device: str = "/CPU:0",
    source: tf.data.Dataset | None = None,
) -> tf.data.Dataset:
    """An endless tf.data.Dataset whose element k is `collect(k)`, k = start, start + 1, ...

    tf.data would prefetch behind the last map, and collect rollout k + 1 with the weights of version k: that is
    switched off, and a `.prefetch` must not be added behind it.

    Args:
      collect: a function of the iteration, a scalar int64 tensor, that TensorFlow can trace; it may read and assign
        variables.
      start: the first iteration, where a resumed run goes on.
      device: where `collect` runs and where its element is left.
      source: an endless dataset (prompts) whose element k is given to `collect` behind k, its components one by one.
    """
    options = tf.data.Options()
    options.experimental_optimization.inject_prefetch = False
    options.autotune.enabled = False
    options.deterministic = True

    @tf.autograph.experimental.do_not_convert  # there is nothing to convert, and looking for it takes a second
    def element(iteration: tf.Tensor, *given: tf.Tensor) -> R_co:
        with tf.device(device):  # inside the map: outside it would not reach the function that tf.data runs
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
    """Yields what `rollout_dataset` would, without it: replicas cannot meet inside of tf.data."""
    program = tf.function(collect, autograph=False)
    given = itertools.repeat(()) if source is None else source.skip(start)
    for number, components in zip(itertools.count(start), given):  # noqa: B905 (endless)
        with tf.device(device):
            rollout = program(tf.constant(number, tf.int64), *components)
        yield rollout


def prompt_dataset(prompts: tf.Tensor, lengths: tf.Tensor, batch_size: int, seed: int) -> tf.data.Dataset:
    """Endless batches of prompts: (int32 [B, P], int32 [B]), every prompt once before any comes again, shuffled anew
    each time; element k is the same in every run with the same seed.

    Args:
      prompts: int32 [N, P], padded on the right.
      lengths: int32 [N].
      batch_size: B.
      seed: of the order.
    """
    root = tf.constant([seed, 0x9804], tf.int32)

    def one_pass(number: tf.Tensor) -> tf.data.Dataset:  # tf.data's own shuffle also hangs on TensorFlow's global seed
        return tf.data.Dataset.from_tensor_slices(permutation(len(lengths), fold_in(root, number)))

    rows = tf.data.Dataset.counter().flat_map(one_pass).batch(batch_size, drop_remainder=True)
    return rows.map(lambda index: (tf.gather(prompts, index), tf.gather(lengths, index)))
