"""The device of a run, and TensorFlow's settings for threads and determinism.

The device "auto" is a rule over the batch size. No time is measured, so the same settings give the same bits on the
same machine.
"""

import os

import tensorflow as tf

from tfppo.errors import UsageError

GPU_BATCH_SIZE = 65_536  # transitions in a rollout from which a GPU saves time in spite of longer compilation


def apply_execution_settings(threads: int, deterministic: bool) -> int:
    """Applies a run's settings to TensorFlow for the rest of the process.

    Call it before TensorFlow computes anything.

    Args:
      threads: Number of threads within an operation, and number of operations that run in parallel. 0 uses all cores.
      deterministic: True if TensorFlow must run only deterministic operations.

    Returns:
      The number of threads, also if `threads` is 0.

    Raises:
      UsageError: If TensorFlow already runs with another number of threads.
    """
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
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    return threads


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
