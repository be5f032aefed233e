"""Where a run computes, and how TensorFlow executes it.

The device is chosen by a rule over the batch size, never by a timing: the same settings give the same bits on the same
machine.
"""

import os

import tensorflow as tf

from tfppo.errors import UsageError

GPU_BATCH_SIZE = 65_536  # transitions in a rollout from which a GPU repays its longer compilation


def apply_execution_settings(threads: int, deterministic: bool) -> int:
    """Applies a run's settings to TensorFlow, for the rest of the process; call it before anything is computed.

    Args:
      threads: within an operation, and operations side by side; 0: as many as there are cores.
      deterministic: whether TensorFlow runs its deterministic operations only.

    Returns:
      The number of threads, also where `threads` is 0.

    Raises:
      UsageError: if TensorFlow has computed something already, with another number of threads.
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
                f"threads is {threads}, but TensorFlow runs with {now[0]} already: start the run in a process of its "
                "own, or leave threads out"
            ) from None
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    return threads


def choose_device(setting: str, batch_size: int | None) -> tuple[str, str]:
    """Returns the device that "auto", "cpu" or "gpu" stands for, and the sentence that says why.

    Args:
      setting: one of the three.
      batch_size: transitions in a rollout; None: a language model, which a GPU always serves better.

    Raises:
      UsageError: if a GPU is asked for and there is none.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if setting == "gpu" and not gpus:
        raise UsageError("device is gpu, but TensorFlow sees no GPU here: use --device cpu, or install the cuda extra")
    if setting in ("cpu", "gpu"):
        return f"/{setting.upper()}:0", "asked for"
    if not gpus:
        return "/CPU:0", "no GPU is visible"
    if batch_size is None:
        return "/GPU:0", "a language model is faster there"
    if batch_size < GPU_BATCH_SIZE:
        return "/CPU:0", f"rollouts of {batch_size} transitions are below {GPU_BATCH_SIZE}: a GPU would not pay"
    return "/GPU:0", f"rollouts of {batch_size} transitions are at or above {GPU_BATCH_SIZE}"
