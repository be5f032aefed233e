"""The loop of a run: rollouts and updates in turn, and what is kept on the way."""

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from tfppo.errors import UsageError
from tfppo.execution.compilation import is_compiled
from tfppo.execution.replicas import Replicas
from tfppo.ppo.learner import PPOLearner
from tfppo.reporting.tensorboard import cut_back, event_sizes
from tfppo.reporting.writer import Writer
from tfppo.training.checkpoints import Checkpoints, read_progress
from tfppo.training.files import why_not_written
from tfppo.training.pipeline import rollout_dataset, rollouts_one_by_one
from tfppo.training.run_folder import is_finished, resume_command
from tfppo.training.trainer import Collector, Metrics, Rollout, Trainer


class Iteration(NamedTuple):
    """One rollout and the update on it."""

    number: int
    metrics: dict[str, float]  # those of both, with time/rollout_s and time/update_s
    seconds: float  # from the request for the rollout to the end of the update


def train_iterations(
    collector: Collector,
    learner: PPOLearner,
    num_iterations: int,
    device: str = "/CPU:0",
    source: tf.data.Dataset | None = None,
) -> Iterator[Iteration]:
    """Lets the policy act and learn in turn, from where the learner is to the end of the run.

    Args:
      collector: what the elements of an on-policy dataset come from.
      learner: trains on each of them.
      num_iterations: of the whole run.
      device: where both run.
      source: as for `rollout_dataset`: prompts.

    Raises:
      UsageError: if too many updates in a row were skipped because something was not finite.
      Exception: what a failure on the host raised there.
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
            rollout = _next(rollouts, collector)  # the current policy acts
        clock.append(time.perf_counter())
        with tf.device(device):
            metrics = learner.update(rollout)  # advantages, then epochs x minibatches
        row = {name: float(value) for name, value in {**rollout.metrics, **metrics}.items()}
        clock.append(time.perf_counter())
        if row["guard/skipped_updates"]:
            learner.guard.check(number)
        row["time/rollout_s"] = clock[1] - clock[0]
        row["time/update_s"] = clock[2] - clock[1]
        yield Iteration(number, row, clock[2] - clock[0])


def _first(
    dataset: tf.data.Dataset, rollouts: Iterator[Rollout], learner: PPOLearner, device: str, collector: Collector
) -> Rollout:
    """The first rollout. While XLA compiles and runs it in one thread, another traces the update."""
    with ThreadPoolExecutor(1) as background:
        first = background.submit(_next, rollouts, collector)
        if is_compiled(learner.update):
            with tf.device(device):
                learner.update.get_concrete_function(dataset.element_spec)
        return first.result()


def _next(rollouts: Iterator[Rollout], collector: Collector) -> Rollout:
    with collector.raising_own_errors():
        return next(rollouts)


def write_iterations(
    trainer: Trainer,
    iterations: Iterable[tuple[int, Metrics]],
    folder: Path | None = None,
    writers: Sequence[Writer] = (),
    checkpoints: Checkpoints | None = None,
) -> bool:
    """Runs the loop: writes rows, keeps checkpoints, and stops at the last iteration or when a signal asks for it.

    What an iteration raises ends the loop; the checkpoints stay, and the writers are closed.

    Args:
      trainer: of the run.
      iterations: its numbers and metrics.
      folder: the run's; None in a worker that is not the chief, which only stops when all do.
      writers: of rows.
      checkpoints: of the run; None where there is no folder.

    Returns:
      whether the run came to its end and nobody asked it to stop, not even in its last iteration.

    Raises:
      UsageError: if something cannot be written, besides what the iterations raise.
    """
    run, best = trainer.config.run, trainer.display.best
    is_last = False
    with _stop_requests(trainer.replicas) as stop_requested, _closing(writers):
        for iteration, row in iterations:
            done = iteration + 1
            is_last = done == trainer.num_iterations or trainer.is_solved(row)
            with writing(folder):
                if is_last or done % run.log_interval == 0:
                    for writer in writers:
                        writer.write(iteration, row)
            stop = is_last or stop_requested()
            if checkpoints and folder and (stop or done % run.checkpoint_interval == 0):
                with writing(folder):
                    for writer in writers:
                        writer.flush()
                    checkpoints.save(done, row[best], event_sizes(folder), trainer.save_extra)
            if stop:
                break
        return is_last and not stop_requested()


def go_back(folder: Path, checkpoints: Checkpoints) -> Path | None:
    """Takes a run back to its latest checkpoint, its state and its event files alike, and returns the checkpoint's
    folder; None: there is none, and the run starts from its beginning.

    Raises:
      UsageError: if the checkpoint is damaged, a finished run has none any more, or something cannot be written.
    """
    path = checkpoints.restore()
    if path is None and is_finished(folder):
        raise UsageError(f"{folder} is finished, but its checkpoints are gone: train it again under another --name")
    with writing(folder):
        cut_back(folder, {} if path is None else read_progress(path).sizes)
    return path


@contextmanager
def writing(folder: Path | None) -> Iterator[None]:
    """Inside, what cannot be written to a run's folder, for whatever reason, is a UsageError of one line."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        raise UsageError(
            f"cannot write to {folder} ({why_not_written(error)}): see that it is there and that its disk has room; "
            f"what the latest checkpoint holds is safe, go on with: {resume_command(folder)}"
        ) from None


@contextmanager
def _closing(writers: Sequence[Writer]) -> Iterator[None]:
    """Closes writers in any case; that they cannot be closed is told only where nothing worse has happened."""
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
    """SIGINT and SIGTERM no longer end the process, but are remembered: the iteration that runs is finished first, and
    all processes stop when one of them is asked to."""
    received: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()  # which alone handles signals
    signals = [signal.SIGINT, signal.SIGTERM] if is_main else []
    previous = {number: signal.signal(number, lambda number, _: received.append(number)) for number in signals}
    try:
        yield lambda: replicas.any(bool(received))
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
