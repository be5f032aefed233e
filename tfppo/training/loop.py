"""Runs the training loop: it alternates rollouts and updates, and writes metrics and checkpoints."""

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeAlias

import tensorflow as tf

from tfppo.errors import UsageError
from tfppo.execution.compilation import is_compiled
from tfppo.execution.replicas import Replicas
from tfppo.ppo.learner import PPOLearner
from tfppo.reporting.tensorboard import EVENTS
from tfppo.reporting.writer import Writer
from tfppo.training.checkpoints import Checkpoints, read_progress, without_checkpoints
from tfppo.training.file_errors import FILE_ERRORS, is_file_error
from tfppo.training.files import cut_back, sizes_of, why_not_written
from tfppo.training.pipeline import rollout_dataset, rollouts_one_by_one
from tfppo.training.run_folder import ROLLOUTS, is_finished, resume_command
from tfppo.training.trainer import Collector, Metrics, Rollout, Trainer

APPENDED = (EVENTS, ROLLOUTS)  # files that a run appends to, and that a resumed run truncates

After: TypeAlias = Callable[[int, Metrics, bool], bool]


class Iteration(NamedTuple):
    """A rollout and the update on it."""

    number: int  # from 0
    metrics: dict[str, float]  # of the rollout and the update, with time/rollout_s and time/update_s
    seconds: float  # from the request for the rollout to the end of the update
    rollout: Rollout  # do not keep it: it is as large as a batch


def train_iterations(
    collector: Collector,
    learner: PPOLearner,
    num_iterations: int,
    device: str = "/CPU:0",
    source: tf.data.Dataset | None = None,
) -> Iterator[Iteration]:
    """Collects rollouts and trains on them, from the learner's current iteration to the end of the run.

    Args:
      collector: Collects the rollouts.
      learner: Trains on each rollout.
      num_iterations: Number of iterations of the whole run.
      device: TensorFlow device of the rollouts and the updates.
      source: Dataset of prompts, see `rollout_dataset`. None for control.

    Yields:
      One iteration at a time, after its update.

    Raises:
      UsageError: If too many consecutive updates were skipped because a value was not finite.
      Exception: The original exception of an environment or a reward that failed in Python.
    """
    start = int(learner.iteration.numpy())
    make_rollouts = rollout_dataset if learner.replicas.count == 1 else rollouts_one_by_one
    dataset = make_rollouts(collector.collect, start, device, source)
    rollouts = iter(dataset)
    for number in range(start, num_iterations):
        clock = [time.perf_counter()]
        if number == start and isinstance(dataset, tf.data.Dataset):
            rollout = _first(dataset, rollouts, learner, device, collector)
        else:
            rollout = _next(rollouts, collector)  # collected with the current weights
        clock.append(time.perf_counter())
        with tf.device(device):
            metrics = learner.update(rollout)  # advantages, then num_epochs passes over the minibatches
        row = {name: float(value) for name, value in {**rollout.metrics, **metrics}.items()}
        clock.append(time.perf_counter())
        if row["guard/skipped_updates"]:
            learner.guard.check(number)
        row["time/rollout_s"] = clock[1] - clock[0]
        row["time/update_s"] = clock[2] - clock[1]
        yield Iteration(number, row, clock[2] - clock[0], rollout)


def _first(
    dataset: tf.data.Dataset, rollouts: Iterator[Rollout], learner: PPOLearner, device: str, collector: Collector
) -> Rollout:
    """Returns the first rollout. It traces the update while another thread compiles and runs the rollout."""
    with ThreadPoolExecutor(1) as background:
        first = background.submit(_next, rollouts, collector)
        if is_compiled(learner.update):
            with tf.device(device):
                learner.update.get_concrete_function(dataset.element_spec)
        return first.result()


def _next(rollouts: Iterator[Rollout], collector: Collector) -> Rollout:
    with collector.raising_own_errors():
        return next(rollouts)


def go_on(iteration: int, row: Metrics, is_last: bool) -> bool:
    """Ends no run."""
    return False


