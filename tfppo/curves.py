"""Pictures of a run's metrics."""

import csv
from pathlib import Path


def plot_curve(metrics: Path, picture: Path, x: str, y: str, title: str) -> None:
    """Draws the column `y` of a metrics.csv over its column `x` into a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with metrics.open(newline="") as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([float(row[x]) for row in rows], [float(row[y]) for row in rows], color="#e8710a", linewidth=2)
    axes.set_xlabel(x.split("/")[-1].replace("_", " "))
    axes.set_ylabel(y.split("/")[-1].replace("_", " "))
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture)
