"""Tests the metric writers: rows of CSV, TensorBoard events, and lines on the terminal."""

import csv
import math
import re

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from tfppo.reporting import console
from tfppo.reporting.console import ConsoleWriter, progress_bar
from tfppo.reporting.csv_writer import CsvWriter, whole_lines
from tfppo.reporting.metrics import METRICS
from tfppo.reporting.tensorboard import TensorBoardWriter

STEPS = "rollout/env_steps"
COLUMNS = {"rollout/episode_return_mean": "return", "time/env_steps_per_s": "steps/s"}


def row(iteration):
    """Returns metrics of an iteration of 32 steps."""
    return {
        STEPS: 32.0 * (iteration + 1),
        "rollout/episode_return_mean": math.nan if iteration == 0 else 10.5 + iteration,
        "loss/policy": -0.125 * iteration,
        "time/env_steps_per_s": 1000.0,
    }


def read_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def read_events(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return events


# CSV


def test_csv_has_a_column_a_metric_and_a_row_a_write(tmp_path):
    writer = CsvWriter(tmp_path / "metrics.csv")
    writer.write(0, row(0))
    writer.write(5, row(5))
    writer.close()
    rows = read_rows(tmp_path / "metrics.csv")
    assert [list(r) for r in rows] == [["iteration", *row(0)]] * 2
    assert [r["iteration"] for r in rows] == ["0", "5"]
    for r, iteration in zip(rows, (0, 5), strict=True):
        np.testing.assert_array_equal([float(r[name]) for name in row(0)], list(row(iteration).values()))


def test_csv_of_an_older_version_goes_on_with_what_has_become_a_metric_since(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("iteration,loss/policy,gone\n0,1.5,7\n1,2.5,8\n2,3.5,9\n")
    writer = CsvWriter(path, start=2)
    assert [r["loss/policy"] for r in read_rows(path)] == ["1.5", "2.5"]  # on the disk before the next row is written
    for iteration in (2, 3):
        writer.write(iteration, row(iteration))
    writer.close()
    rows = read_rows(path)
    assert [r["iteration"] for r in rows] == ["0", "1", "2", "3"]
    assert [float(r["loss/policy"]) for r in rows] == [1.5, 2.5, -0.25, -0.375]
    assert [r["gone"] for r in rows] == ["7", "8", "nan", "nan"]
    assert [r[STEPS] for r in rows] == ["nan", "nan", "96", "128"]


def test_csv_of_version_0_2_gets_its_normalized_scores_under_their_present_name(tmp_path):
    path, raw, std, scaled = tmp_path / "metrics.csv", "text/score_mean", "text/score_std", "text/scaled_score_mean"
    path.write_text(f"iteration,{raw},{std},text/kl\n0,-0.5,1.5,0.25\n1,9,9,9\n")
    for start in (1, 2):  # a run that is resumed twice
        writer = CsvWriter(path, start)
        writer.write(start, {raw: 7.0, std: 2.0, scaled: 0.5, "text/kl": 1.0})
        writer.close()
    rows = read_rows(path)
    assert [r[scaled] for r in rows] == ["-0.5", "0.5", "0.5"]
    assert [r[raw] for r in rows] == ["nan", "7", "7"] and [r[std] for r in rows] == ["nan", "2", "2"]
    assert [r["text/kl"] for r in rows] == ["0.25", "1", "1"]


@pytest.mark.parametrize("value", [0.0, -1.0, math.pi, 1e-8, 123456.0, 1e30, math.inf, 12_345_678.0, 16_777_215.0])
def test_csv_keeps_what_float32_holds(tmp_path, value):
    writer = CsvWriter(tmp_path / "metrics.csv")
    writer.write(0, {"x": value})
    writer.close()
    np.testing.assert_allclose(float(read_rows(tmp_path / "metrics.csv")[0]["x"]), value, rtol=1e-6)


@pytest.mark.parametrize("steps", [262_144, 9_999_999, 12_345_678, 1_000_000_001])
def test_csv_keeps_counts_exactly(tmp_path, steps):
    writer = CsvWriter(tmp_path / "metrics.csv")
    writer.write(0, {STEPS: float(steps)})
    writer.close()
    assert float(read_rows(tmp_path / "metrics.csv")[0][STEPS]) == steps


def test_csv_can_be_read_while_it_is_written(tmp_path):
    writer = CsvWriter(tmp_path / "metrics.csv")
    for iteration in range(3):
        writer.write(iteration, row(iteration))
        assert len(read_rows(tmp_path / "metrics.csv")) == iteration + 1
    writer.close()


def test_csv_of_a_resumed_run_drops_what_is_redone(tmp_path):
    path = tmp_path / "metrics.csv"
    writer = CsvWriter(path)
    for iteration in range(5):
        writer.write(iteration, row(iteration))
    writer.close()
    before = path.read_text().splitlines()
    writer = CsvWriter(path, start=3)
    assert path.read_text().splitlines() == before[:4]  # header, 0, 1, 2
    writer.write(3, row(30))
    writer.close()
    assert path.read_text().splitlines()[:4] == before[:4]
    rows = read_rows(path)
    assert [r["iteration"] for r in rows] == ["0", "1", "2", "3"]
    assert float(rows[-1][STEPS]) == row(30)[STEPS]


def test_csv_of_a_new_run_drops_everything(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("iteration,x\n0,1\n")
    writer = CsvWriter(path)
    writer.write(0, {"y": 2.0})
    writer.close()
    assert path.read_text().splitlines() == ["iteration,y", "0,2"]


def test_csv_of_a_resumed_run_whose_file_is_gone_starts_anew(tmp_path):
    writer = CsvWriter(tmp_path / "metrics.csv", start=3)
    writer.write(3, row(3))
    writer.close()
    assert [r["iteration"] for r in read_rows(tmp_path / "metrics.csv")] == ["3"]


# TensorBoard


def test_lines_end_at_a_line_feed_only(tmp_path):
    """A sample may contain other characters at which Python divides lines."""
    lines = ['{"policy": "one\u2028two\x85three"}\n', '{"policy": "four"}\n']
    (tmp_path / "samples.jsonl").write_text("".join(lines) + '{"policy": "fi', encoding="utf-8")
    assert whole_lines(tmp_path / "samples.jsonl") == lines


def test_tensorboard_reads_every_scalar_back(tmp_path):
    writer = TensorBoardWriter(tmp_path, STEPS)
    for iteration in range(4):
        writer.write(iteration, row(iteration))
    writer.close()
    events = read_events(tmp_path)
    assert sorted(events.Tags()["scalars"]) == sorted(row(0))
    for name in row(0):
        read = events.Scalars(name)
        assert [event.step for event in read] == [32, 64, 96, 128]
        np.testing.assert_array_equal([event.value for event in read], [np.float32(row(i)[name]) for i in range(4)])


def test_tensorboard_counts_iterations_where_no_step_metric_is_named(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    writer.write(7, row(7))
    writer.close()
    assert [event.step for event in read_events(tmp_path).Scalars(STEPS)] == [7]


@pytest.mark.parametrize(("purge_step", "steps"), [(97, [32, 64, 96, 128]), (None, [32, 64, 96, 128, 160, 128])])
def test_tensorboard_forgets_what_a_resumed_run_redoes(tmp_path, purge_step, steps):
    writer = TensorBoardWriter(tmp_path, STEPS)
    for iteration in range(5):
        writer.write(iteration, row(iteration))
    writer.close()
    # TensorBoard reads files in the order of their names, compared as text: the second of creation, then a counter.
    (earlier,) = tmp_path.glob("events.out.tfevents.*")
    earlier.rename(earlier.with_name(re.sub(r"tfevents\.\d+", "tfevents.1000000000", earlier.name)))
    writer = TensorBoardWriter(tmp_path, STEPS, purge_step)
    writer.write(3, row(3) | {"loss/policy": 99.0})
    writer.close()
    read = read_events(tmp_path).Scalars("loss/policy")
    assert [event.step for event in read] == steps
    assert read[-1].value == 99.0
    assert read[0].value == 0.0


def test_tensorboard_shows_the_settings(tmp_path):
    settings = {
        "learning_rate": 0.5,
        "num_envs": 4,
        "whiten": True,
        "env": "CartPole-v1",
        "units": (8, 8),
        "clip": None,
    }
    writer = TensorBoardWriter(tmp_path)
    writer.write_hparams(settings, ["rollout/episode_return_mean"])
    writer.close()
    content = read_events(tmp_path).PluginTagToContent("hparams")
    plugins = {tag: plugin_data_pb2.HParamsPluginData.FromString(data) for tag, data in content.items()}
    experiment = plugins["_hparams_/experiment"].experiment
    assert [info.name for info in experiment.hparam_infos] == list(settings)
    assert [info.name.tag for info in experiment.metric_infos] == ["rollout/episode_return_mean"]
    values = plugins["_hparams_/session_start_info"].session_start_info.hparams
    assert values["learning_rate"].number_value == 0.5
    assert values["num_envs"].number_value == 4
    assert values["whiten"].bool_value is True
    assert values["env"].string_value == "CartPole-v1"
    assert values["units"].string_value == "(8, 8)"
    assert values["clip"].string_value == "None"


def test_tensorboard_shows_the_graph(tmp_path):
    graph = tf.Graph()
    with graph.as_default():
        tf.constant(1.0, name="one")
    writer = TensorBoardWriter(tmp_path)
    writer.write_graph(graph.as_graph_def().SerializeToString())
    writer.close()
    read = read_events(tmp_path).Graph()
    assert [node.name for node in read.node] == ["one"]


# Console


@pytest.fixture
def no_terminal(monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):  # they make rich treat a pipe as a terminal
        monkeypatch.delenv(name, raising=False)


def write_iterations(writer, iterations):
    for iteration in iterations:
        writer.write(iteration, row(iteration))
    writer.close()


def test_without_a_terminal_the_last_iteration_is_a_line(no_terminal, capsys, monkeypatch):
    monkeypatch.setattr(ConsoleWriter, "SECONDS_BETWEEN_LINES", math.inf)
    write_iterations(ConsoleWriter(40, COLUMNS, STEPS), range(40))
    out, err = capsys.readouterr()
    assert out == "iteration 40/40  1,280 steps  return 49.5  steps/s 1,000\n"
    assert err == ""


def test_without_a_terminal_a_line_is_written_whenever_it_is_due(no_terminal, capsys, monkeypatch):
    monkeypatch.setattr(ConsoleWriter, "SECONDS_BETWEEN_LINES", 0.0)
    write_iterations(ConsoleWriter(3, COLUMNS, STEPS), range(3))
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "iteration 1/3  32 steps  return -  steps/s 1,000",
        "iteration 2/3  64 steps  return 11.5  steps/s 1,000",
        "iteration 3/3  96 steps  return 12.5  steps/s 1,000",
    ]


def test_lines_are_seconds_apart(no_terminal, capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("tfppo.reporting.console.time.monotonic", lambda: now[0])
    writer = ConsoleWriter(100, COLUMNS, STEPS)
    for iteration in range(100):
        now[0] += 0.5
        writer.write(iteration, row(iteration))
    writer.close()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == [f"{done}/100" for done in range(10, 101, 10)]


def test_a_terminal_has_a_bar_instead_of_lines(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    write_iterations(ConsoleWriter(4, COLUMNS, STEPS, start=1), range(1, 4))
    out, err = capsys.readouterr()
    assert "training" in out and "100%" in out
    assert "128 steps" in out and "return 13.5" in out
    assert "iteration 4/4" not in out
    assert err == ""


def test_a_progress_bar_moves_on_a_terminal_and_is_silent_elsewhere(capsys, monkeypatch, no_terminal):
    with progress_bar("evaluating", 10) as advance:
        advance(10)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress_bar("evaluating", 10) as advance:
        advance(5)
    out = capsys.readouterr().out
    assert "evaluating" in out and "50%" in out


def test_every_metric_has_a_name_of_two_parts_and_an_explanation():
    assert all(len(name.split("/")) == 2 and all(name.split("/")) for name in METRICS)
    assert all(text.strip() and len(text.splitlines()) == 1 for text in METRICS.values())
    assert set(COLUMNS) | {STEPS} <= set(METRICS)


def test_progress_is_printed_from_time_to_time_where_there_is_no_terminal(monkeypatch, capsys):
    def evaluate():
        with progress_bar("evaluating", 8) as advance:
            for completed in (2, 4.4):
                advance(completed)
        return capsys.readouterr().out

    assert evaluate() == ""  # less than ten seconds
    monkeypatch.setattr(console, "SECONDS_BETWEEN_PERCENTAGES", 0.0)
    assert evaluate() == "evaluating: 25%\nevaluating: 55%\n"
