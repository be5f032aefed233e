"""Runs from their first file to their last, whatever they train.

A `folder` is None in a process that trains along with another one, which writes the run.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from tfppo.execution.devices import apply_execution_settings
from tfppo.execution.variables import weights_hash
from tfppo.reporting.console import ConsoleWriter
from tfppo.reporting.csv_writer import CsvWriter
from tfppo.reporting.diagnoses import DiagnosisWriter
from tfppo.reporting.tensorboard import TensorBoardWriter
from tfppo.reporting.writer import Writer
from tfppo.settings import with_settings
from tfppo.training import run_folder
from tfppo.training.checkpoints import Checkpoints
from tfppo.training.lock import locked
from tfppo.training.loop import go_back, write_iterations, writing
from tfppo.training.phase_timer import PhaseTimer
from tfppo.training.trainer import Application, C, Evaluation, Trainer

T = TypeVar("T", bound=Trainer)


def train(
    make_trainer: Callable[[C], Trainer], config: C, import_seconds: float = 0.0, name: str | None = None
) -> Path | None:
    """Trains a new run, evaluates it, and returns its folder; None in a worker that is not the chief.

    Args:
      make_trainer: of the settings.
      config: the settings.
      import_seconds: seconds that went by before, for evaluation.json.
      name: begins the name of the run's folder where the settings have none; None: the trainer's.

    Raises:
      UsageError: if settings do not fit together, or a folder cannot be used.
    """
    timer = PhaseTimer(import_seconds)
    with closing(make_trainer(_executed(config))) as trainer, start_run(trainer, name or trainer.name) as folder:
        return _run(trainer, folder, timer)


def resume(
    application: Application[C], folder: Path, import_seconds: float = 0.0, named: str | None = None
) -> Path | None:
    """Goes on with a run from its latest checkpoint, or else from its beginning; returns what `train` does.

    Args:
      application: of the run.
      folder: of the run.
      import_seconds: as for `train`.
      named: as `given` of `run_folder.read_confirmed`.

    Raises:
      UsageError: if the folder is no run or in use, or its latest checkpoint is damaged.
    """
    timer = PhaseTimer(import_seconds)
    config = _executed(run_folder.read_confirmed(folder, application.config_class, application.imported, named))
    with closing(application.make_trainer(config)) as trainer, resume_run(trainer, folder) as own:
        return _run(trainer, own, timer)


def evaluate(
    application: Application[C],
    folder: Path,
    size: int,
    seed: int | None = None,
    checkpoint: str = "latest",
    named: str | None = None,
    **settings: object,
) -> tuple[Evaluation, str]:
    """Evaluates a checkpoint of a run; gives the evaluation, and the same in a few lines.

    Args:
      application: of the run.
      folder: of the run.
      size: how many episodes or prompts.
      seed: of the episodes or samples; None: the run's.
      checkpoint: "latest", "best" or an iteration's number.
      named: as `given` of `run_folder.read_confirmed`.
      **settings: replace the run's, by field name.

    Raises:
      UsageError: if the folder is no run, or has no checkpoint that can be read.
    """
    config = run_folder.read_confirmed(folder, application.config_class, application.imported, named)
    config = with_settings(config, settings)
    with restored(application.make_trainer(for_inference(config)), folder, checkpoint) as trainer:
        seed = trainer.config.run.seed if seed is None else seed
        evaluation = _judge(trainer, size, seed)
        trainer.record(folder, seed)
        return evaluation, trainer.describe(evaluation)


def export(trainer: Trainer, folder: Path, checkpoint: str = "latest") -> Path:
    """Writes the policy of a run's checkpoint into its folder `export`, says how to use it, and returns that folder.

    Raises:
      UsageError: if the run has no checkpoint that can be read, or its folder cannot be written to.
    """
    path = folder / run_folder.EXPORT
    with restored(trainer, folder, checkpoint):
        print(trainer.export(path))
    return path


@contextmanager
def restored(trainer: T, folder: Path, checkpoint: str) -> Iterator[T]:
    """Gives the trainer as a checkpoint of a run left it, and closes it.

    Raises:
      UsageError: if there is no such checkpoint, or it cannot be read.
    """
    with closing(trainer):
        checkpoints_of(trainer, folder).restore_for_use(checkpoint)
        yield trainer


def for_inference(config: C) -> C:
    """The settings of a run for using what it has learnt: in one process, on whatever device there is."""
    return with_settings(config, {"device": "auto", "distribute": "none"})


def checkpoints_of(trainer: Trainer, folder: Path) -> Checkpoints:
    """The checkpoints of a run, which hold the trainer's state."""
    return Checkpoints(folder / run_folder.CHECKPOINTS, trainer.config.run.keep_checkpoints, **trainer.state)