def write_iterations(
    trainer: Trainer,
    iterations: Iterable[tuple[int, Metrics]],
    folder: Path | None = None,
    writers: Sequence[Writer] = (),
    checkpoints: Checkpoints | None = None,
    after: After = go_on,
) -> bool:
    """Runs the training loop, writes metrics and checkpoints, and stops at the last iteration or after a signal.

    SIGINT and SIGTERM stop the loop after the current iteration, with a checkpoint. If an iteration raises an
    exception, the writers are closed and the existing checkpoints stay. A `KeyboardInterrupt` that code of the user
    raises in a rollout also saves the latest finished iteration, if `trainer.rollouts_keep_state`.

    Args:
      trainer: Trainer of the run.
      iterations: Numbers and metrics of the iterations.
      folder: Folder of the run. None in a worker that is not the chief: it writes nothing and stops with the others.
      writers: Writers of the metrics.
      checkpoints: Checkpoints of the run. None if there is no folder.
      after: Function that gets the number and the metrics of each iteration, and whether it is the last one, before
        anything is written. It returns True to end the run with this iteration.

    Returns:
      True if the run is finished and no signal was received, not even in the last iteration.

    Raises:
      UsageError: If something cannot be written.
      Exception: Any exception that an iteration raises.
    """
    run, best = trainer.config.run, trainer.display.best
    is_last = False
    done = saved = 0
    row: Metrics = {}

    def save() -> None:
        if checkpoints and folder:
            with writing(folder):
                for writer in writers:
                    writer.flush()
                score = None if trainer.is_validated(done) is False else row[best]
                checkpoints.save(done, score, sizes_of(folder, APPENDED), trainer.save_extra)

    with _stop_requests(trainer.replicas) as stop_requested, closing_writers(writers):
        try:
            for iteration, row in iterations:
                done = iteration + 1
                is_last = done == trainer.num_iterations or trainer.stop_reason is not None
                is_last = after(iteration, row, is_last) or is_last
                with writing(folder):
                    if is_last or done % run.log_interval == 0:
                        for writer in writers:
                            writer.write(iteration, row)
                stop = is_last or stop_requested()
                if stop or done % run.checkpoint_interval == 0 or trainer.is_validated(done):
                    save()
                    saved = done
                if stop:
                    break
        except KeyboardInterrupt:  # Ctrl-C does not raise it here, see `_stop_requests`
            if saved != done == trainer.iteration and trainer.rollouts_keep_state:
                save()
            raise
        return is_last and not stop_requested()


def go_back(folder: Path, checkpoints: Checkpoints) -> Path | None:
    """Restores the latest checkpoint of a run, and truncates the files `APPENDED` to the same iteration.

    Args:
      folder: Folder of the run.
      checkpoints: Checkpoints of the run.

    Returns:
      The folder of the checkpoint, or None if there is no checkpoint and the run starts from the beginning.

    Raises:
      UsageError: If the checkpoint is damaged, the checkpoints of a finished run were deleted, or something cannot be
        written.
    """
    path = checkpoints.restore()
    if path is None and is_finished(folder):
        raise without_checkpoints(folder)
    with writing(folder):
        cut_back(folder, APPENDED, {} if path is None else read_progress(path).sizes)
    return path


@contextmanager
def writing(folder: Path | None) -> Iterator[None]:
    """Turns a failure to write to a run's folder during the `with` block into a `UsageError` of one line."""
    try:
        yield
    except FILE_ERRORS as error:
        if not is_file_error(error):
            raise
        is_gone = folder is not None and not folder.is_dir()
        advice = "move the folder back" if is_gone else "free disk space, or correct the permissions of the folder"
        raise UsageError(
            f"cannot write to {folder} ({why_not_written(error)}): {advice}, then resume with: {resume_command(folder)}"
        ) from None


@contextmanager
def closing_writers(writers: Sequence[Writer]) -> Iterator[None]:
    """Closes writers at the end of the `with` block.

    If the block fails, errors from closing are suppressed, so that they do not hide the original exception.
    """
    try:
        yield
    except BaseException:
        for writer in writers:
            with suppress(OSError, tf.errors.OpError):
                writer.close()
        raise
    for writer in writers:
        writer.close()


@contextmanager
def _stop_requests(replicas: Replicas) -> Iterator[Callable[[], bool]]:
    """Records SIGINT and SIGTERM during the `with` block instead of ending the process.

    Yields:
      A function that returns True once any of the processes of the run has received a signal.
    """
    with stop_signals() as received:
        yield lambda: replicas.any(received())


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Records SIGINT and SIGTERM of this process during the `with` block instead of ending it.

    Yields:
      A function that returns True once the process has received a signal.
    """
    received: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()  # only the main thread can set signal handlers
    signals = [signal.SIGINT, signal.SIGTERM] if is_main else []
    previous = {number: signal.signal(number, lambda number, _: received.append(number)) for number in signals}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
