"""The settings that every run has. No TensorFlow here, so that the command line can answer at once."""

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
    """Where a run lives, what it is seeded with, and how it is executed and kept."""

    seed: Seed = 1
    """Seed of everything random in the run."""
    name: Annotated[str | None, Must(_is_folder_name, "a plain folder name")] = None
    """Name of the run's folder; None: the task's name and the seed."""
    runs_dir: Path = Path("runs")
    """Folder that holds the runs."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where it runs; auto: by a rule that the run prints."""
    compile_rollout: CompileMode = "auto"
    """How the rollout is compiled; auto: by a rule over device, batch size and length of the run."""
    compile_update: CompileMode = "auto"
    """How the update is compiled; auto: by a rule over device, batch size and length of the run."""
    deterministic: bool = True
    """Whether TensorFlow runs its deterministic operations only (tf.config.experimental.enable_op_determinism)."""
    threads: Annotated[int, Interval(ge=0, le=1024)] = 0
    """CPU threads within an operation, and operations side by side; 0: as many as there are cores. Sums are split by
    it: the same bits want the same number, which a run keeps."""
    distribute: Literal["auto", "none", "mirrored", "multiworker"] = "auto"
    """What shares the rollout and each minibatch: mirrored: all GPUs of this process; multiworker: the processes that
    TF_CONFIG names; auto: those if it names several, or else all GPUs if the run is on one."""
    log_interval: Count = 1
    """Iterations between two rows of metrics."""
    checkpoint_interval: Count = 20
    """Iterations between two checkpoints; one more is written at the end."""
    keep_checkpoints: Count = 3
    """Checkpoints that are kept: the latest ones, and beside them the best by training's score."""

    def __post_init__(self) -> None:
        check_fields(self)
