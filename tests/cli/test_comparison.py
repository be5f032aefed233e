"""Tests the comparison of runs: the groups, their labels, the plot and the errors."""

import dataclasses
from functools import partial

import numpy as np
import pytest
from matplotlib.figure import Figure
from support.refusal import refusal

from tfppo import cli
from tfppo.cli import comparison
from tfppo.cli.comparison import group_runs, only_runs, plot_runs
from tfppo.control.recipes import make_control_config
from tfppo.text.defaults import make_text_config
from tfppo.training import run_folder
from tfppo.training.config import RunConfig

STEPS, RETURN = "rollout/env_steps", "rollout/episode_return_mean"


@pytest.fixture
def make_run(tmp_path):
    """Creates the folder of a run with settings and rows (x, y, and for text also y of the second panel)."""

    def make_run(name, rows=((0, 1.0), (10, 2.0)), make=make_control_config, run=None, **settings):
        config = make(**settings)
        config = dataclasses.replace(config, run=run or RunConfig(seed=len(list(tmp_path.iterdir())), name=name))
        folder = tmp_path / name
        folder.mkdir()
        run_folder.write_config(folder, config)
        header = f"iteration,{STEPS},{RETURN}" if make is make_control_config else "iteration,text/score_mean,text/kl"
        lines = [
            ",".join(map(str, (number, *row) if make is make_control_config else row))
            for number, row in enumerate(rows)
        ]
        (folder / run_folder.METRICS).write_text("\n".join([header, *lines, ""]))
        return folder

    return make_run


@pytest.fixture
def drawn(monkeypatch):
    """Collects the saved figures."""
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: figures.append(figure))
    return figures


def labels(*folders):
    return [group.label for group in group_runs(folders)]


def test_runs_that_differ_in_seed_name_and_place_are_one_group(make_run, tmp_path):
    same = [
        make_run("a", run=RunConfig(seed=1)),
        make_run("b", run=RunConfig(seed=2, name="b")),
        make_run("c", run=RunConfig(seed=1, runs_dir=tmp_path / "elsewhere")),
    ]
    other = make_run("d", run=RunConfig(seed=3, log_interval=2))
    groups = group_runs([same[0], other, *same[1:]])
    assert [group.folders for group in groups] == [same, [other]]  # in order of appearance
    assert [group.label for group in groups] == ["log_interval=1", "log_interval=2"]
    assert labels(*same) == [""]


def test_a_label_names_each_setting_that_differs(make_run):
    a = make_run("a", learning_rate=1e-3, hidden_units=(8, 4), target_return=None)
    b = make_run("b", learning_rate=1e-3, hidden_units=(), target_return=475.0)
    c = make_run("c", learning_rate=2e-5, hidden_units=(), target_return=475.0)
    assert labels(a, b) == ["hidden_units=8x4, target_return=None", "hidden_units=none, target_return=475"]
    assert labels(b, c) == ["learning_rate=0.001", "learning_rate=2e-05"]
    assert labels(a, b, c)[2] == "hidden_units=none, target_return=475, learning_rate=2e-05"


def test_what_an_environment_or_a_task_brings_with_it_is_not_named(make_run):
    a, b = make_run("a", env="CartPole-v1"), make_run("b", env="Acrobot-v1")
    c = make_run("c", env="Acrobot-v1", clip_ratio=0.1)
    assert labels(a, b) == ["env=CartPole-v1", "env=Acrobot-v1"]
    assert labels(a, b, c) == [
        "env=CartPole-v1, clip_ratio=0.2",
        "env=Acrobot-v1, clip_ratio=0.2",
        "env=Acrobot-v1, clip_ratio=0.1",
    ]
    texts = [
        make_run("d", make=make_text_config, task="length"),
        make_run("e", make=make_text_config, task="keywords", iterations=9),
    ]
    assert labels(*texts) == ["task=length", "task=keywords"]


def test_of_many_differences_a_label_names_what_is_needed(make_run):
    many = {"num_epochs": 2, "gamma": 0.9, "clip_ratio": 0.1, "entropy_coeff": 0.5}
    a, b = make_run("a"), make_run("b", **many)
    c = make_run("c", **many | {"gamma": 0.8})
    assert labels(a, b) == ["clip_ratio=0.2, ...", "clip_ratio=0.1, ..."]
    assert labels(a, b, c) == ["gamma=0.98, ...", "gamma=0.9, ...", "gamma=0.8, ..."]


