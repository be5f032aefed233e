"""Tests the plots of one run and of groups of runs."""

import statistics
import struct
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from support.refusal import refusal

from tfppo.reporting.curves import COLOURS, Band, band_of, extremes, plot_bands, plot_curve, read_metrics

ROWS = "iteration,rollout/env_steps,rollout/return\n0,100,nan\n1,200,-3.5\n2,300,12\n"


@pytest.fixture
def metrics(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(ROWS)
    return path


def read_png(path):
    """Returns the width and height of a complete PNG file."""
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


def test_groups_have_colours_of_their_own_the_same_in_every_panel(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: figures.append(figure))
    count = 2 * len(COLOURS) + 1
    bands = [Band(f"group {n}", np.arange(3.0), np.full(3, n), (np.zeros(3), np.ones(3))) for n in range(count)]
    plot_bands({"text/score_mean": bands, "text/kl": bands}, tmp_path / "plot.png", "iteration", "groups")
    above, below = figures[0].axes
    looks = [[(line.get_color(), line.get_linestyle()) for line in axes.lines] for axes in (above, below)]
    assert looks[0] == looks[1] and len(set(looks[0])) == count
    assert [colour for colour, _ in looks[0][: len(COLOURS)]] == list(COLOURS)
    assert [text.get_text() for text in above.get_legend().get_texts()] == [band.label for band in bands]
    assert below.get_legend() is None and len(below.collections) == count
    assert (above.get_title(), below.get_xlabel()) == ("groups", "iteration")


def test_a_goal_is_a_line_in_every_panel(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: figures.append(figure))
    panel = [Band("runs", np.arange(3.0), np.zeros(3), None)]
    plot_bands({"a": panel, "b": panel}, tmp_path / "plot.png", "iteration", "", 7.0)
    for axes in figures[0].axes:
        np.testing.assert_array_equal(axes.lines[1].get_ydata(), [7.0, 7.0])
        assert axes.lines[1].get_linestyle() == "--"


def test_a_band_is_of_a_samples_deviation_or_of_the_extremes():
    runs = [([0, 4], [0.0, 4.0]), ([0, 2, 4], [2.0, 2.0, 8.0]), ([1, 4], [7.0, 7.0])]
    band, wide = band_of(runs), band_of(runs, "lr=1", extremes)
    for shown in (band, wide):
        np.testing.assert_array_equal(shown.x, [1, 2, 4])  # the common range, at every point of every run
        np.testing.assert_allclose(shown.mean, [10 / 3, 11 / 3, 19 / 3])
    for index, values in enumerate([(1, 2, 7), (2, 2, 7), (4, 8, 7)]):
        std = statistics.stdev(values)
        edges = [edge[index] for edge in band.edges]
        assert edges == pytest.approx([band.mean[index] - std, band.mean[index] + std])
        assert [edge[index] for edge in wide.edges] == [min(values), max(values)]
    assert band.label == "mean ± sample standard deviation of 3 runs"
    assert wide.label == "lr=1: mean, lowest and highest of 3 runs"
    alone = band_of(runs[:1])
    assert alone.edges is None and alone.label == "1 run"
    with pytest.raises(ValueError, match="ends at 4, before another run begins at 5"):
        band_of([*runs, ([5], [1.0])])


def test_a_single_point_can_be_seen(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: figures.append(figure))
    bands = [Band(str(n), np.arange(float(n)), np.zeros(n), None) for n in (1, 2)]
    plot_bands({"text/kl": bands}, tmp_path / "plot.png", "iteration", "")
    (axes,) = figures[0].axes
    assert [line.get_marker() for line in axes.lines] == ["o", "None"]
    assert not axes.collections


@pytest.mark.parametrize("text", ["a,b\n1,x\n", "a,b\n1\n", "a,b\n1,2,3\n", "a,b\n1,\0\n", "a,b\n1,\udcff\n"])
def test_a_damaged_table_is_refused_by_name(metrics, text):
    metrics.write_bytes(text.encode(errors="surrogateescape"))
    assert str(metrics) in refusal(read_metrics, metrics)
    metrics.unlink()
    assert str(metrics) in refusal(read_metrics, metrics)
