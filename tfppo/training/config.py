"""Defines `RunConfig`, the settings that every run has.

This module does not import TensorFlow, so that the command line starts fast.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Interval

from tfppo.settings import Count, Must, Seed, check_fields, is_printable

CompileMode = Literal["auto", "xla", "graph", "eager"]


def _is_folder_name(name: str) -> bool:
    return is_printable(name) and name not in (".", "..") and not set(name) & set("/\\")


@dataclass(frozen=True, slots=True)
class RunConfig:
    """The settings of a run's folder, seed, device, compilation, distribution, metrics and checkpoints."""

    seed: Seed = 1
    """Seed of all random numbers in the run."""
    name: Annotated[str | None, Must(_is_folder_name, "a folder name of printable characters without slashes")] = None
    """Name of the run's folder. None: the name of the task or environment, and the seed."""
    runs_dir: Path = Path("runs")
    """Folder that holds the run folders."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Device of the run. auto: chosen by a rule; the run prints the choice and the reason."""
    compile_rollout: CompileMode = "auto"
    """Compilation mode of the rollout.
    auto: chosen by a rule from the device, the batch size and the length of the run."""
    compile_update: CompileMode = "auto"
    """Compilation mode of the update.
    auto: chosen by a rule from the device, the batch size and the length of the run."""
    deterministic: bool = True
    """Uses only deterministic TensorFlow operations (tf.config.experimental.enable_op_determinism)."""
    threads: Annotated[int, Interval(ge=0, le=1024)] = 0
    """Number of CPU threads within an operation, and of operations that run in parallel. 0: the number of CPU cores.
    Results are bit-identical only with the same number. A resumed run uses the number it started with."""
    onednn: bool | None = None
    """Multiplies matrices on the CPU with oneDNN, or with Eigen. Results are bit-identical only with the same library.
    A resumed run uses the one it started with. None: oneDNN for a language model, unless the environment variable
    TF_ENABLE_ONEDNN_OPTS says otherwise or TensorFlow is imported already; for control as TensorFlow chooses."""
    distribute: Literal["auto", "none", "mirrored", "multiworker"] = "auto"
    """Distribution of the rollout and of each minibatch. none: one device.
    mirrored: all GPUs of this process. multiworker: the processes that TF_CONFIG names.
    auto: multiworker if TF_CONFIG names several processes.
    Otherwise mirrored if the run is on a GPU and this process sees several GPUs.
    Otherwise none."""
    log_interval: Count = 1
    """Number of iterations between two rows of metrics."""
    checkpoint_interval: Count = 20
    """Number of iterations between two checkpoints. One more checkpoint is written at the end."""
    keep_checkpoints: Count = 3
    """Number of latest checkpoints to keep. The checkpoint with the best training score is kept in addition."""

    def __post_init__(self) -> None:
        check_fields(self)
