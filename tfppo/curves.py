"""Pictures of metrics: of one run, and of several in groups."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfppo.errors import UsageError

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
"""Colours that colour-blind people tell apart too (Okabe and Ito 2008), without the yellow, which is faint on white."""
LINES = ("-", "--", ":", "-.")  # where there are more lines than colours


class Band(NamedTuple):
    """A line with a band about it: what a group of runs did."""

    label: str
    x: np.ndarray  # [N]
    mean: np.ndarray  # [N], over the runs
    std: np.ndarray | None  # [N], over the runs; None: there is no band


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


def plot_bands(panels: Mapping[str, Sequence[Band]], picture: Path, x: str, title: str) -> None:
    """Draws lines with bands of one standard deviation to both sides: for each metric a panel of the groups, which have
    one colour in all panels. The kind of picture hangs on the file's ending."""
    figure, axes_of_panels = _figure(len(panels))
    for axes, (name, bands) in zip(axes_of_panels, panels.items(), strict=True):
        for number, (label, steps, mean, std) in enumerate(bands):
            row, column = divmod(number, len(COLOURS))
            colour, line = COLOURS[column], LINES[row % len(LINES)]
            point = "o" if len(steps) == 1 else None  # which no line would show
            axes.plot(steps, mean, color=colour, linestyle=line, marker=point, linewidth=2, label=label)
            if std is not None:
                axes.fill_between(steps, mean - std, mean + std, color=colour, alpha=0.2, linewidth=0)
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


def _figure(panels: int) -> tuple[Any, Sequence[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4 if panels == 1 else 2.5 * panels), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(panels, 1, squeeze=False, sharex=True)[:, 0]
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _label(name: str) -> str:
    return name.split("/")[-1].replace("_", " ")
