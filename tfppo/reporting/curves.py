"""Plots metrics of one run, or of groups of runs, into picture files."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfppo.errors import UsageError

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
"""Palette for color-blind readers (Okabe and Ito 2008), without yellow, which is hard to see on white."""
Floats = Sequence[float] | np.ndarray  # [N]
LINES = ("-", "--", ":", "-.")  # a plot with more lines than colors uses the next line style


class Band(NamedTuple):
    """The mean of a group of runs, with an optional band around it."""

    label: str
    x: np.ndarray  # [N]
    mean: np.ndarray  # [N], over the runs
    edges: tuple[np.ndarray, np.ndarray] | None  # lower [N] and upper [N] edge; None: no band


def plot_curve(metrics: Path, picture: Path, x: str, y: str | Sequence[str], title: str) -> None:
    """Plots columns of a `metrics.csv` over its column `x` into a PNG file.

    Args:
      metrics: Path of the `metrics.csv`.
      picture: Path of the PNG file to write.
      x: Column of the horizontal axis.
      y: Column of the vertical axis. Several columns get one panel each, stacked vertically.
      title: Title of the plot.

    Raises:
      UsageError: If the `metrics.csv` cannot be read.
    """
    names = [y] if isinstance(y, str) else list(y)
    rows = read_metrics(metrics)
    figure, panels = _figure(len(names))
    for axes, name in zip(panels, names, strict=True):
        axes.plot([row[x] for row in rows], [row[name] for row in rows], color="#e8710a", linewidth=2)
        axes.set_ylabel(_label(name))
    panels[0].set_title(title)
    panels[-1].set_xlabel(_label(x))
    figure.savefig(picture)


def plot_frontier(metrics: Path, picture: Path, x: str, y: str, title: str) -> None:
    """Draws a scatter plot of two columns of a `metrics.csv` into a PNG file.

    Each row is one point. The color goes from light (first row) to dark (last row).

    Args:
      metrics: Path of the `metrics.csv`.
      picture: Path of the PNG file to write.
      x: Column of the horizontal axis.
      y: Column of the vertical axis.
      title: Title of the plot.

    Raises:
      UsageError: If the `metrics.csv` cannot be read.
    """
    rows = read_metrics(metrics)
    figure, (axes,) = _figure(1)
    axes.scatter([row[x] for row in rows], [row[y] for row in rows], c=range(len(rows)), cmap="Oranges", s=18)
    axes.set_xlabel(_label(x))
    axes.set_ylabel(_label(y))
    axes.set_title(title)
    figure.savefig(picture)


def plot_reliability(bins: Sequence[Mapping[str, float]], picture: Path, title: str) -> None:
    """Draws a reliability diagram into a PNG file: the accuracy over the confidence, and how many pairs there are.

    Args:
      bins: For each bin its mean `confidence`, its `accuracy` and its number of `pairs`.
      picture: Path of the PNG file to write.
      title: Title of the plot.
    """
    figure, (axes, counts) = _figure(2)
    confidences = [one["confidence"] for one in bins]
    axes.plot([0.5, 1], [0.5, 1], color="#888888", linewidth=1, linestyle="--")
    axes.plot(confidences, [one["accuracy"] for one in bins], color="#e8710a", marker="o", linewidth=2)
    axes.set_ylabel("accuracy")
    axes.set_title(title)
    counts.bar(confidences, [one["pairs"] for one in bins], width=0.03, color="#e8710a")
    counts.set_ylabel("pairs")
    counts.set_xlabel("confidence")
    figure.savefig(picture)


def deviation(values: np.ndarray) -> tuple[str, tuple[np.ndarray, np.ndarray]]:
    """Computes a band of one sample standard deviation (n - 1) on each side of the mean.

    Args:
      values: Values [runs, N] of at least two runs.

    Returns:
      A description of the band, and its lower and upper edges, each [N].
    """
    mean, std = values.mean(axis=0), values.std(axis=0, ddof=1)
    return f"mean ± sample standard deviation of {len(values)} runs", (mean - std, mean + std)


def extremes(values: np.ndarray) -> tuple[str, tuple[np.ndarray, np.ndarray]]:
    """Computes a band from the lowest to the highest value of the runs.

    Args:
      values: Values [runs, N].

    Returns:
      A description of the band, and its lower and upper edges, each [N].
    """
    return f"mean, lowest and highest of {len(values)} runs", (values.min(axis=0), values.max(axis=0))


def band_of(
    curves: Sequence[tuple[Floats, Floats]],
    label: str = "",
    kind: Callable[[np.ndarray], tuple[str, tuple[np.ndarray, np.ndarray]]] = deviation,
) -> Band:
    """Computes the mean of runs, and a band around it if there are several runs.

    The result covers the range of x in which every run has values. Runs are interpolated linearly between their
    points.

    Args:
      curves: One pair (x, y) per run. x is sorted in ascending order.
      label: Name of the group. An empty string shows only the description of the band.
      kind: Function that computes the band, `deviation` or `extremes`.

    Returns:
      The mean and the band. A single run has no band.

    Raises:
      ValueError: If there is no x at which all runs have values.
    """
    first, last = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    if first > last:
        raise ValueError(f"one run ends at {last}, before another run begins at {first}; they must overlap")
    # Every x of every run: the mean is a straight line between two neighboring points of this grid.
    grid = np.unique(np.concatenate([x for x, _ in curves]))
    grid = grid[(first <= grid) & (grid <= last)]
    values = np.stack([np.interp(grid, *curve) for curve in curves])  # [runs, N]
    shown, edges = kind(values) if len(curves) > 1 else ("1 run", None)
    return Band(f"{label}: {shown}" if label else shown, grid, values.mean(axis=0), edges)


def plot_bands(
    panels: Mapping[str, Sequence[Band]], picture: Path, x: str, title: str, goal: float | None = None
) -> None:
    """Plots the means and bands of groups of runs into a picture file.

    Args:
      panels: Bands by metric name. Each metric gets one panel, and a group has the same color in all panels.
      picture: Path of the picture to write. Its ending selects the format, such as .png, .svg or .pdf.
      x: Name of the horizontal axis.
      title: Title of the plot.
      goal: Height of a dashed horizontal line in every panel. None draws no line.
    """
    figure, axes_of_panels = _figure(len(panels))
    for axes, (name, bands) in zip(axes_of_panels, panels.items(), strict=True):
        for number, (label, steps, mean, edges) in enumerate(bands):
            row, column = divmod(number, len(COLOURS))
            colour, line = COLOURS[column], LINES[row % len(LINES)]
            point = "o" if len(steps) == 1 else None  # a line through one point is invisible
            axes.plot(steps, mean, color=colour, linestyle=line, marker=point, linewidth=2, label=label)
            if edges is not None:
                axes.fill_between(steps, *edges, color=colour, alpha=0.2, linewidth=0)
        if goal is not None:
            axes.axhline(goal, color="#888888", linewidth=1, linestyle="--")
        axes.set_ylabel(_label(name))
    axes_of_panels[0].legend(frameon=False, fontsize="small")
    axes_of_panels[0].set_title(title)
    axes_of_panels[-1].set_xlabel(_label(x))
    figure.savefig(picture)


def read_metrics(metrics: Path) -> list[dict[str, float]]:
    """Reads the rows of a `metrics.csv`.

    Args:
      metrics: Path of the file.

    Returns:
      One dictionary per row, from column name to value.

    Raises:
      UsageError: If the file cannot be read or contains something other than numbers.
    """
    try:
        with metrics.open(newline="") as file:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    except OSError as error:
        raise UsageError(
            f"{metrics} cannot be read ({error.strerror}): train the run for at least one iteration, which writes it"
        ) from None
    except (ValueError, TypeError, csv.Error):  # not UTF-8, not a number, or a row with too few or too many columns
        raise UsageError(f"{metrics} is damaged; it must be a table of numbers: restore it or train again") from None


def _figure(count: int) -> tuple[Any, Sequence[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4 if count == 1 else 2.5 * count), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(count, 1, squeeze=False, sharex=True)[:, 0]
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _label(name: str) -> str:
    return name.split("/")[-1].replace("_", " ")
