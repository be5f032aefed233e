"""Trains, resumes, evaluates and exports runs of any application.

With several worker processes, only the chief writes the run. In the other workers, `folder` is None.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from tfppo.errors import refusing_exits
from tfppo.execution.variables import weights_hash
from tfppo.reporting.console import ConsoleWriter
from tfppo.reporting.csv_writer import CsvWriter
from tfppo.reporting.diagnoses import DiagnosisWriter
from tfppo.reporting.tensorboard import TensorBoardWriter
from tfppo.reporting.writer import Writer
from tfppo.settings import with_settings
from tfppo.training import new_folder, run_folder
from tfppo.training.checkpoints import Checkpoints
from tfppo.training.lock import locked
from tfppo.training.loop import After, go_back, go_on, write_iterations, writing
from tfppo.training.trainer import Application, C, Evaluation, ExistingRun, Trainer

T = TypeVar("T", bound=Trainer)
Given = Mapping[str, object]
NOTHING: Given = MappingProxyType({})


class PhaseTimer:
    """Measures the duration of importing, compiling, training and evaluating.

    Create it when the imports are done. The training phase begins then.

    Args:
      import_seconds: Seconds that the process has already spent on imports.
    """

    def __init__(self, import_seconds: float):
        self._import_seconds = import_seconds
        self._began = time.perf_counter() - import_seconds
        self._trained = self._began

    def end_training(self) -> None:
        """Ends the training phase and begins the evaluation phase."""
        self._trained = time.perf_counter()

    def phases(self, compile_seconds: float) -> dict[str, float]:
        """Returns the seconds of each phase up to now, for `evaluation.json`.

        Args:
          compile_seconds: Seconds of the training phase that went into compilation. They are reported separately.

        Returns:
          Seconds by phase: "import", "compile", "train", "evaluate" and "total".
        """
        now = time.perf_counter()
        phases = {
            "import": self._import_seconds,
            "compile": compile_seconds,
            "train": self._trained - self._began - self._import_seconds - compile_seconds,
            "evaluate": now - self._trained,
            "total": now - self._began,
        }
        return {name: round(seconds, 3) for name, seconds in phases.items()}


@refusing_exits()
def train(
    make_trainer: Callable[[C], Trainer], config: C, import_seconds: float = 0.0, name: str | None = None
) -> Path | None:
    """Trains a new run and evaluates it.

    Args:
      make_trainer: Function that makes a trainer from the settings.
      config: Settings of the run.
      import_seconds: Seconds that the process spent on imports, for `evaluation.json`.
      name: First part of the folder's name if the settings have no name. None uses the trainer's name.

    Returns:
      The folder of the run, or None in a worker that is not the chief.

    Raises:
      UsageError: If settings contradict each other, or the folder cannot be used.
    """
    timer = PhaseTimer(import_seconds)
    with closing(make_trainer(config)) as trainer, start_run(trainer, name or trainer.name) as folder:
        run(trainer, folder, timer)
        return folder


@refusing_exits()
def resume(
    application: Application[C], folder: Path, import_seconds: float = 0.0, given: Given = NOTHING
) -> Path | None:
    """Resumes a run from its latest checkpoint, or from its beginning if there is no checkpoint.

    A finished run is only evaluated again.

    Args:
      application: Application of the run.
      folder: Folder of the run.
      import_seconds: Seconds that the process spent on imports, for `evaluation.json`.
      given: Parts of the run that the user gave, such as `reward`, see `run_folder.read_confirmed`.

    Returns:
      The folder of the run, or None in a worker that is not the chief.

    Raises:
      UsageError: If the folder is not a run or is in use, its parts differ from those that it was made of, or its
        latest checkpoint is damaged.
    """
    timer = PhaseTimer(import_seconds)
    config = run_folder.read_confirmed(folder, application.config_class, given)
    trainer = application.make_trainer(config, ExistingRun(folder, given, trains=True))
    with closing(trainer), resume_run(trainer, folder) as own:
        run(trainer, own, timer)
        return own


@refusing_exits()
def evaluate(
    application: Application[C],
    folder: Path,
    size: int,
    seed: int | None = None,
    checkpoint: str = "latest",
    given: Given = NOTHING,
    **settings: object,
) -> tuple[Evaluation, str]:
    """Evaluates a checkpoint of a run.

    Args:
      application: Application of the run.
      folder: Folder of the run.
      size: Number of episodes or prompts.
      seed: Seed of the episodes or samples. None uses the seed of the run.
      checkpoint: "latest", "best" or the number of an iteration.
      given: Parts of the run that the user gave, such as `reward`, see `run_folder.read_confirmed`.
      **settings: Settings that replace those of the run, by field name.

    Returns:
      The evaluation, and a text of a few lines that describes it.

    Raises:
      UsageError: If the folder is not a run, its parts differ from those that it was made of, or the checkpoint does
        not exist or cannot be read.
    """
    config = run_folder.read_confirmed(folder, application.config_class, given)
    trainer = application.make_trainer(for_inference(with_settings(config, settings)), ExistingRun(folder, given))
    with restored(trainer, folder, checkpoint):
        seed = trainer.config.run.seed if seed is None else seed
        evaluation = _judge(trainer, size, seed)
        trainer.record(folder, seed)
        return evaluation, trainer.describe(evaluation)


def export(
    application: Application[C],
    folder: Path,
    checkpoint: str = "latest",
    given: Given = NOTHING,
    form: str | None = None,
) -> Path:
    """Exports the policy of a run's checkpoint to the folder `export` of the run, and prints how to use it.

    Args:
      application: Application of the run.
      folder: Folder of the run.
      checkpoint: "latest", "best" or the number of an iteration.
      given: Parts of the run that the user gave, such as `env`, see `run_folder.read_confirmed`.
      form: As for `Trainer.export`.

    Returns:
      The folder `export`.

    Raises:
      UsageError: If the checkpoint does not exist or cannot be read, or the folder cannot be written to.
    """
    path = folder / run_folder.EXPORT
    with opened(application, folder, checkpoint, given) as trainer:
        print(trainer.export(path, form))
    return path


@contextmanager
def opened(application: Application[C], folder: Path, checkpoint: str, given: Given = NOTHING) -> Iterator[Trainer]:
    """Restores a checkpoint of a run for uses that score nothing, within a `with` block.

    Args:
      application: Application of the run.
      folder: Folder of the run.
      checkpoint: "latest", "best" or the number of an iteration.
      given: Parts of the run that the user gave, see `run_folder.read_confirmed`.

    Yields:
      The trainer. It does not import the run's own reward.

    Raises:
      UsageError: If the folder is not a run, or the checkpoint does not exist or cannot be read.
    """
    config = run_folder.read_confirmed(folder, application.config_class, given, application.always_imported)
    trainer = application.make_trainer(for_inference(config), ExistingRun(folder, given, scores=False))
    with restored(trainer, folder, checkpoint):
        yield trainer


@contextmanager
def restored(trainer: T, folder: Path, checkpoint: str) -> Iterator[T]:
    """Restores a checkpoint into a trainer, and closes the trainer at the end of the `with` block.

    Args:
      trainer: Trainer of the run.
      folder: Folder of the run.
      checkpoint: "latest", "best" or the number of an iteration.

    Yields:
      The trainer.

    Raises:
      UsageError: If the checkpoint does not exist or cannot be read.
    """
    with closing(trainer):
        checkpoints_of(trainer, folder).restore_for_use(checkpoint)
        yield trainer


def for_inference(config: C) -> C:
    """Returns the settings of a run for inference: one process, its threads, and an automatically chosen device."""
    process: dict[str, object] = {"threads": 0, "onednn": None, "deterministic": False}
    return with_settings(config, {"device": "auto", "distribute": "none", **process})


def checkpoints_of(trainer: Trainer, folder: Path) -> Checkpoints:
    """Returns the checkpoints of a run, which save and restore the trainer's state."""
    keep = trainer.config.run.keep_checkpoints
    return Checkpoints(folder / run_folder.CHECKPOINTS, keep, trainer.fixed, **trainer.state)