@contextmanager
def start_run(trainer: Trainer, name: str) -> Iterator[Path | None]:
    """Gives the folder of a new run, which is locked inside.

    Raises:
      UsageError: if the folder cannot be made.
    """
    if not trainer.replicas.is_chief:
        yield None
        return
    folder = run_folder.create_run_folder(trainer.config.run, name, trainer.config)
    with locked(folder):
        yield folder


@contextmanager
def resume_run(trainer: Trainer, folder: Path) -> Iterator[Path | None]:
    """Takes a run back to its latest checkpoint, or else to its beginning; gives its folder, which is locked inside.

    Raises:
      UsageError: if the folder is in use, or as `go_back` does.
    """
    if not trainer.replicas.is_chief:
        yield None
        return
    with locked(folder):
        checkpoint = go_back(folder, checkpoints_of(trainer, folder))
        if checkpoint is None:
            print("no checkpoint was written yet: the run starts from its beginning")
        else:
            trainer.restore_extra(checkpoint)
        yield folder


def _executed(config: C) -> C:
    """The settings, once TensorFlow executes as they say: call it before anything is computed."""
    return with_settings(config, {"threads": apply_execution_settings(config.run.threads, config.run.deterministic)})


def _run(trainer: Trainer, folder: Path | None, timer: PhaseTimer) -> Path | None:
    """Trains to the end or to a signal, then evaluates."""
    with _telling_how_to_resume(folder):
        with closing(trainer), _training(trainer, folder):
            is_finished = _train(trainer, folder)
        timer.end_training()
        if folder and is_finished:
            _finish(trainer, folder, timer)
        elif folder:
            print(f"stopped; go on with: {run_folder.resume_command(folder)}")
    return folder


@contextmanager
def _training(trainer: Trainer, folder: Path | None) -> Iterator[None]:
    """Says what is trained, where and how; begins alike in all processes, and tells the loss of one of them.

    Raises:
      UsageError: if another process has other settings, or is lost.
    """
    print(f"{trainer.subject}, seed {trainer.config.run.seed} -> {folder or 'worker 0'}")
    modes = " and ".join(f"{mode} ({phase})" for phase, mode in trainer.modes.items())
    print(
        f"device {trainer.device[1:4]}: {trainer.device_reason}; compiled as {modes}{trainer.replicas.description}",
        flush=True,
    )
    with trainer.replicas.watched(run_folder.resume_command(folder)):
        trainer.replicas.start(run_folder.shared_settings(trainer.config), trainer.state)
        yield


def _train(trainer: Trainer, folder: Path | None) -> bool:
    """Runs the loop with what is written on the way. Returns whether the run came to its end."""
    if trainer.iteration == trainer.num_iterations or trainer.is_solved(trainer.metrics):  # a finished run was resumed
        return True
    if folder is None:
        return write_iterations(trainer, trainer.iterations())
    display, start = trainer.display, trainer.iteration
    tensorboard = TensorBoardWriter(folder, display.step, trainer.next_step if start else None)
    if not start:
        tensorboard.write_hparams(run_folder.flat_settings(trainer.config), list(display.scores))
    writers: list[Writer] = [
        CsvWriter(folder / run_folder.METRICS, start),
        tensorboard,
        DiagnosisWriter(trainer.config.ppo, display.kl, display.score, display.has_choices, trainer.learner.guard),
        ConsoleWriter(trainer.num_iterations, display.columns, display.step, start),
    ]
    iterations = trainer.recorded_iterations(folder, tensorboard)
    return write_iterations(trainer, iterations, folder, writers, checkpoints_of(trainer, folder))


def _finish(trainer: Trainer, folder: Path, timer: PhaseTimer) -> None:
    """Writes what a run leaves behind when it is trained, and says it."""
    seed = trainer.config.run.seed
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
    """Writes a finished run's evaluation with the seconds of its phases, and returns it.

    They are those of the process that trained last: one that only judges the run again leaves them as they are.

    Raises:
      UsageError: if it cannot be written.
    """
    seconds: object = timer.phases(trainer.compile_seconds)
    if not trainer.compile_seconds:  # nothing was trained
        with suppress(OSError, ValueError, TypeError, KeyError):  # the evaluation before is missing or damaged
            seconds = (run_folder.read_evaluation(folder) or {})["seconds"]
    evaluation = evaluation | {"seconds": seconds}
    with writing(folder):
        run_folder.write_evaluation(folder, evaluation)
    return evaluation


@contextmanager
def _telling_how_to_resume(folder: Path | None) -> Iterator[None]:
    """Inside, Ctrl-C outside of the loop, which would finish its iteration, becomes one that says how to go on."""
    try:
        yield
    except KeyboardInterrupt as error:
        if folder is None:
            raise
        raise KeyboardInterrupt(f"go on with: {run_folder.resume_command(folder)}") from error
