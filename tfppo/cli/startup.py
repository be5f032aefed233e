"""Imports TensorFlow for the command line: fast, and without its start-up messages.

Only the command line changes these settings of TensorFlow and Keras. In Python tfppo changes one of them, and only
before TensorFlow is imported: see `execution.onednn`.
"""

import contextlib
import gc
import os
import sys
import tempfile
import time
from collections.abc import Iterator

from tfppo.execution.onednn import choose_onednn
from tfppo.execution.tf_config import VARIABLE, read_cluster
from tfppo.execution.xla_cache import has_nvidia_driver, keep_compiled_programs

BEGAN = time.perf_counter()  # when Python imported the command line
NOISE = ("I0000", "WARNING: All log messages before absl::InitializeLog", "To enable the following instructions")
NOISE_WITHOUT_DRIVER = "failed call to cuInit"  # an error only if an NVIDIA driver is installed


def seconds_since_start() -> float:
    """Returns the seconds since Python imported the command line."""
    return time.perf_counter() - BEGAN


def import_tensorflow(onednn: bool | None = None, language_model: bool = False, keep_programs: bool = True) -> None:
    """Imports TensorFlow and Keras.

    The informational lines that TensorFlow's C++ code prints during the import are dropped. All other lines, such as
    errors, are printed. During the import matplotlib is hidden, because Keras would import it, which takes 0.5 s. The
    plot at the end of a run imports it.

    Args:
      onednn: The setting `onednn` of the run, see `execution.onednn`.
      language_model: True for a new run of a language model.
      keep_programs: Caches the programs that XLA compiles for later runs, see `execution.xla_cache`.
    """
    # TensorFlow's C++ code warns of an exception of the user's code with a traceback of 50 lines. If a worker dies, it
    # prints many lines of errors in the other workers. tfppo prints one line instead.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3" if VARIABLE in os.environ else "2")
    choose_onednn(onednn, language_model)
    if keep_programs:
        keep_compiled_programs()
    hidden = "matplotlib" not in sys.modules
    if hidden:
        sys.modules["matplotlib"] = None  # type: ignore[assignment]
    _tell("loading TensorFlow ...")
    gc.disable()  # imported objects stay in memory; collecting garbage would take a fifth of the time
    try:
        with _without_noise():
            import keras
            import tensorflow as tf

            tf.config.list_physical_devices()  # TensorFlow prints its last start-up lines when it lists the devices
            keras.utils.disable_interactive_logging()
    finally:
        if hidden:
            del sys.modules["matplotlib"]
        gc.freeze()
        gc.enable()
        _tell("")


def tell_whom_it_waits_for() -> None:
    """Prints that the run waits for all workers, if TF_CONFIG names several.

    Raises:
      UsageError: If TF_CONFIG is invalid.
    """
    cluster = read_cluster()
    if cluster is not None and len(cluster.workers) > 1:
        count, address = len(cluster.workers), cluster.workers[cluster.index]
        print(f"worker {cluster.index} of {count} ({address}): waiting for all workers", flush=True)


def _tell(text: str) -> None:
    """Replaces the current line on a terminal by a temporary text. Prints nothing elsewhere."""
    if sys.stdout.isatty():
        print(f"\r\033[K{text}", end="", flush=True)


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
    """Captures stderr (file descriptor 2) during the `with` block, and prints it at the end without the noise."""
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
