"""Replicas in several processes, on one machine or on several."""

import contextlib
import functools
import hashlib
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

import tensorflow as tf

from tfppo.errors import UsageError
from tfppo.execution.replicas import Maxima, Nests, Replicas, Structure
from tfppo.execution.tf_config import VARIABLE, Cluster
from tfppo.execution.variables import StatePart, named_variables

CARRIERS = {tf.bool: tf.int32, tf.int8: tf.int32, tf.int16: tf.int32, tf.uint8: tf.int32, tf.uint16: tf.int32}
"""Types for which TensorFlow has no collective operations, and the types that carry their values instead."""
CARRIERS |= {tf.uint32: tf.int64, tf.bfloat16: tf.float32}
"""Types without collective operations, and those that carry their values."""
LOST = (
    tf.errors.UnavailableError,
    tf.errors.DeadlineExceededError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.InternalError,
    tf.errors.FailedPreconditionError,
)
"""Errors that TensorFlow raises in a process that has lost another worker."""
SECONDS = 2.0  # how long to wait for the answer of a worker


class WorkerReplicas(Replicas):
    """One replica in each of several processes (`tf.distribute.MultiWorkerMirroredStrategy`).

    The processes run on one machine or on several. Each has its own variables. They stay equal, because every process
    updates them with the same sums over all processes.

    Args:
      cluster: The processes.
      device: The device of this process.

    Raises:
      UsageError: If this process sees several GPUs, if TensorFlow has already computed something in it, or if it cannot
        use its address in TF_CONFIG.
    """

    def __init__(self, cluster: Cluster, device: str):
        super().__init__(len(cluster.workers), cluster.index, len(cluster.workers))
        self._workers = cluster.workers
        gpus = tf.config.list_physical_devices("GPU")
        if "GPU" in device and len(gpus) > 1:
            raise UsageError(
                f"this worker sees {len(gpus)} GPUs; it must see one: start one worker per GPU, with "
                f"CUDA_VISIBLE_DEVICES=0, CUDA_VISIBLE_DEVICES=1, ..., and name all workers in {VARIABLE}"
            )
        try:
            if "CPU" in device:
                tf.config.set_visible_devices([], "GPU")
            with _interruptible():
                self._strategy = tf.distribute.MultiWorkerMirroredStrategy()
        except RuntimeError:
            raise UsageError(
                "TensorFlow has already computed something in this process, so it cannot join the other workers: make "
                "the trainer first"
            ) from None
        except tf.errors.OpError as error:
            raise UsageError(
                f"worker {self.process} cannot use the address {self._workers[self.process]} "
                f"({' '.join(error.message.split())}): give it an address of this machine with a free port"
            ) from None

    @property
    def description(self) -> str:
        """The number of workers and the index of this one, as the end of a log line."""
        return f"; shared by {self.count} workers (this is worker {self.process})"

    def reduce(self, function: Callable[[int], tuple[Structure, Maxima]]) -> tuple[Structure, Maxima]:
        """Calls `function` in every process; see `Replicas.reduce`."""
        sums, maxima = function(self.process)
        mine = tf.one_hot(self.process, self.count, on_value=True, off_value=False)
        slots = tf.nest.map_structure(lambda x: tf.where(mine, x, tf.zeros_like(x)), maxima)  # [R] each
        sums, slots = self._added((sums, slots))
        return sums, tf.nest.map_structure(tf.reduce_max, slots)

    def gather(self, function: Callable[[int], Nests], axes: Sequence[int]) -> Nests:
        """Calls `function` in every process; see `Replicas.gather`."""
        return self.gather_processes(function(self.process), axes)

    def cut_processes(self, nest: Structure, axis: int = 0) -> Structure:
        """Returns the share of this process; see `Replicas.cut_processes`."""
        return self.cut(nest, self.process, axis)

    def gather_processes(self, nests: Nests, axes: Sequence[int]) -> Nests:
        """Concatenates the shares of all processes; see `Replicas.gather_processes`."""

        def padded(x: tf.Tensor, axis: int) -> tf.Tensor:
            size = x.shape[axis]
            paddings = [[0, 0] for _ in x.shape]
            paddings[axis] = [self.process * size, (self.count - 1 - self.process) * size]
            return tf.pad(x, paddings)

        wide = tuple(
            tf.nest.map_structure(functools.partial(padded, axis=axis), _carried(nest))
            for nest, axis in zip(nests, axes, strict=True)
        )
        return tf.nest.map_structure(lambda x, like: tf.cast(x, like.dtype), self._added(wide), nests)

    def any(self, flag: bool) -> bool:
        """Returns whether the flag is true in any process. All processes must call this method."""
        return bool(self._added(tf.constant(int(flag))).numpy())

    def start(self, settings: str, state: Mapping[str, StatePart]) -> None:
        """Gives all processes the chief's values of the state; see `Replicas.start`.

        Raises:
          UsageError: If the processes have different settings.
        """
        digest = int.from_bytes(hashlib.sha256(settings.encode()).digest()[:7])
        (digests,) = self.gather_processes((tf.constant([digest], tf.int64),), (0,))
        others = [str(index) for index, one in enumerate(digests.numpy()) if one != digests[0]]
        if others:
            raise UsageError(
                f"worker {' and '.join(others)} of {self.count} and worker 0 have different settings: start all "
                "workers with the same settings"
            )
        for variable in named_variables(state).values():
            value = _carried(tf.convert_to_tensor(variable))
            value = self._added(value if self.is_chief else tf.zeros_like(value))
            variable.assign(tf.cast(value, variable.dtype))

    @contextlib.contextmanager
    def watched(self, command: str) -> Iterator[None]:
        """Returns a context in which the loss of another worker raises a UsageError; see `Replicas.watched`."""
        try:
            yield
        except LOST as error:
            if "ollective" not in error.message and "/job:worker" not in error.message:
                raise  # the error does not come from the cluster
            raise UsageError(
                f"{self._lost(error.message)} of {self.count} has died or cannot be reached: start all workers again, "
                f"with {command}"
            ) from None

    def _lost(self, message: str) -> str:
        """Names the lost workers: those that do not answer, or else those that TensorFlow's message names."""
        others = [index for index in range(self.count) if index != self.process]
        lost = [index for index in others if not _answers(self._workers[index])]
        # A message that names no worker is about worker 0, the coordinator.
        named = {int(number) for number in re.findall(r"task:(\d+)", message)} or {0}
        lost = lost or [index for index in others if index in named] or others
        return "worker " + " or ".join(f"{index} ({self._workers[index]})" for index in lost)

    def _added(self, nest: Structure) -> Structure:
        """Sums each tensor of a nest over all processes, with one collective operation per type."""
        tensors = tf.nest.flatten(nest)
        results = [None] * len(tensors)
        for dtype in dict.fromkeys(x.dtype for x in tensors):
            places = [place for place, x in enumerate(tensors) if x.dtype == dtype]
            vector = tf.concat([tf.reshape(tensors[place], [-1]) for place in places], axis=0)
            vector = self._strategy.reduce(tf.distribute.ReduceOp.SUM, vector, axis=None)
            sizes = [tensors[place].shape.num_elements() for place in places]
            for place, piece in zip(places, tf.split(vector, sizes), strict=True):
                results[place] = tf.reshape(piece, tensors[place].shape)
        return tf.nest.pack_sequence_as(nest, results)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Returns a context in which Ctrl-C ends the process, even while TensorFlow waits."""
    is_main = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGINT, signal.SIG_DFL) if is_main else None
    try:
        yield
    finally:
        if is_main:
            signal.signal(signal.SIGINT, previous)


def _carried(nest: Structure) -> Structure:
    return tf.nest.map_structure(lambda x: tf.cast(x, CARRIERS.get(x.dtype, x.dtype)), nest)


def _answers(worker: str) -> bool:
    host, _, port = worker.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS).close()
    except OSError:
        return False
    return True
