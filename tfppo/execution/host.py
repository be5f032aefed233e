"""Python functions on the host, called from inside TensorFlow programs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import tensorflow as tf


class HostFunction:
    """Runs a Python function on the host from inside a program that TensorFlow runs.

    Where the function raises, TensorFlow ends the program with an OpError that holds the text of a trace. Inside
    `reraising`, which surrounds the call of the program, the function's own exception takes its place.

    Args:
      function: NumPy arrays to a list of NumPy arrays.
      stateful: False where equal inputs give equal outputs, so that TensorFlow may reorder the calls.
    """

    def __init__(self, function: Callable[..., Sequence[np.ndarray]], stateful: bool = True):
        self._function = function
        self._stateful = stateful
        self._raised: Exception | None = None

    def __call__(self, inputs: Sequence[tf.Tensor], specs: Sequence[tf.TensorSpec]) -> list[tf.Tensor]:
        """Calls the function on tensors; `specs` are those of its outputs."""
        outputs = tf.numpy_function(self._run, inputs, [spec.dtype for spec in specs], stateful=self._stateful)
        for output, spec in zip(outputs, specs, strict=True):
            output.set_shape(spec.shape)
        return outputs

    @contextmanager
    def reraising(self) -> Iterator[None]:
        """Inside, TensorFlow's report of an exception becomes the exception that the function raised.

        A tf.data pipeline may run ahead, and the function raise before the block that hears of it is entered.
        """
        try:
            yield
        except tf.errors.OpError as error:
            raised, self._raised = self._raised, None
            if raised is None or type(raised).__name__ not in error.message:
                raise
            raise raised from None

    def _run(self, *arrays: np.ndarray) -> Sequence[np.ndarray]:
        try:
            return self._function(*arrays)
        except Exception as error:
            self._raised = error
            raise
