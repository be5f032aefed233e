"""Where metrics go: the terminal and metrics.csv (and TensorBoard: tensorboard.py). One table names them all."""

import contextlib
import csv
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

METRICS = {
    "rollout/episode_return_mean": "mean return of the latest 100 finished training episodes",
    "rollout/episode_length_mean": "mean length of the latest 100 finished training episodes, in steps",
    "rollout/episodes": "training episodes that have finished",
    "rollout/env_steps": "environment steps so far, steps that only started an episode left out",
    "text/score_mean": "mean score of the rollout's responses, scaled and clipped as it enters the reward",
    "text/score_std": "standard deviation of the scores",
    "text/kl": "mean over responses of the sum over tokens of log pi - log pi_ref, in nats (Ziegler et al. 2019)",
    "text/kl_coeff": "coefficient of the KL to the reference in the iteration",
    "text/reward_mean": "mean score minus text/kl_coeff x text/kl: what is maximised",
    "text/response_length_mean": "mean words of a response",
    "text/response_tokens_mean": "mean tokens of a response, its end included",
    "text/eos_fraction": "share of responses that end within the response length",
    "text/distinct_2": "distinct pairs of words over all pairs of the rollout's responses (Li et al. 2016)",
    "text/sampler_gap": "largest difference of a token's log-probability between sampling and the full forward pass",
    "loss/policy": "clipped surrogate, negated (Schulman et al. 2017, eq. 7)",
    "loss/value": "half the mean squared error of the values, clipped where that is on",
    "loss/entropy": "minus the entropy, before its coefficient",
    "loss/kl": "the penalised KL, before its coefficient: KL(old || new), or KL(policy || reference)",
    "loss/total": "what is minimised: the terms with their coefficients",
    "policy/approx_kl": "estimate k3 of KL(old || new) (Schulman 2020)",
    "policy/clip_fraction": "share of ratios outside 1 +- clip_ratio",
    "policy/entropy": "mean entropy of the policy, in nats",
    "policy/ratio_max": "largest ratio of new to old probability",
    "policy/first_ratio_max": "the same in the first minibatch, where it is 1 unless sampler and learner disagree",
    "policy/grad_norm": "global norm of the gradient before clipping",
    "value/explained_variance": "1 - Var(returns - values) / Var(returns), values as in the rollout",
    "value/clip_fraction": "share of values outside old value +- value_clip",
    "schedule/learning_rate": "learning rate of the iteration",
    "schedule/clip_ratio": "clip ratio of the iteration",
    "schedule/entropy_coeff": "coefficient of the entropy bonus in the iteration",
    "schedule/kl_coeff": "coefficient of the KL penalty in the iteration",
    "guard/skipped_updates": "updates that were skipped so far, because a number in them was not finite",
    "time/env_steps_per_s": "transitions collected and trained on per second, in the latest iteration (fused: call)",
    "time/tokens_per_s": "response tokens sampled and trained on per second, in the latest iteration",
    "time/rollout_s": "seconds of an iteration spent waiting for its rollout",
    "time/update_s": "seconds of an iteration spent in its update",
}


class Writer(Protocol):
    """Takes a row of metrics after an iteration."""

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None: ...

    def flush(self) -> None: ...  # to the disk

    def close(self) -> None: ...


class CsvWriter:
    """metrics.csv: a column `iteration`, then one for each metric.

    Args:
      path: of the file.
      start: a resumed run's first iteration: rows from it on belong to what is redone, and are dropped. Rows of a
        version that had fewer metrics get "nan" for the others.
    """

    def __init__(self, path: Path, start: int = 0):
        self._path = path
        self._kept: list[dict[str, str]] = []
        if start > 0 and path.exists():
            self._kept = [row for row in csv.DictReader(whole_lines(path)) if int(row["iteration"]) < start]
        self._is_new = True  # nothing was written yet but what is kept
        self._rewrite(list(self._kept[0]) if self._kept else [])

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        row = {"iteration": iteration, **{name: _plain(value) for name, value in metrics.items()}}
        if self._is_new:
            columns = list(dict.fromkeys([*self._writer.fieldnames, *row]))
            if columns != self._writer.fieldnames:
                self._file.close()
                self._rewrite(columns)
            self._is_new = False
        self._writer.writerow(row)
        self._file.flush()

    def _rewrite(self, names: list[str]) -> None:
        """Writes the header, and below it the rows that are kept, in place of the file, and goes on behind them."""
        new = self._path.with_name(self._path.name + ".tmp")
        self._file: IO[str] = new.open("w", newline="")
        self._writer = csv.DictWriter(self._file, names, restval="nan")
        if names:
            self._writer.writeheader()
        self._writer.writerows(self._kept)
        self.flush()
        new.replace(self._path)

    def flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class ConsoleWriter:
    """A live progress bar on a terminal; elsewhere a line every few seconds.

    Args:
      num_iterations: of the run.
      columns: metrics that are shown, and what they are called.
      step_metric: the metric that counts steps; None: steps are not shown.
      start: iterations that are already done.
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
        """There is nothing to flush."""

    def close(self) -> None:
        self._progress.stop()
        self._print()

    def _print(self) -> None:
        """Prints the latest line, once, where there is no live display."""
        if self._progress.disable and self._unprinted:
            print(self._unprinted, flush=True)
        self._unprinted = ""


def whole_lines(path: Path) -> list[str]:
    """The lines of a text file, without one that a process was killed in the middle of."""
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _plain(value: float) -> str:
    """Seven digits, which is all that float32 has; counts in full."""
    return str(int(value)) if float(value).is_integer() else f"{value:.7g}"


def _readable(value: float) -> str:
    if math.isnan(value):
        return "-"  # no episode has finished yet
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


@contextlib.contextmanager
def progress_bar(description: str, total: int) -> Iterator[Callable[[float], None]]:
    """A progress bar on a terminal, moved by calling what it yields with how much is done; nothing elsewhere."""
    with _make_progress() as progress:
        task = progress.add_task(description, total=total, note="")
        yield lambda completed: progress.update(task, completed=completed)


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
