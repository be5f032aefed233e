"""A run on TensorBoard: its event files, what is written into them, and how they are cut back to a checkpoint."""

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

EVENTS = "events.out.tfevents.*"


class TensorBoardWriter:
    """An event file: scalars over environment steps (or what `step_metric` names), hparams, a graph.

    All scalars of a row travel in one event, handed to a thread that writes it: a summary call for each would cost
    more than an iteration of CartPole.

    Args:
      folder: of the event file.
      step_metric: the metric that is the horizontal axis; None: the iteration.
      purge_step: a resumed run's first step: TensorBoard forgets what earlier event files say from it on.
    """

    def __init__(self, folder: Path, step_metric: str | None = None, purge_step: int | None = None):
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._session_log = event_pb2.SessionLog
        self._step_metric = step_metric
        _leave_failures_to_the_caller()
        self._writer = EventFileWriter(str(folder))
        if purge_step is not None:
            self._add(step=purge_step, session_log=self._session_log(status=self._session_log.START))

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        step = iteration if self._step_metric is None else int(metrics[self._step_metric])
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._add(step=step, summary=self._summary(value=values))

    def write_hparams(self, hparams: Mapping[str, Any], metrics: list[str]) -> None:
        """The run's settings, for TensorBoard's HPARAMS page, beside the metrics it is judged by."""
        from tensorboard.plugins.hparams import api

        plain = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in hparams.items()}
        config = api.hparams_config_pb(
            hparams=[api.HParam(name) for name in plain], metrics=[api.Metric(name) for name in metrics]
        )
        self._add(step=0, summary=config)
        self._add(step=0, summary=api.hparams_pb(plain))

    def write_graph(self, graph_def: bytes) -> None:
        """A serialised GraphDef, for TensorBoard's GRAPHS page."""
        self._add(step=0, graph_def=graph_def)

    def write_text(self, tag: str, markdown: str, step: int) -> None:
        """A text, for TensorBoard's TEXT page."""
        from tensorboard.plugins.text.summary_v2 import text_pb

        self._add(step=step, summary=text_pb(tag, markdown))

    def write_image(self, tag: str, picture: bytes, step: int) -> None:
        """A picture, the bytes of a PNG or of a GIF (which plays), for TensorBoard's IMAGES page."""
        image = self._summary.Image(encoded_image_string=picture)
        self._add(step=step, summary=self._summary(value=[self._summary.Value(tag=tag, image=image)]))

    def _add(self, **fields: object) -> None:
        self._writer.add_event(self._event(wall_time=time.time(), **fields))

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def event_sizes(folder: Path) -> dict[str, int]:
    """The sizes of a run's event files, in bytes, by name; waits until so much is on the disk."""
    sizes = {}
    for path in sorted(folder.glob(EVENTS)):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            sizes[path.name] = os.fstat(file.fileno()).st_size
    return sizes


def cut_back(folder: Path, sizes: Mapping[str, int]) -> None:
    """Makes a run's event files what they were when they had these sizes: what was added since is redone."""
    for path in folder.glob(EVENTS):
        size = sizes.get(path.name, 0)
        if size <= 0:
            path.unlink()
        elif path.stat().st_size > size:
            os.truncate(path, size)


def _leave_failures_to_the_caller() -> None:
    """TensorBoard's writing thread keeps what it fails with for the next call; Python need not print its trace too."""
    if not isinstance(threading.excepthook, _QuietHook):
        threading.excepthook = _QuietHook(threading.excepthook)


class _QuietHook:
    """Hands on what other threads fail with."""

    def __init__(self, previous: Callable[[threading.ExceptHookArgs], object]):
        self._previous = previous

    def __call__(self, failure: threading.ExceptHookArgs) -> None:
        if type(failure.thread).__name__ != "_AsyncWriterThread":
            self._previous(failure)
