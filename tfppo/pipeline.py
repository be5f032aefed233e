"""The on-policy tf.data pipeline: element k is collected with the weights of version k, when it is asked for."""

from collections.abc import Callable

import tensorflow as tf


def rollout_dataset(
    collect: Callable[[tf.Tensor], tf.types.experimental.TensorLike], start: int = 0, device: str = "/CPU:0"
) -> tf.data.Dataset:
    """An endless tf.data.Dataset whose element k is `collect(k)`, k = start, start + 1, ...

    tf.data would prefetch behind the last map, and collect rollout k + 1 with the weights of version k: that is
    switched off, and a `.prefetch` must not be added behind it.

    Args:
      collect: a compiled function of the iteration, a scalar int64 tensor; it may read and assign variables.
      start: the first iteration, where a resumed run goes on.
      device: where `collect` runs and where its element is left.
    """
    options = tf.data.Options()
    options.experimental_optimization.inject_prefetch = False
    options.autotune.enabled = False
    options.deterministic = True

    @tf.autograph.experimental.do_not_convert  # there is nothing to convert, and looking for it takes a second
    def element(iteration):
        with tf.device(device):  # inside the map: outside it would not reach the function that tf.data runs
            return collect(iteration)

    dataset = tf.data.Dataset.counter(start).map(element)
    if "GPU" in device:
        dataset = dataset.apply(tf.data.experimental.copy_to_device(device))
    return dataset.with_options(options)
