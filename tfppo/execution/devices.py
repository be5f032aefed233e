"""The device of a run, and TensorFlow's settings for threads and determinism.

The device "auto" is a rule over the batch size. No time is measured, so the same settings give the same bits on the
same machine.
"""

import os
from typing import Protocol

import tensorflow as tf
from tensorflow.python.util import _pywrap_util_port  # there is no public name for what `uses_onednn` asks

from tfppo.errors import UsageError
from tfppo.execution.onednn import VARIABLE

GPU_BATCH_SIZE = 65_536  # transitions in a rollout from which a GPU saves time in spite of longer compilation


class ExecutionSettings(Protocol):
    """The settings of a run that TensorFlow has for the whole process."""

    @property
    def threads(self) -> int:
        """Number of threads within an operation, and number of operations that run in parallel. 0 uses all cores."""

    @property
    def onednn(self) -> bool | None:
        """Whether oneDNN multiplies matrices. None: as TensorFlow was imported."""

    @property
    def deterministic(self) -> bool:
        """True if TensorFlow must run only deterministic operations."""


def apply_execution_settings(settings: ExecutionSettings) -> dict[str, object]:
    """Applies a run's settings to TensorFlow for the rest of the process.

    Call it before TensorFlow computes anything.

    Args:
      settings: The settings.

    Returns:
      The settings `threads` and `onednn` as TensorFlow has them.

    Raises:
      UsageError: If TensorFlow already runs with another number of threads, or with the other library for matrices.
    """
    threads = settings.threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threading = tf.config.threading
    now = threading.get_intra_op_parallelism_threads() or cores, threading.get_inter_op_parallelism_threads() or cores
    threads = threads or now[0]
    if now != (threads, threads):
        try:
            threading.set_intra_op_parallelism_threads(threads)
            threading.set_inter_op_parallelism_threads(threads)
        except RuntimeError:
            raise UsageError(
                f"threads is {threads}, but TensorFlow already runs with {now[0]} in this process: start the run in a "
                "new process, or leave threads out"
            ) from None
    onednn = uses_onednn()
    if settings.onednn not in (None, onednn):
        raise UsageError(
            f"onednn is {settings.onednn}, but TensorFlow runs {'with' if onednn else 'without'} oneDNN in this "
            f"process: set the environment variable {VARIABLE} to {int(not onednn)} before Python starts, or make "
            "onednn null"
        )
    if settings.deterministic:
        tf.config.experimental.enable_op_determinism()
    return {"threads": threads, "onednn": onednn}


def uses_onednn() -> bool:
    """Returns whether TensorFlow multiplies matrices on the CPU with oneDNN in this process."""
    return bool(_pywrap_util_port.IsMklEnabled())


def choose_device(setting: str, batch_size: int | None) -> tuple[str, str]:
    """Chooses the device of a run.

    Args:
      setting: "auto", "cpu" or "gpu".
      batch_size: Transitions in a rollout. None stands for a language model, which always runs on a GPU if there is
        one.

    Returns:
      A tuple of the device, for example "/CPU:0", and the reason for the choice.

    Raises:
      UsageError: If the setting is "gpu" and there is no GPU.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if setting == "gpu" and not gpus:
        raise UsageError("device is gpu, but TensorFlow sees no GPU: use --device cpu, or install the cuda extra")
    if setting in ("cpu", "gpu"):
        return f"/{setting.upper()}:0", "set by the user"
    if not gpus:
        return "/CPU:0", "no GPU is visible"
    if batch_size is None:
        return "/GPU:0", "language models run faster on a GPU"
    if batch_size < GPU_BATCH_SIZE:
        return "/CPU:0", f"rollouts of {batch_size} transitions are below {GPU_BATCH_SIZE}, too few for a GPU"
    return "/GPU:0", f"rollouts of {batch_size} transitions are at least {GPU_BATCH_SIZE}, enough for a GPU"
