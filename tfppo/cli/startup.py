"""Importing TensorFlow for a person: quickly, and without its start-up noise. Only the command line does this; whoever
imports the package in Python keeps their own settings."""

import contextlib
import gc
import os
import sys
import tempfile
import time
from collections.abc import Iterator

from tfppo.execution.tf_config import VARIABLE, read_cluster
from tfppo.execution.xla_cache import has_nvidia_driver, keep_compiled_programs

BEGAN = time.perf_counter()  # when the command line took over from Python's own start
NOISE = ("I0000", "WARNING: All log messages before absl::InitializeLog", "To enable the following instructions")
NOISE_WITHOUT_DRIVER = "failed call to cuInit"  # an error only where there is a driver to call


def seconds_since_start() -> float:
    """Seconds since the command line took over."""
    return time.perf_counter() - BEGAN


def import_tensorflow(keep_programs: bool = True) -> None:
    """Imports TensorFlow and Keras. XLA's programs are kept for the next run as `xla_cache` says, or not at all.

    Informational lines that TensorFlow's C++ code writes while it is imported are dropped; every other line, errors
    among them, still appears. Keras would import matplotlib for plots that nothing here draws, at 0.5 s: it is told
    that there is none, and the curve at the end of a run imports it then.
    """
    # Of a worker that has died TensorFlow's C++ code tells the others at length; one line of ours does.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3" if VARIABLE in os.environ else "1")
    if keep_programs:
        keep_compiled_programs()
    hidden = "matplotlib" not in sys.modules
    if hidden:
        sys.modules["matplotlib"] = None  # type: ignore[assignment]
    _tell("loading TensorFlow ...")
    gc.disable()  # what is imported stays: to look for garbage in it takes a fifth of the time
    try:
        with _without_noise():
            import keras
            import tensorflow as tf

            tf.config.list_physical_devices()  # the last start-up lines come with the first look at the devices
            keras.utils.disable_interactive_logging()
    finally:
        if hidden:
            del sys.modules["matplotlib"]
        gc.freeze()
        gc.enable()
        _tell("")


def tell_whom_it_waits_for() -> None:
    """Says, where TF_CONFIG names several workers, that a run begins once all of them are there.

    Raises:
      UsageError: if TF_CONFIG cannot be used.
    """
    cluster = read_cluster()
    if cluster is not None and len(cluster.workers) > 1:
        count, address = len(cluster.workers), cluster.workers[cluster.index]
        print(f"worker {cluster.index} of {count} ({address}): begins when all of them are there", flush=True)


def _tell(text: str) -> None:
    """Shows a passing line on a terminal, in place of the last one; elsewhere nothing."""
    if sys.stdout.isatty():
        print(f"\r\033[K{text}", end="", flush=True)


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
    """Holds back what is written to file descriptor 2, and then lets through all but the noise."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            held.seek(0)
            for line in held.read().decode(errors="replace").splitlines():
                if not (line.startswith(NOISE) or (NOISE_WITHOUT_DRIVER in line and not has_nvidia_driver())):
                    print(line, file=sys.stderr)