def test_the_line_is_the_mean_and_the_band_a_sample_standard_deviation(make_run, drawn, tmp_path):
    a = make_run("a", [(0, "nan"), (10, 1.0), (30, 3.0), (50, 5.0)])
    b = make_run("b", [(0, 0.0), (20, 4.0), (40, 8.0)])
    plot_runs([a, b], tmp_path / "plot.png")
    (axes,) = drawn[0].axes
    (line,), (band,) = axes.lines, axes.collections
    np.testing.assert_array_equal(line.get_xdata(), [10, 20, 30, 40])  # the common range, at the points of both runs
    np.testing.assert_allclose(line.get_ydata(), [1.5, 3.0, 4.5, 6.0])  # of y = x / 10 and y = x / 5
    corners = band.get_paths()[0].vertices
    for x, low, high in [(10, 1.0, 2.0), (20, 2.0, 4.0), (30, 3.0, 6.0), (40, 4.0, 8.0)]:  # the values of both runs
        ys = corners[corners[:, 0] == x, 1]
        middle, std = (low + high) / 2, (high - low) / np.sqrt(2)  # of two values, n - 1
        assert (ys.min(), ys.max()) == pytest.approx((middle - std, middle + std))
    (text,) = axes.get_legend().get_texts()
    assert text.get_text() == "mean ± sample standard deviation of 2 runs"
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == (
        "env steps",
        "episode return mean",
        "CartPole-v1",
    )


def test_a_group_of_one_run_is_that_run_without_a_band(make_run, drawn, tmp_path):
    a = make_run("a", [(0, 1.0), (10, 2.0)], gamma=0.9)
    b, c = (make_run(name, [(0, 5.0), (10, 6.0)]) for name in "bc")
    groups = plot_runs([a, b, c], tmp_path / "plot.png")
    assert [group.folders for group in groups] == [[a], [b, c]]
    (axes,) = drawn[0].axes
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [1.0, 2.0])
    assert len(axes.collections) == 1
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "gamma=0.9: 1 run",
        "gamma=0.98: mean ± sample standard deviation of 2 runs",
    ]


def test_text_has_its_score_and_its_kl_over_iterations(make_run, drawn, tmp_path):
    folder = make_run("a", [(0, 0.5, 0.0), (1, 0.75, 2.0)], make=partial(make_text_config, task="sentiment"))
    plot_runs([folder], tmp_path / "plot.png")
    score, kl = drawn[0].axes
    np.testing.assert_array_equal(score.lines[0].get_xydata(), [[0, 0.5], [1, 0.75]])
    np.testing.assert_array_equal(kl.lines[0].get_xydata(), [[0, 0.0], [1, 2.0]])
    assert (score.get_ylabel(), kl.get_ylabel(), kl.get_xlabel()) == ("score mean", "kl", "iteration")
    assert score.get_title() == "sentiment"


def test_a_run_on_prompts_of_a_file_has_the_name_of_the_file(make_run, drawn, tmp_path):
    make = partial(make_text_config, prompts=tmp_path / "questions.jsonl")
    plot_runs([make_run("a", [(0, 0.5, 0.0), (1, 0.75, 2.0)], make=make)], tmp_path / "plot.png")
    assert drawn[0].axes[0].get_title() == "questions"


@pytest.mark.fault(
    "`tfppo plot` gets text runs of version 0.2 and later ones, whose scores have other units", "A one-line error."
)
def test_normalized_and_raw_scores_are_not_drawn_in_one_picture(make_run, drawn, tmp_path):
    old, new = (make_run(name, [(0, 0.5, 0.0)], make=make_text_config) for name in ("old", "new"))
    (new / run_folder.METRICS).write_text("iteration,text/score_mean,text/scaled_score_mean,text/kl\n0,7,0.5,0\n")
    for folders in ([old, new], [new, old]):
        text = refusal(plot_runs, folders, tmp_path / "plot.png")
        assert text.startswith(f"{old} has the normalized scores") and f"{new} has raw scores" in text
    plot_runs([old, new], tmp_path / "plot.png", "text/kl")
    plot_runs([old], tmp_path / "plot.png")
    plot_runs([new], tmp_path / "plot.png")
    assert len(drawn) == 3


def test_any_column_can_be_drawn(make_run, drawn, tmp_path):
    plot_runs([make_run("a", [(7, 1.0), (9, 2.0)])], tmp_path / "plot.png", "iteration")
    np.testing.assert_array_equal(drawn[0].axes[0].lines[0].get_xydata(), [[7, 0], [9, 1]])


