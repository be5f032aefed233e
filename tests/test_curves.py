"""The picture of a run's metrics."""

import struct
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from tfppo.curves import plot_curve

ROWS = "iteration,rollout/env_steps,rollout/return\n0,100,nan\n1,200,-3.5\n2,300,12\n"


@pytest.fixture
def metrics(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(ROWS)
    return path


def read_png(path):
    """Width and height of a PNG file that begins and ends as one does."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR"
    assert data[-8:-4] == b"IEND"
    return struct.unpack(">II", data[16:24])


def test_the_curve_is_a_picture_of_a_readable_size(metrics, tmp_path):
    plot_curve(metrics, tmp_path / "curve.png", "rollout/env_steps", "rollout/return", "a run")
    width, height = read_png(tmp_path / "curve.png")
    assert 600 <= width <= 2000 and 300 <= height <= 1500
    assert 5_000 < (tmp_path / "curve.png").stat().st_size < 500_000


def test_the_curve_shows_the_columns_it_was_asked_for(metrics, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: drawn.append((figure, path)))
    plot_curve(metrics, tmp_path / "curve.png", "rollout/env_steps", "rollout/return", "a run")
    ((figure, path),) = drawn
    assert path == tmp_path / "curve.png"
    (axes,) = figure.axes
    (line,) = axes.lines
    np.testing.assert_array_equal(line.get_xdata(), [100.0, 200.0, 300.0])
    np.testing.assert_array_equal(line.get_ydata(), [np.nan, -3.5, 12.0])
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("env steps", "return", "a run")


def test_another_curve_is_another_picture(metrics, tmp_path):
    plot_curve(metrics, tmp_path / "a.png", "rollout/env_steps", "rollout/return", "a run")
    plot_curve(metrics, tmp_path / "b.png", "rollout/env_steps", "rollout/return", "a run")
    metrics.write_text(ROWS.replace("-3.5", "9.5"))
    plot_curve(metrics, tmp_path / "c.png", "rollout/env_steps", "rollout/return", "a run")
    pictures = [(tmp_path / name).read_bytes() for name in ("a.png", "b.png", "c.png")]
    assert pictures[0] == pictures[1] != pictures[2]


@pytest.mark.parametrize("rows", ["", "iteration,rollout/env_steps,rollout/return\n"])
def test_a_run_without_rows_has_an_empty_picture(metrics, tmp_path, rows):
    metrics.write_text(rows)
    plot_curve(metrics, tmp_path / "curve.png", "rollout/env_steps", "rollout/return", "a run")
    assert read_png(tmp_path / "curve.png")


def test_a_picture_is_drawn_without_what_needs_a_display(metrics, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    plot_curve(metrics, tmp_path / "curve.png", "rollout/env_steps", "rollout/return", "a run")
    assert read_png(tmp_path / "curve.png")
