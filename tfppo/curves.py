"""Pictures of a run's metrics."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def plot_curve(metrics: Path, picture: Path, x: str, y: str | Sequence[str], title: str) -> None:
    """Draws columns of a metrics.csv over its column `x` into a PNG file: one panel, or one below the other."""
    names = [y] if isinstance(y, str) else list(y)
    rows = _read(metrics)
    figure, panels = _figure(len(names))
    for axes, name in zip(panels, names, strict=True):
        axes.plot([row[x] for row in rows], [row[name] for row in rows], color="#e8710a", linewidth=2)
        axes.set_ylabel(_label(name))
    panels[0].set_title(title)
    panels[-1].set_xlabel(_label(x))
    figure.savefig(picture)


def plot_frontier(metrics: Path, picture: Path, x: str, y: str, title: str) -> None:
    """Draws one column of a metrics.csv against another, a point a row, from the first (light) to the last (dark)."""
    rows = _read(metrics)
    figure, (axes,) = _figure(1)
    axes.scatter([row[x] for row in rows], [row[y] for row in rows], c=range(len(rows)), cmap="Oranges", s=18)
    axes.set_xlabel(_label(x))
    axes.set_ylabel(_label(y))
    axes.set_title(title)
    figure.savefig(picture)


def _read(metrics: Path) -> list[dict[str, float]]:
    with metrics.open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


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