def test_groups_of_different_environments_have_no_title(make_run, drawn, tmp_path):
    plot_runs([make_run("a"), make_run("b", env="Acrobot-v1")], tmp_path / "plot.png")
    assert drawn[0].axes[0].get_title() == ""


@pytest.mark.parametrize("ending", ["png", "svg", "PDF"])
def test_a_picture_of_each_kind_is_written_and_written_over(make_run, tmp_path, ending):
    folder, picture = make_run("a"), tmp_path / f"plot.{ending}"
    picture.write_text("an old one")
    plot_runs([folder], picture)
    start = {"png": b"\x89PNG", "svg": b"<?xml", "PDF": b"%PDF"}[ending]
    assert picture.read_bytes().startswith(start)


@pytest.mark.parametrize("name", [run_folder.CURVE, run_folder.FRONTIER])
def test_a_runs_own_picture_is_never_written_over(make_run, tmp_path, name):
    folder = make_run("a")
    (folder / name).write_text("precious")
    (tmp_path / "link.png").symlink_to(folder / name)
    for picture in (folder / name, folder / ".." / "a" / name, tmp_path / "link.png"):
        text = refusal(plot_runs, [folder], picture)
        assert str(picture) in text and "--out" in text
    assert (folder / name).read_text() == "precious"
    plot_runs([folder], tmp_path / name)  # the picture does not belong to a run


@pytest.mark.parametrize("place", ["nowhere/plot.png", "plot", "plot.txt", "folder.png"])
def test_a_picture_that_cannot_be_one_is_refused(make_run, tmp_path, place):
    (tmp_path / "folder.png").mkdir()
    text = refusal(plot_runs, [make_run("a")], tmp_path / place)
    assert place.split("/")[-1] in text and "--out" in text


def test_a_wrong_metric_is_answered_with_those_of_the_run(make_run, tmp_path):
    folder = make_run("a")
    text = refusal(plot_runs, [folder], tmp_path / "plot.png", "return")
    assert all(word in text for word in (str(folder), "no metric return", "iteration", STEPS, RETURN))
    assert not (tmp_path / "plot.png").exists()


def test_control_and_text_are_not_mixed(make_run, tmp_path):
    a, b = make_run("a"), make_run("b", [(0, 1, 2)], make=make_text_config)
    for folders in ([a, b], [b, a]):
        text = refusal(plot_runs, folders, tmp_path / "plot.png")
        assert f"{a} is a control run" in text and f"{b} is a text run" in text


def test_what_is_no_run_or_has_nothing_to_show_is_refused(make_run, tmp_path):
    picture = tmp_path / "plot.png"
    a = make_run("a")
    assert "folder" in refusal(plot_runs, [], picture)
    (tmp_path / "again").symlink_to(a)
    assert "twice" in refusal(plot_runs, [a, tmp_path / "again"], picture)
    assert "nowhere" in refusal(plot_runs, [tmp_path / "nowhere"], picture)
    unstarted, empty = make_run("unstarted"), make_run("empty", [])
    (unstarted / run_folder.METRICS).unlink()
    assert str(unstarted / run_folder.METRICS) in refusal(plot_runs, [unstarted], picture)
    assert "no rows" in refusal(plot_runs, [empty], picture)
    assert "so far" in refusal(plot_runs, [make_run("short", [(0, "nan")])], picture)
    later = make_run("later", [(11, 1.0), (12, 2.0)])
    assert "in common" in refusal(plot_runs, [a, later], picture)
    assert not picture.exists()


def test_axes_are_metrics_that_are_documented():
    from tfppo.reporting.metrics import METRICS

    for x, metrics in (comparison.CONTROL_AXES, comparison.TEXT_AXES):
        assert x in ("iteration", *METRICS) and set(metrics) <= set(METRICS)


def test_what_is_no_run_is_left_out(make_run, tmp_path, capsys):
    a = make_run("a", [(0, 1.0), (1, 2.0)])
    (tmp_path / "notes").mkdir()
    assert only_runs([a, tmp_path / "notes"]) == ([a], [tmp_path / "notes"])
    assert only_runs([tmp_path / "notes"]) == ([tmp_path / "notes"], [])  # its own error says more
    assert cli.main(["plot", str(a), str(tmp_path / "notes"), "--out", str(tmp_path / "plot.png")]) == 0
    assert capsys.readouterr().out.startswith(f"left out, because they are not runs: {tmp_path / 'notes'}\n")
    assert "is the folder of a run" in refusal(only_runs, [tmp_path / "notes", tmp_path / "nothing"])