@contextmanager
def start_run(trainer: Trainer, name: str) -> Iterator[Path | None]:
    """Creates the folder of a new run, and locks it during the `with` block.

    Args:
      trainer: Trainer of the run.
      name: First part of the folder's name if the settings have no name.

    Yields:
      The folder, or None in a worker that is not the chief.

    Raises:
      UsageError: If the folder cannot be created.
    """
    if not trainer.replicas.is_chief:
        yield None
        return
    run, config = trainer.config.run, trainer.config
    with new_folder.new_run_folder(run, name, config, print, trainer.write_parts) as folder:
        yield folder


@contextmanager
def resume_run(trainer: Trainer, folder: Path) -> Iterator[Path | None]:
    """Restores the latest checkpoint of a run if there is one, and locks the folder during the `with` block.

    Args:
      trainer: Trainer of the run.
      folder: Folder of the run.

    Yields:
      The folder, or None in a worker that is not the chief.

    Raises:
      UsageError: If the folder is in use, or `go_back` raises it.
    """
    if not trainer.replicas.is_chief:
        yield None
        return
    with locked(folder):
        checkpoint = go_back(folder, checkpoints_of(trainer, folder))
        if checkpoint is None:
            print("there is no checkpoint yet: the run starts from the beginning")
        else:
            print(f"resumed from checkpoint {checkpoint.name}")
            trainer.restore_extra(checkpoint)
        yield folder


def run(trainer: Trainer, folder: Path | None, timer: PhaseTimer, after: After = go_on) -> None:
    """Trains until the end of the run or a signal to stop, then evaluates a finished run.

    Args:
      trainer: Trainer of the run. Its environments are closed before the evaluation, unless `after` is given.
      folder: Folder of the run, or None in a worker that is not the chief.
      timer: Measures the phases.
      after: As for `loop.write_iterations`.

    Raises:
      UsageError: If training fails, or something cannot be written.
    """
    with _telling_how_to_resume(folder):
        with closing(trainer) if after is go_on else nullcontext(), training(trainer, folder or "worker 0", folder):
            is_finished = _train(trainer, folder, after)
        timer.end_training()
        if folder and is_finished:
            _finish(trainer, folder, timer)
        elif folder:
            print(
                f"stopped after iteration {trainer.iteration} of {trainer.num_iterations}; resume with: "
                f"{run_folder.resume_command(folder)}"
            )


