"""The loop of a run, the same for control and text: rollouts and updates in turn, and what is kept on the way."""

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from tfppo.errors import UsageError
from tfppo.execution.replicas import ALONE, Replicas
from tfppo.ppo.learner import PPOLearner
from tfppo.reporting.tensorboard import cut_back, event_sizes
from tfppo.reporting.writer import Writer
from tfppo.training.checkpoints import Checkpoints, read_progress
from tfppo.training.config import RunConfig
from tfppo.training.run_folder import is_finished, resume_command, why_not_written


class Iteration(NamedTuple):
    """One rollout and the update on it."""

    number: int
    rollout: Any
    metrics: dict[str, float]  # those of both, with time/rollout_s and time/update_s
    seconds: float  # from the request for the rollout to the end of the update


def train_iterations(
    dataset: Iterable[Any], learner: PPOLearner, start: int, stop: int, device: str, collector: Any
) -> Iterator[Iteration]:
    """Trains on the elements of an on-policy tf.data.Dataset, or of another iterable of rollouts, one an iteration.

    Raises:
      UsageError: if too many updates in a row were skipped because something was not finite.
      What the collector kept in its `error`, where tf.data could only say that something failed.
    """
    rollouts = iter(dataset)
    for number in range(start, stop):
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
        yield Iteration(number, rollout, row, clock[2] - clock[0])


def _first(dataset: tf.data.Dataset, rollouts: Iterator, learner: PPOLearner, device: str, collector: Any) -> Any:
    """The first rollout. While XLA compiles and runs it in one thread, another traces the update."""
    with ThreadPoolExecutor(1) as background:
        first = background.submit(_next, rollouts, collector)
        if hasattr(learner.update, "get_concrete_function"):  # unless it is eager
            with tf.device(device):
                learner.update.get_concrete_function(dataset.element_spec)
        return first.result()


def _next(rollouts: Iterator, collector: Any) -> Any:
    with raising_what_it_raised(collector):
        return next(rollouts)


@contextmanager
def raising_what_it_raised(collector: Any) -> Iterator[None]:
    """Inside, TensorFlow's report of a failed rollout becomes the exception that made it fail."""
    if hasattr(collector, "raising_own_errors"):
        with collector.raising_own_errors():
            yield
        return
    try:
        yield
    except tf.errors.OpError:
        error = getattr(collector, "error", None)
        if error is None:
            raise
        raise error from None


def write_iterations(
    iterations: Iterator[tuple[int, dict[str, float]]],
    run: RunConfig,
    folder: Path | None,
    writers: Sequence[Writer],
    checkpoints: Checkpoints | None,
    score: str,
    is_last: Callable[[int, dict[str, float]], bool],
    extra: Callable[[Path], None] | None = None,
    replicas: Replicas = ALONE,
) -> bool:
    """Runs the loop: writes rows, keeps checkpoints, and stops at the last iteration or when a signal asks for it.

    What an iteration raises ends the loop; the checkpoints stay, and the writers are closed.

    Args:
      iterations: numbers and metrics.
      run: how often is written and kept.
      folder: the run's; None: another process writes it, and this one only stops when all do.
      writers: of rows.
      checkpoints: of the run.
      score: the metric by which the best checkpoint is chosen.
      is_last: whether the run ends with an iteration.
      extra: writes what else belongs to a checkpoint into its folder.
      replicas: whose processes all stop where one of them is asked to.

    Returns:
      whether the run came to its end and nobody asked it to stop, be it in its last iteration.

    Raises:
      UsageError: if something cannot be written, besides what the iterations raise.
    """
    last = False
    with _stop_requests(replicas) as stop_requested, _closing(writers):
        for iteration, row in iterations:
            last = is_last(iteration, row)
            with writing(folder):
                if last or (iteration + 1) % run.log_interval == 0:
                    for writer in writers:
                        writer.write(iteration, row)
            stop = last or stop_requested()
            with writing(folder):
                if checkpoints and (stop or (iteration + 1) % run.checkpoint_interval == 0):
                    for writer in writers:
                        writer.flush()
                    checkpoints.save(iteration + 1, row[score], event_sizes(folder), extra)
            if stop:
                break
        return last and not stop_requested()


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
def writing(folder: Path) -> Iterator[None]:
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
    signals = (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's to handle
        signals = ()
    previous = {number: signal.signal(number, lambda number, _: received.append(number)) for number in signals}
    try:
        yield lambda: replicas.any(bool(received))
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
