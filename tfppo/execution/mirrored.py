"""Replicas on several devices of one process."""

import contextlib
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from tfppo.errors import UsageError
from tfppo.execution.replicas import Maxima, Nests, Replicas, Structure
from tfppo.execution.variables import Variable, as_tensorflow_variable


class MirroredReplicas(Replicas):
    """Several devices of one process, with a copy of the variables on each (`tf.distribute.MirroredStrategy`).

    Python environments are not divided among the devices.

    Args:
      devices: Names of the devices, for example "/GPU:0" and "/GPU:1".
    """

    def __init__(self, devices: Sequence[str]):
        super().__init__(len(devices))
        self._strategy = tf.distribute.MirroredStrategy(list(devices))

    @property
    def description(self) -> str:
        """The number of devices, as the end of a log line."""
        return f"; shared by {self.count} devices"

    def scope(self) -> contextlib.AbstractContextManager[None]:
        """Returns a context in which new variables get a copy on every device."""
        return self._strategy.scope()

    def reduce(self, function: Callable[[int], tuple[Structure, Maxima]]) -> tuple[Structure, Maxima]:
        """Calls `function(index)` on every device; see `Replicas.reduce`."""
        (sums, maxima), local = self._run(function)
        count = len(tf.nest.flatten(sums))
        added = [self._strategy.reduce(tf.distribute.ReduceOp.SUM, x, axis=None) for x in local[:count]]
        largest = [tf.reduce_max(tf.stack(self._strategy.experimental_local_results(x))) for x in local[count:]]
        return tf.nest.pack_sequence_as(sums, added), tf.nest.pack_sequence_as(maxima, largest)

    def gather(self, function: Callable[[int], Nests], axes: Sequence[int]) -> Nests:
        """Calls `function(index)` on every device; see `Replicas.gather`."""
        nests, local = self._run(function)
        flat_axes = [axis for nest, axis in zip(nests, axes, strict=True) for _ in tf.nest.flatten(nest)]
        joined = [
            tf.concat(self._strategy.experimental_local_results(x), axis)
            for x, axis in zip(local, flat_axes, strict=True)
        ]
        return tf.nest.pack_sequence_as(nests, joined)

    def apply(
        self, optimizer: keras.optimizers.Optimizer, gradients: Sequence[tf.Tensor], variables: Sequence[Variable]
    ) -> None:
        # Inside `strategy.run`, optimizer.apply would sum the gradients over the replicas. They are already summed.
        """Takes an optimizer step on every device with the same gradients.

        Raises:
          UsageError: If a variable has no copy on each device, because its model was made outside of `scope`.
        """
        with self._strategy.scope():
            for variable, gradient in zip(variables, gradients, strict=True):
                mirrored = as_tensorflow_variable(variable)
                if not isinstance(mirrored, tf.distribute.DistributedValues):
                    raise UsageError(
                        "the model was made before the run, so its variables are on one device only: set distribute "
                        "to none"
                    )
                self._strategy.extended.update(
                    mirrored,
                    lambda copy, slope: optimizer.update_step(slope, copy, optimizer.learning_rate),
                    args=(gradient,),
                    group=False,
                )
            optimizer.iterations.assign_add(1)

    def _run(self, function: Callable[[int], Structure]) -> tuple[Structure, list[tf.distribute.DistributedValues]]:
        """Calls `function` on every device.

        Returns:
          The nest of the first replica, and the flat list of tensors over all replicas.
        """
        nests = []

        def replica() -> list[tf.Tensor]:
            index = tf.distribute.get_replica_context().replica_id_in_sync_group
            nests.append(function(int(tf.get_static_value(tf.convert_to_tensor(index)))))
            return tf.nest.flatten(nests[-1])

        local = self._strategy.run(replica)
        return nests[0], local