@contextmanager
def training(trainer: Trainer, where: Path | str | None, folder: Path | None) -> Iterator[None]:
    """Prints what is trained on which device, and starts all processes from the same state.

    Args:
      trainer: Trainer of the run.
      where: Where the results go, for the first line. None: nothing is printed.
      folder: Folder of the run, for the command that resumes it; None: there is none.

    Yields:
      None.

    Raises:
      UsageError: If the settings of another process differ, or another process is lost during the `with` block.
    """
    if where is not None:
        print(f"{trainer.subject}, seed {trainer.config.run.seed} -> {where}")
        modes = " and ".join(f"{mode} ({phase})" for phase, mode in trainer.modes.items())
        print(
            f"device {trainer.device[1:4]}: {trainer.device_reason}; compiled as {modes}{trainer.replicas.description}",
            flush=True,
        )
    with trainer.replicas.watched(run_folder.resume_command(folder)):
        trainer.replicas.start(run_folder.shared_settings(trainer.config), trainer.state)
        yield


def _train(trainer: Trainer, folder: Path | None, after: After) -> bool:
    """Runs the training loop with all writers. Returns True if the run is finished."""
    if trainer.iteration == trainer.num_iterations or trainer.stop_reason is not None:  # resumed a finished run
        if folder is not None:
            print("the run is finished, so it is not trained further")
        return True
    if folder is None:
        return write_iterations(trainer, trainer.iterations(), after=after)
    display, start = trainer.display, trainer.iteration
    tensorboard = TensorBoardWriter(folder, display.step, trainer.next_step if start else None)
    if not start:
        tensorboard.write_hparams(run_folder.flat_settings(trainer.config), list(display.scores))
    writers: list[Writer] = [CsvWriter(folder / run_folder.METRICS, start), tensorboard, *console_writers(trainer)]
    iterations = trainer.recorded_iterations(folder, tensorboard)
    return write_iterations(trainer, iterations, folder, writers, checkpoints_of(trainer, folder), after)


def console_writers(trainer: Trainer) -> list[Writer]:
    """Returns the writers that show the progress of a run and diagnoses of it."""
    display, ppo, guard = trainer.display, trainer.config.ppo, trainer.learner.guard
    return [
        DiagnosisWriter(ppo, display.kl, display.score, display.has_choices, guard, display.should_end),
        ConsoleWriter(trainer.num_iterations, display.columns, display.step, trainer.iteration),
    ]


def _finish(trainer: Trainer, folder: Path, timer: PhaseTimer) -> None:
    """Writes the pictures, the evaluation and the recordings of a finished run, and prints the results.

    If a rule ended the run early, it first prints why.
    """
    seed = trainer.config.run.seed
    if trainer.stop_reason is not None and trainer.iteration < trainer.num_iterations:
        print(f"stopped after iteration {trainer.iteration} of {trainer.num_iterations}: {trainer.stop_reason}")
    with writing(folder):
        trainer.draw(folder)
    if trainer.eval_size:
        evaluation = _judge(trainer, trainer.eval_size, seed)
        print(trainer.describe(_keep_evaluation(trainer, folder, timer, evaluation)))
    trainer.record(folder, seed)
    print(trainer.farewell(folder))


def _judge(trainer: Trainer, size: int, seed: int) -> Evaluation:
    return trainer.judge(size, seed) | {"weights": weights_hash(trainer.weights)}


def _keep_evaluation(trainer: Trainer, folder: Path, timer: PhaseTimer, evaluation: Evaluation) -> Evaluation:
    """Writes the evaluation of a finished run with the seconds of its phases, and returns it.

    The seconds are those of the last process that trained. A process that only evaluates the run again keeps them.

    Raises:
      UsageError: If the evaluation cannot be written.
    """
    seconds: object = timer.phases(trainer.compile_seconds)
    if not trainer.compile_seconds:  # this process did not train
        with suppress(OSError, ValueError, TypeError, KeyError):  # the previous evaluation is missing or damaged
            seconds = (run_folder.read_evaluation(folder) or {})["seconds"]
    evaluation = evaluation | {"seconds": seconds}
    with writing(folder):
        run_folder.write_evaluation(folder, evaluation)
    return evaluation


@contextmanager
def _telling_how_to_resume(folder: Path | None) -> Iterator[None]:
    """Adds the command that resumes the run to a `KeyboardInterrupt`.

    Ctrl-C during the training loop does not raise: the loop finishes its iteration and stops.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        if folder is None:
            raise
        raise KeyboardInterrupt(f"resume with: {run_folder.resume_command(folder)}") from error
