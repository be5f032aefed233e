"""The settings that every run has. No TensorFlow here, so that the command line can answer at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tfppo.settings import check, check_seed, check_types, is_printable

CompileMode = Literal["auto", "xla", "graph", "eager"]


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Where a run lives, what it is seeded with, and how it is executed and kept."""

    seed: int = 1
    """Seed of everything random in the run."""
    name: str | None = None
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
    threads: int = 0
    """CPU threads within an operation, and operations side by side; 0: as many as there are cores. Sums are split by
    it: the same bits want the same number, which a run keeps."""
    distribute: Literal["auto", "none", "mirrored", "multiworker"] = "auto"
    """What shares the rollout and each minibatch: mirrored: all GPUs of this process; multiworker: the processes that
    TF_CONFIG names; auto: those if it names several, or else all GPUs if the run is on one."""
    log_interval: int = 1
    """Iterations between two rows of metrics."""
    checkpoint_interval: int = 20
    """Iterations between two checkpoints; one more is written at the end."""
    keep_checkpoints: int = 3
    """Checkpoints that are kept: the latest ones, and beside them the best by training's score."""

    def __post_init__(self) -> None:
        check_types(self)
        check_seed(self)
        check(self, "threads", "between 0 and 1024", lambda v: 0 <= v <= 1024)
        for name in ("log_interval", "checkpoint_interval", "keep_checkpoints"):
            check(self, name, "at least 1", lambda v: v >= 1)
        check(self, "name", "a plain folder name", _is_folder_name)


def _is_folder_name(name: str) -> bool:
    return is_printable(name) and name not in (".", "..") and not set(name) & set("/\\")
