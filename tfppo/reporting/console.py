"""Progress bars and a live line of metrics for the terminal.

If the standard output is not a terminal, `ConsoleWriter` prints a plain line every few seconds.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

SECONDS_BETWEEN_PERCENTAGES = 10.0


class ConsoleWriter:
    """Shows metrics in a live progress bar on a terminal, or as a line every few seconds elsewhere.

    Args:
      num_iterations: Number of iterations of the whole run.
      columns: Labels of the metrics to show, by metric name.
      step_metric: Name of the metric that counts steps. None shows no steps.
      start: Number of iterations that are already done.
    """

    SECONDS_BETWEEN_LINES = 5.0

    def __init__(self, num_iterations: int, columns: Mapping[str, str], step_metric: str | None, start: int = 0):
        self._columns = columns
        self._step_metric = step_metric
        self._num_iterations = num_iterations
        self._progress = _make_progress()
        self._task = self._progress.add_task("training", total=num_iterations, completed=start, note="compiling ...")
        self._progress.start()
        self._last_line = time.monotonic()
        self._unprinted = ""

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Shows the metrics of an iteration.

        Args:
          iteration: Number of the iteration, from 0.
          metrics: Values by metric name.
        """
        done = iteration + 1
        shown = [] if self._step_metric is None else [f"{int(metrics[self._step_metric]):,} steps"]
        shown += [f"{label} {_readable(metrics[name])}" for name, label in self._columns.items()]
        self._progress.update(self._task, completed=done, note="  ".join(shown))
        now = time.monotonic()
        self._unprinted = f"iteration {done}/{self._num_iterations}  {'  '.join(shown)}"
        if now - self._last_line >= self.SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._print()

    def flush(self) -> None:
        """Does nothing: output to the terminal is not buffered."""

    def close(self) -> None:
        """Stops the progress bar, and prints the latest line if there is no progress bar."""
        self._progress.stop()
        self._print()

    def _print(self) -> None:
        """Prints the latest line once, if there is no live display."""
        if self._progress.disable and self._unprinted:
            print(self._unprinted, flush=True)
        self._unprinted = ""


def _readable(value: float) -> str:
    if math.isnan(value):
        return "-"  # no episode has finished yet
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


@contextlib.contextmanager
def progress_bar(description: str, total: int) -> Iterator[Callable[[float], None]]:
    """Shows a progress bar on a terminal, and a line every ten seconds elsewhere.

    Args:
      description: Text in front of the bar.
      total: Amount of work at which the bar is full.

    Yields:
      A function that moves the bar: call it with the amount of work that is done.
    """
    with _make_progress() as progress:
        task = progress.add_task(description, total=total, note="")
        printed = time.monotonic()

        def advance(completed: float) -> None:
            nonlocal printed
            progress.update(task, completed=completed)
            if progress.disable and time.monotonic() - printed >= SECONDS_BETWEEN_PERCENTAGES:
                printed = time.monotonic()
                print(f"{description}: {completed / total:.0%}", flush=True)

        yield advance


def _make_progress() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(highlight=False)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:3.0f}%"),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
