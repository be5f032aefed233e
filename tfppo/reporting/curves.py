"""Pictures of metrics: of one run, and of several in groups."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfppo.errors import UsageError

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
"""Colours that colour-blind people tell apart too (Okabe and Ito 2008), without the yellow, which is faint on white."""
Floats = Sequence[float] | np.ndarray  # [N]
LINES = ("-", "--", ":", "-.")  # where there are more lines than colours


class Band(NamedTuple):
    """A line with a band about it: what a group of runs did."""

    label: str
    x: np.ndarray  # [N]
    mean: np.ndarray  # [N], over the runs
    edges: tuple[np.ndarray, np.ndarray] | None  # [N] and [N], below and above; None: there is no band


def plot_curve(metrics: Path, picture: Path, x: str, y: str | Sequence[str], title: str) -> None:
    """Draws columns of a metrics.csv over its column `x` into a PNG file: one panel, or one below the other."""
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
    """Draws one column of a metrics.csv against another, a point a row, from the first (light) to the last (dark)."""
    rows = read_metrics(metrics)
    figure, (axes,) = _figure(1)
    axes.scatter([row[x] for row in rows], [row[y] for row in rows], c=range(len(rows)), cmap="Oranges", s=18)
    axes.set_xlabel(_label(x))
    axes.set_ylabel(_label(y))
    axes.set_title(title)
    figure.savefig(picture)


def deviation(values: np.ndarray) -> tuple[str, tuple[np.ndarray, np.ndarray]]:
    """A band of one standard deviation, that of a sample (n - 1), to both sides of the mean of runs' values [runs, N]:
    what it is called, and its edges [N], below and above."""
    mean, std = values.mean(axis=0), values.std(axis=0, ddof=1)
    return f"mean ± sample standard deviation of {len(values)} runs", (mean - std, mean + std)


def extremes(values: np.ndarray) -> tuple[str, tuple[np.ndarray, np.ndarray]]:
    """A band from the lowest to the highest of the runs, as `deviation`."""
    return f"mean, lowest and highest of {len(values)} runs", (values.min(axis=0), values.max(axis=0))


def band_of(
    curves: Sequence[tuple[Floats, Floats]],
    label: str = "",
    kind: Callable[[np.ndarray], tuple[str, tuple[np.ndarray, np.ndarray]]] = deviation,
) -> Band:
    """The mean of runs with a band about it, where all of them have values; one run is drawn without a band.

    Args:
      curves: x and y of each run, in the order of x; between its points a run is interpolated linearly.
      label: what the runs are, if that is to be said.
      kind: `deviation` or `extremes`.

    Raises:
      ValueError: if the runs have values at no x in common.
    """
    first, last = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    if first > last:
        raise ValueError(f"the first of these runs ends at {last}, before another begins at {first}")
    # All of the runs' own points: between two of them every run is a straight line, and so is their mean.
    grid = np.unique(np.concatenate([x for x, _ in curves]))
    grid = grid[(first <= grid) & (grid <= last)]
    values = np.stack([np.interp(grid, *curve) for curve in curves])  # [runs, N]
    shown, edges = kind(values) if len(curves) > 1 else ("1 run", None)
    return Band(f"{label}: {shown}" if label else shown, grid, values.mean(axis=0), edges)


def plot_bands(
    panels: Mapping[str, Sequence[Band]], picture: Path, x: str, title: str, goal: float | None = None
) -> None:
    """Draws lines with their bands: for each metric a panel of the groups, which have one colour in all panels; and a
    dashed line at the goal. The kind of picture hangs on the file's ending."""
    figure, axes_of_panels = _figure(len(panels))
    for axes, (name, bands) in zip(axes_of_panels, panels.items(), strict=True):
        for number, (label, steps, mean, edges) in enumerate(bands):
            row, column = divmod(number, len(COLOURS))
            colour, line = COLOURS[column], LINES[row % len(LINES)]
            point = "o" if len(steps) == 1 else None  # which no line would show
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
    """The rows of a metrics.csv. Raises UsageError if it cannot be read."""
    try:
        with metrics.open(newline="") as file:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    except OSError as error:
        raise UsageError(f"{metrics} cannot be read ({error.strerror}): the first iteration writes it") from None
    except (ValueError, TypeError, csv.Error):  # no text, no number, or a row of another length
        raise UsageError(f"{metrics} is damaged: it is no table of numbers") from None


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
