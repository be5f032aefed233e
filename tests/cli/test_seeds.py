"""Tests --seeds: each run equals the run that is trained alone, and a table and a plot summarise the runs."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.refusal import refusal

import tfppo
from tfppo import cli
from tfppo.cli import comparison
from tfppo.cli.seeds import interquartile_mean, parse_seeds, train_seeds
from tfppo.control import run as control
from tfppo.control.recipes import make_control_config
from tfppo.text import run as text
from tfppo.text.defaults import make_text_config
from tfppo.training import driver, new_folder, run_folder
from tfppo.training.config import RunConfig

TINY = [
    *("--num-envs", "4", "--rollout-length", "8", "--total-steps", "64", "--hidden-units", "8"),
    *("--minibatch-size", "16", "--num-epochs", "1", "--eval-episodes", "2"),
    *("--device", "cpu", "--compile-rollout", "eager", "--compile-update", "eager"),
]
COMPILED = ["--compile-rollout", "graph", "--compile-update", "graph"]
METRICS = "iteration,rollout/env_steps,rollout/episode_return_mean\n0,1,2\n1,3,4\n"
NUMBERS = {"mean": 10.0, "stochastic": {"mean": 7.0}, "env_steps": 1234, "seconds": {"total": 3.25}}


def train_cartpole(*arguments, runs_dir):
    return cli.main(["train", "cartpole", *TINY, "--runs-dir", str(runs_dir), *arguments])


def state_of(folder):
    """Returns the tensors of the last checkpoint as bytes, by name."""
    with np.load(max((folder / run_folder.CHECKPOINTS).iterdir()) / "state.npz") as file:
        return {name: file[name].tobytes() for name in file.files}


def assert_same_end(ours, theirs):
    ours_state, theirs_state = state_of(ours), state_of(theirs)
    assert len(ours_state) > 10 and ours_state == theirs_state


def use_global_state():
    """Changes the global random states and the counters of layer names, which must not affect a run."""
    keras.utils.set_random_seed(123)
    keras.Sequential([keras.layers.Input([3]), keras.layers.Dense(5), keras.layers.Dropout(0.5)])
    tf.random.uniform([7])


@pytest.fixture
def training(tmp_path):
    """Returns `training(results, **run)`, which trains seeds 1, 2, ... with a function that only writes a run's files.

    Each run has one of the results as its evaluation. `training` returns the folders, and the settings and seconds of
    each call.
    """

    def training(results, config=None, rows=METRICS, **run):
        calls = []

        def train(config, seconds):
            calls.append((config, seconds))
            with new_folder.new_run_folder(config.run, "task", config, print) as folder:
                (folder / run_folder.METRICS).write_text(rows)
            result = results[len(calls) - 1]
            if isinstance(result, BaseException):
                raise result
            if result != "stopped":
                (folder / run_folder.CURVE).write_text("a curve")
                if result is not None:
                    (folder / run_folder.EVALUATION).write_text(json.dumps(result))
            return folder

        config = dataclasses.replace(config or make_control_config(), run=RunConfig(runs_dir=tmp_path, **run))
        folders = train_seeds(train, config, range(1, len(results) + 1), "task")
        return folders, calls

    return training


def test_seeds_are_read():
    assert parse_seeds("3") == (3,)
    assert parse_seeds("3, 1,0,2147483647") == (3, 1, 0, 2147483647)


@pytest.mark.parametrize("given", ["", ",", "1,", "-1", "1,-2", "1.0", "a", "1 2", "1_0", "2147483648", "9" * 5000])
def test_what_are_no_seeds_is_refused(given):
    assert "it must be integers from 0" in refusal(parse_seeds, given[:100])
    with pytest.raises(tfppo.UsageError):
        parse_seeds(given)


def test_a_seed_that_is_named_twice_is_refused():
    assert "1, 2 more than once" in refusal(parse_seeds, "1,2,3,2,01")


def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end():
    assert interquartile_mean([7.0]) == 7.0
    assert interquartile_mean([9.0, 1.0, 2.0]) == 4.0  # with three scores, none is left out
    assert interquartile_mean([100.0, 1.0, -50.0, 2.0]) == 1.5
    assert interquartile_mean(range(11, 0, -1)) == 6.0 and interquartile_mean([0, 0, 1, 2, 3, 90, 90]) == 96 / 5


def test_the_interquartile_mean_is_that_of_its_paper():
    stats = pytest.importorskip("scipy.stats")
    for count in range(1, 30):
        scores = np.random.default_rng(count).normal(size=count)
        assert interquartile_mean(scores) == pytest.approx(stats.trim_mean(scores, 0.25), rel=1e-12)


def test_each_seed_has_the_folder_that_it_would_have_alone(training, tmp_path):
    folders, calls = training([NUMBERS, NUMBERS])
    assert [folder.name for folder in folders] == ["task-seed1", "task-seed2"]
    assert [config.run for config, _ in calls] == [RunConfig(seed=seed, runs_dir=tmp_path) for seed in (1, 2)]
    assert calls[0][1] > 0 and calls[1][1] == 0.0  # TensorFlow was imported once
    folders, calls = training([NUMBERS, NUMBERS], name="mine")
    assert [folder.name for folder in folders] == ["mine-seed1", "mine-seed2"]
    folders, calls = training([NUMBERS])
    assert folders == [tmp_path / "task-seed1-2"]


def test_the_terminal_says_which_seed_is_under_way_and_what_all_reached(training, tmp_path, capsys):
    means = [100.0, 60.0, 20.0, 80.0]
    training([NUMBERS | {"mean": mean} for mean in means])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("seed ")] == [f"seed {n}, {n} of 4" for n in (1, 2, 3, 4)]
    rows = [line.strip("│┃ ").replace("┃", "│").split("│") for line in lines if line[:1] in "│┃"]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert cells[0] == ["seed", "greedy mean", "stochastic mean", "env steps", "seconds"]
    assert cells[1:] == [[str(n + 1), f"{mean:.2f}", "7.00", "1,234", "3.2"] for n, mean in enumerate(means)]
    assert "greedy mean over 4 seeds: 65.00 +- 34.16, interquartile mean 70.00" in lines
    assert "stochastic mean over 4 seeds: 7.00 +- 0.00, interquartile mean 7.00" in lines
    assert any("sample standard deviation" in line and "n - 1" in line for line in lines)
    assert any("middle half" in line and "1 lowest" in line for line in lines)
    assert str(tmp_path / "plot-task.png") in lines[-1]


def test_text_has_a_table_of_its_own(training, monkeypatch, capsys):
    monkeypatch.setattr(comparison, "plot_runs", lambda *_: None)
    evaluation = {"score": {"policy": {"mean": 1.5}}, "gain": 2.0, "kl": 9.5, "seconds": {"total": 3.0}}
    training([evaluation], make_text_config())
    out = capsys.readouterr().out
    assert all(words in out for words in ("gain over 1 seeds: 2.00, inter", "KL over", "9.50", "score over", "1.50"))
    assert "env steps" not in out and "greedy" not in out
    training([evaluation | {"kl": None}], make_text_config())  # null in evaluation.json: it was not finite
    assert "KL over 1 seeds: nan" in capsys.readouterr().out


def test_the_picture_shows_all_runs_and_takes_no_others_place(training, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(comparison, "plot_runs", lambda folders, picture: drawn.append((folders, picture)))
    (tmp_path / "plot-task.png").write_text("precious")
    folders, _ = training([NUMBERS, NUMBERS])
    named, _ = training([NUMBERS], name="mine")
    assert drawn == [(folders, tmp_path / "plot-task-2.png"), (named, tmp_path / "plot-mine.png")]


def test_without_evaluations_there_is_a_picture_and_no_table(training, tmp_path, capsys):
    training([None, None])
    out = capsys.readouterr().out
    assert "the seeds were not evaluated" in out and "greedy mean" not in out
    assert (tmp_path / "plot-task.png").exists()


def test_a_picture_that_there_cannot_be_is_no_failure(training, tmp_path, capsys):
    folders, _ = training([NUMBERS, NUMBERS], rows=METRICS.split("\n")[0] + "\n0,1,nan\n")
    assert len(folders) == 2 and not list(tmp_path.glob("*.png"))
    assert f"no picture of the seeds: {folders[0]} has no value of rollout" in capsys.readouterr().out


def test_a_stop_is_a_stop_of_all(training, tmp_path, capsys):
    folders, calls = training([NUMBERS, "stopped", NUMBERS, NUMBERS])
    assert [folder.name for folder in folders] == ["task-seed1"] and len(calls) == 2
    out = capsys.readouterr().out
    assert "stopped in seed 2; train the remaining seeds with --seeds 3,4\n" in out
    assert "greedy mean over 1 seeds" in out and not (tmp_path / "plot-task.png").exists()


def test_an_interrupt_outside_of_training_is_a_stop_of_all(training, tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        training([KeyboardInterrupt(), NUMBERS])
    assert capsys.readouterr().out.endswith("stopped in seed 1; train the remaining seeds with --seeds 2\n")
    assert [path.name for path in tmp_path.iterdir()] == ["task-seed1"]
    with pytest.raises(KeyboardInterrupt):
        training([NUMBERS, KeyboardInterrupt()])
    assert capsys.readouterr().out.endswith("stopped in seed 2, the last one\n")


def test_a_name_that_is_taken_is_refused_before_anything_is_trained(training, tmp_path):
    (tmp_path / "mine-seed2").mkdir()
    assert "mine-seed2" in refusal(lambda: training([NUMBERS, NUMBERS], name="mine"))
    assert [path.name for path in tmp_path.iterdir()] == ["mine-seed2"]


@pytest.mark.fault(
    "Ctrl-C during a run of several seeds", "The current seed is saved. A line names the seeds that did not run."
)
@pytest.mark.parametrize("last", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_ctrl_c_saves_the_seed_that_is_under_way_and_begins_no_other(last, tmp_path, monkeypatch, capsys):
    class Console(driver.ConsoleWriter):
        def write(self, number, metrics):
            super().write(number, metrics)
            if number == last:  # the first (False) or the second (True) of two iterations
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(driver, "ConsoleWriter", Console)
    assert train_cartpole("--seeds", "5,3,4", runs_dir=tmp_path) == 0
    folder = tmp_path / "cartpole-seed5"
    assert list(tmp_path.iterdir()) == [folder]
    assert (folder / run_folder.CHECKPOINTS / f"{1 + last:06d}").exists()
    assert not run_folder.is_finished(folder) and run_folder.read_evaluation(folder) is None
    out = capsys.readouterr().out
    assert f"tfppo resume {folder}\n" in out
    assert out.endswith("stopped in seed 5; train the remaining seeds with --seeds 3,4\n")
    monkeypatch.undo()
    assert cli.main(["resume", str(folder)]) == 0
    assert run_folder.is_finished(folder) and run_folder.read_evaluation(folder) is not None


@pytest.mark.slow
def test_a_second_seed_is_bit_for_bit_what_it_is_alone_in_a_fresh_process(tmp_path):
    arguments = ["train", "cartpole", *TINY, *COMPILED, "--seed", "2", "--runs-dir", "alone"]
    command = [sys.executable, "-m", "tfppo", *arguments]
    environment = os.environ | {"PYTHONPATH": str(Path(tfppo.__file__).parents[1])}
    alone = subprocess.Popen(
        [*command, "--runs-dir", "alone"], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL
    )
    use_global_state()
    assert train_cartpole(*COMPILED, "--seeds", "1,2", runs_dir=tmp_path) == 0
    assert alone.wait(timeout=120) == 0
    folders = [place / "cartpole-seed2" for place in (tmp_path, tmp_path / "alone")]
    assert_same_end(*folders)
    evaluations = [run_folder.read_evaluation(folder) | {"seconds": None} for folder in folders]
    assert evaluations[0] == evaluations[1]
    assert state_of(tmp_path / "cartpole-seed1") != state_of(tmp_path / "cartpole-seed2")


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--lstm-units", "4"], ["--env", "Pendulum-v1", "--box-policy", "gsde"]], ids=str)
def test_other_policies_do_not_hang_on_what_came_before_either(options, tmp_path):
    arguments = ["train", "control", *TINY, *options, "--eval-episodes", "0"]
    assert cli.main([*arguments, "--seed", "2", "--runs-dir", str(tmp_path / "alone")]) == 0
    use_global_state()
    assert cli.main([*arguments, "--seeds", "1,2", "--runs-dir", str(tmp_path / "both")]) == 0
    (alone,) = (tmp_path / "alone").iterdir()
    assert_same_end(tmp_path / "both" / alone.name, alone)


@pytest.mark.slow
def test_a_second_seed_of_text_is_bit_for_bit_what_it_is_alone(preset, tmp_path):
    small = {"iterations": 1, "batch_size": 4, "minibatch_size": 4, "response_length": 4, "eval_prompts": 0}
    config = make_text_config(
        **small, preset=preset, task="length", num_epochs=1, lora_rank=2, runs_dir=tmp_path / "both"
    )
    alone = text.train_text(
        dataclasses.replace(config, run=dataclasses.replace(config.run, seed=2, runs_dir=tmp_path / "alone"))
    )
    use_global_state()
    folders = train_seeds(text.train_text, config, [1, 2], "length")
    assert [folder.name for folder in folders] == ["length-seed1", alone.name]
    assert_same_end(folders[1], alone)
    assert (tmp_path / "both" / "plot-length.png").exists()


def test_every_kind_of_training_takes_seeds(monkeypatch, tmp_path, capsys):
    trained = []

    def train(config, *arguments):
        trained.append((type(config).__name__, config.run.seed))
        return tmp_path  # the folder is not a finished run

    monkeypatch.setattr(control, "train_control", train)
    monkeypatch.setattr(text, "train_text", train)
    for kind in ("cartpole", "control", "text"):
        assert cli.main(["train", kind, "--seeds", "7,8"]) == 0
    assert trained == [("ControlRunConfig", 7), ("ControlRunConfig", 7), ("TextRunConfig", 7)]
