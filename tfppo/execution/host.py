"""Python functions that run on the host and are called inside TensorFlow programs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import tensorflow as tf

from tfppo.errors import kind_and_text


class HostFunction:
    """Runs a Python function on the host inside a TensorFlow program.

    If the function raises an exception, TensorFlow ends the program with an `OpError` that holds the traceback as text.
    Call the program inside `reraising` to get the original exception instead. This includes `SystemExit` and
    `KeyboardInterrupt`.

    Args:
      function: Takes NumPy arrays and returns a list of NumPy arrays.
      stateful: False if equal inputs give equal outputs. TensorFlow may then reorder the calls.
    """

    def __init__(self, function: Callable[..., Sequence[np.ndarray]], stateful: bool = True):
        self._function = function
        self._stateful = stateful
        self._raised: BaseException | None = None

    def __call__(self, inputs: Sequence[tf.Tensor], specs: Sequence[tf.TensorSpec]) -> list[tf.Tensor]:
        """Calls the function on tensors.

        Args:
          inputs: The arguments of the function.
          specs: Shapes and types of its results.

        Returns:
          The results as tensors.
        """
        outputs = tf.numpy_function(self._run, inputs, [spec.dtype for spec in specs], stateful=self._stateful)
        for output, spec in zip(outputs, specs, strict=True):
            output.set_shape(spec.shape)
        return outputs

    @contextmanager
    def reraising(self) -> Iterator[None]:
        """Returns a context in which the function's own exception replaces TensorFlow's error.

        TensorFlow raises an `OpError`, or outside of compiled programs the `RuntimeError` of this class.

        A `tf.data` pipeline may run ahead. The function may therefore have raised the exception before the context
        begins.
        """
        try:
            yield
        except (tf.errors.OpError, RuntimeError) as error:
            raised, self._raised = self._raised, None
            if raised is None or type(raised).__name__ not in str(error):
                raise
            raise raised from raised.__cause__

    def _run(self, *arrays: np.ndarray) -> Sequence[np.ndarray]:
        try:
            return self._function(*arrays)
        except Exception as error:
            self._raised = error
            raise
        except BaseException as error:  # sys.exit and Ctrl-C belong to the main thread, not to one of TensorFlow's
            self._raised = error
            raise RuntimeError(kind_and_text(error)) from None
