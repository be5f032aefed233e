"""Writes the TensorBoard event files of a run."""

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

EVENTS = "events.out.tfevents.*"


class TensorBoardWriter:
    """Writes an event file with scalars, hyperparameters, a graph, texts and pictures.

    All scalars of a row go into one event, which a background thread writes. One summary call per scalar would take
    longer than an iteration of CartPole.

    Args:
      folder: Folder of the event file.
      step_metric: Name of the metric for the horizontal axis. None uses the iteration.
      purge_step: First step of a resumed run. TensorBoard ignores points of earlier event files from this step on.
        None for a new run.
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
        """Writes the metrics of an iteration as scalars.

        Args:
          iteration: Number of the iteration, from 0.
          metrics: Values by metric name.
        """
        step = iteration if self._step_metric is None else int(metrics[self._step_metric])
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._add(step=step, summary=self._summary(value=values))

    def write_hparams(self, hparams: Mapping[str, Any], metrics: list[str]) -> None:
        """Writes the run's settings for TensorBoard's HPARAMS page.

        Args:
          hparams: Settings by name.
          metrics: Names of the metrics that the page shows beside the settings.
        """
        from tensorboard.plugins.hparams import api

        plain = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in hparams.items()}
        config = api.hparams_config_pb(
            hparams=[api.HParam(name) for name in plain], metrics=[api.Metric(name) for name in metrics]
        )
        self._add(step=0, summary=config)
        self._add(step=0, summary=api.hparams_pb(plain))

    def write_graph(self, graph_def: bytes) -> None:
        """Writes a serialized `GraphDef` for TensorBoard's GRAPHS page."""
        self._add(step=0, graph_def=graph_def)

    def write_text(self, tag: str, markdown: str, step: int) -> None:
        """Writes a Markdown text for TensorBoard's TEXT page."""
        from tensorboard.plugins.text.summary_v2 import text_pb

        self._add(step=step, summary=text_pb(tag, markdown))

    def write_image(self, tag: str, picture: bytes, step: int) -> None:
        """Writes a picture for TensorBoard's IMAGES page, which plays an animated GIF.

        Args:
          tag: Name of the picture.
          picture: Bytes of a PNG or GIF file.
          step: Position on the horizontal axis.
        """
        image = self._summary.Image(encoded_image_string=picture)
        self._add(step=step, summary=self._summary(value=[self._summary.Value(tag=tag, image=image)]))

    def _add(self, **fields: object) -> None:
        self._writer.add_event(self._event(wall_time=time.time(), **fields))

    def flush(self) -> None:
        """Waits until the background thread has written all events to the file."""
        self._writer.flush()

    def close(self) -> None:
        """Writes all events and closes the file."""
        self._writer.close()


def _leave_failures_to_the_caller() -> None:
    """Stops Python from printing the traceback of a failure in TensorBoard's writing thread.

    TensorBoard raises the failure again in the next call of the writer, so that the caller can handle it.
    """
    if not isinstance(threading.excepthook, _QuietHook):
        threading.excepthook = _QuietHook(threading.excepthook)


class _QuietHook:
    """Passes failures to the previous hook, except those of TensorBoard's writing thread."""

    def __init__(self, previous: Callable[[threading.ExceptHookArgs], object]):
        self._previous = previous

    def __call__(self, failure: threading.ExceptHookArgs) -> None:
        if type(failure.thread).__name__ != "_AsyncWriterThread":
            self._previous(failure)
