"""What control and text runs have in common: how they begin or go on in a process, and how they end.

A `trainer` is that of either application. A `folder` is None in a process that trains along with another, which writes
the run.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tfppo.execution.devices import apply_execution_settings
from tfppo.training import run_folder
from tfppo.training.checkpoints import Checkpoints
from tfppo.training.lock import locked
from tfppo.training.loop import go_back, writing


class Clock:
    """What the time of a run went into, from when its process began.

    Args:
      import_seconds: that went by before.
    """

    def __init__(self, import_seconds: float):
        self._import_seconds = import_seconds
        self._began = time.perf_counter() - import_seconds
        self._trained = self._began

    def end_training(self) -> None:
        """Training took until now; what follows is evaluation."""
        self._trained = time.perf_counter()

    def phases(self, compile_seconds: float) -> dict[str, float]:
        """The seconds of evaluation.json up to now; so many of those before the end of training went into compiling."""
        now = time.perf_counter()
        phases = {
            "import": self._import_seconds,
            "compile": compile_seconds,
            "train": self._trained - self._began - self._import_seconds - compile_seconds,
            "evaluate": now - self._trained,
            "total": now - self._began,
        }
        return {name: round(seconds, 3) for name, seconds in phases.items()}


def settled(config: Any) -> Any:
    """A run's settings as they are executed: call it before anything is computed."""
    threads = apply_execution_settings(config.run.threads, config.run.deterministic)
    return dataclasses.replace(config, run=dataclasses.replace(config.run, threads=threads))


def anywhere(config: Any) -> Any:
    """A run's settings for using what it has learnt: by one process, on whatever device there is."""
    return dataclasses.replace(config, run=dataclasses.replace(config.run, device="auto", distribute="none"))


def checkpoints_of(trainer: Any, folder: Path) -> Checkpoints:
    """The checkpoints of a run, which hold the trainer's state."""
    return Checkpoints(folder / run_folder.CHECKPOINTS, trainer.config.run.keep_checkpoints, **trainer.state)


@contextmanager
def begin(trainer: Any, task: str) -> Iterator[Path | None]:
    """Gives the folder of a new run, which is locked inside.

    Raises:
      UsageError: if the folder cannot be made.
    """
    if trainer.replicas.is_chief:
        folder = run_folder.create_run_folder(trainer.config.run, task, trainer.config)
        with locked(folder):
            yield folder
    else:
        yield None


@contextmanager
def go_on(trainer: Any, folder: Path) -> Iterator[tuple[Path | None, Path | None]]:
    """Takes a run back to its latest checkpoint. Gives its folder, which is locked inside, and the checkpoint's; None:
    there is none, and the run starts from its beginning.

    Raises:
      UsageError: if the folder is in use, or as `go_back` does.
    """
    if trainer.replicas.is_chief:
        with locked(folder):
            checkpoint = go_back(folder, checkpoints_of(trainer, folder))
            if checkpoint is None:
                print("no checkpoint was written yet: the run starts from its beginning")
            yield folder, checkpoint
    else:
        yield None, None


@contextmanager
def training(trainer: Any, folder: Path | None, subject: str) -> Iterator[None]:
    """Says what is trained, where and how; sees to it that all processes begin alike, and that the loss of one of them
    is told.

    Raises:
      UsageError: if another process has other settings, or is lost.
    """
    print(f"{subject}, seed {trainer.config.run.seed} -> {folder or 'worker 0'}")
    modes = " and ".join(f"{mode} ({phase})" for phase, mode in trainer.modes.items())
    print(
        f"device {trainer.device[1:4]}: {trainer.device_reason}; compiled as {modes}{trainer.replicas.description}",
        flush=True,
    )
    with trainer.replicas.watched(run_folder.resume_command(folder)):
        trainer.replicas.start(run_folder.shared_settings(trainer.config), trainer.state)
        yield


def resumable(run: Callable[..., Path | None]) -> Callable[..., Path | None]:
    """What trains and evaluates, given (trainer, folder, ...): an interrupt at the keyboard that comes outside of the
    loop, which would finish its iteration, such as in the evaluation, is a KeyboardInterrupt that says how to go on."""

    @functools.wraps(run)
    def interruptible(trainer: Any, folder: Path | None, *arguments: Any) -> Path | None:
        try:
            return run(trainer, folder, *arguments)
        except KeyboardInterrupt as error:
            if folder is None:
                raise
            raise KeyboardInterrupt(f"go on with: {run_folder.resume_command(folder)}") from error

    return interruptible


def keep_evaluation(trainer: Any, folder: Path, clock: Clock, evaluation: dict[str, Any]) -> dict[str, Any]:
    """Writes a finished run's evaluation with the seconds that all took, and returns it. They are those of the process
    that trained last: one that only judges the run again leaves them as they are.

    Raises:
      UsageError: if it cannot be written.
    """
    seconds = clock.phases(trainer.compile_seconds)
    if not trainer.compile_seconds:  # nothing was trained
        with suppress(OSError, ValueError, TypeError, KeyError):  # the evaluation before is damaged, or is none
            seconds = run_folder.read_evaluation(folder)["seconds"]
    evaluation = evaluation | {"seconds": seconds}
    with writing(folder):
        run_folder.write_evaluation(folder, evaluation)
    return evaluation
