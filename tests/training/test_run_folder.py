"""Tests run folders: names that never collide, files that are complete, and one-line errors."""

import dataclasses
import json
import os
import shlex
from pathlib import Path

import pytest
from support.refusal import refusal

from tfppo.control.config import ControlConfig, ControlRunConfig
from tfppo.ppo.config import PPOConfig
from tfppo.training import run_folder
from tfppo.training.config import RunConfig


def test_default_names_are_the_task_and_the_seed_and_count_up(tmp_path):
    run = RunConfig(seed=7, runs_dir=tmp_path / "deep" / "runs")
    folders = [run_folder.create_run_folder(run, "cartpole") for _ in range(3)]
    assert [folder.name for folder in folders] == ["cartpole-seed7", "cartpole-seed7-2", "cartpole-seed7-3"]
    assert all(folder.parent == tmp_path / "deep" / "runs" and folder.is_dir() for folder in folders)
    other = run_folder.create_run_folder(dataclasses.replace(run, seed=8), "cartpole")
    assert other.name == "cartpole-seed8"


@pytest.mark.fault("The disk is full while a run's folder is created", "A one-line error. No folder is left.")
def test_a_folder_appears_with_all_its_files_or_not_at_all(tmp_path):
    def fill(folder):
        assert not (tmp_path / "mine").exists()
        (folder / "model").mkdir()
        if failing:
            raise OSError(28, "No space left on device")

    run = RunConfig(name="mine", runs_dir=tmp_path)
    failing = True
    assert "No space left" in refusal(run_folder.create_run_folder, run, "t", None, fill)
    assert list(tmp_path.iterdir()) == []
    failing = False
    assert (run_folder.create_run_folder(run, "t", None, fill) / "model").is_dir()


def test_a_gap_in_the_default_names_is_filled(tmp_path):
    (tmp_path / "t-seed1").mkdir()
    (tmp_path / "t-seed1-3").mkdir()
    assert run_folder.create_run_folder(RunConfig(runs_dir=tmp_path), "t").name == "t-seed1-2"
    assert run_folder.create_run_folder(RunConfig(runs_dir=tmp_path), "t").name == "t-seed1-4"


def test_a_given_name_is_taken_as_it_is(tmp_path):
    folder = run_folder.create_run_folder(RunConfig(name="mine", runs_dir=tmp_path), "cartpole")
    assert folder == tmp_path / "mine" and folder.is_dir()


@pytest.mark.fault(
    "`--name` is the name of an existing folder", "A one-line error names the folder. Its files stay unchanged."
)
def test_a_given_name_that_exists_is_refused_and_left_alone(tmp_path):
    run = RunConfig(name="mine", runs_dir=tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "metrics.csv").write_text("precious")
    text = refusal(run_folder.create_run_folder, run, "cartpole")
    assert str(tmp_path / "mine") in text and "--name" in text and "resume" not in text  # there is nothing to resume
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["metrics.csv"]
    assert (tmp_path / "mine" / "metrics.csv").read_text() == "precious"
    (tmp_path / "mine" / run_folder.CHECKPOINTS).mkdir()
    assert f"tfppo resume {tmp_path / 'mine'}" in refusal(run_folder.create_run_folder, run, "cartpole")


@pytest.mark.parametrize("name", [None, "mine"])
@pytest.mark.parametrize(
    "place", ["file", "file/below", "dangling", "x" * 300], ids=["file", "below-a-file", "dangling-link", "too-long"]
)
def test_a_runs_dir_that_cannot_be_one_is_refused(tmp_path, place, name):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    text = refusal(run_folder.create_run_folder, RunConfig(name=name, runs_dir=tmp_path / place), "cartpole")
    assert str(tmp_path / place) in text and "--runs-dir" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "file"]
    assert (tmp_path / "file").read_text() == "in the way"


def test_settings_come_back_equal_from_a_run(tmp_path):
    config = ControlRunConfig(
        RunConfig(seed=3, name="mine", runs_dir=tmp_path),
        ControlConfig(hidden_units=(8, 4), target_return=475.0),
        PPOConfig(gamma=0.9, max_grad_norm=None),
    )
    run_folder.write_config(tmp_path, config)
    assert run_folder.read_config(tmp_path, ControlRunConfig) == config
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_what_is_no_run_is_refused_with_its_name(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "odd" / "config.yaml").mkdir(parents=True)
    for name in ("nowhere", "empty", "file", "odd"):
        text = refusal(run_folder.read_config, tmp_path / name, ControlRunConfig)
        assert str(tmp_path / name) in text and "not the folder of a run" in text


@pytest.mark.fault("`config.yaml` is damaged", "A one-line error names the file.")
@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"ppo: {gamma: 2}", "gamma"),
        (b"ppo: {gama: 0.9}", "gama"),
        (b"ppo: {gamma: ", "YAML"),
        (b"", "mapping"),
        (b"\xff\xfe\x00", "config.yaml"),
        (b"ppo: {minibatch_size: 100}", "minibatch_size"),
    ],
)
def test_a_damaged_config_is_refused_with_its_path(tmp_path, content, named):
    (tmp_path / "config.yaml").write_bytes(content)
    text = refusal(run_folder.read_config, tmp_path, ControlRunConfig)
    assert str(tmp_path / "config.yaml") in text and named in text


def test_an_evaluation_is_kept_as_json(tmp_path):
    evaluation = {"env": "CartPole-v1", "mean": 487.25, "seconds": {"train": 1.5}}
    run_folder.write_evaluation(tmp_path, evaluation)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == evaluation
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


@pytest.mark.fault("The process dies while it writes `evaluation.json`", "The previous file stays complete.")
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    run_folder.write_evaluation(tmp_path, {"mean": 1.0})
    seen = []

    def broken(source, target):
        seen.append((Path(source).read_text(), Path(target).read_text()))
        raise OSError("the power is gone")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="power"):
        patch.setattr(os, "replace", broken)
        run_folder.write_evaluation(tmp_path, {"mean": 2.0})
    assert [tuple(json.loads(text)["mean"] for text in pair) for pair in seen] == [(2.0, 1.0)]
    assert json.loads((tmp_path / "evaluation.json").read_text()) == {"mean": 1.0}
    run_folder.write_evaluation(tmp_path, {"mean": 3.0})
    assert json.loads((tmp_path / "evaluation.json").read_text()) == {"mean": 3.0}
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


@pytest.mark.parametrize(
    ("named", "argument"),
    [(None, "runs/mine"), ("CartPole-v1", "runs/mine"), ("my worlds:W-v0", "runs/mine --env 'my worlds:W-v0'")],
)
def test_a_command_on_a_run_names_the_module_that_it_would_import(named, argument):
    assert run_folder.confirmed(Path("runs/mine"), "env", named) == argument


@pytest.mark.parametrize("name", ["my run", "it's", "a;b", "$HOME", "plain"])
def test_a_shell_reads_the_folder_in_a_command_as_one_word(name, tmp_path):
    folder = tmp_path / name
    assert shlex.split(run_folder.confirmed(folder, "env", "my worlds:W-v0")) == [
        str(folder),
        "--env",
        "my worlds:W-v0",
    ]
    assert shlex.split(run_folder.confirmed(folder, "env", None)) == [str(folder)]
    assert shlex.split(run_folder.resume_command(folder)) == ["tfppo", "resume", str(folder)]
    (folder / run_folder.CHECKPOINTS).mkdir(parents=True)
    taken = refusal(run_folder.refuse_taken_name, RunConfig(name=name, runs_dir=tmp_path))
    assert shlex.split(taken.partition("resume it with: ")[2]) == ["tfppo", "resume", str(folder)]


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ("control:\n  env: CartPole-v1\n", ""),
        ("control:\n  env: my worlds:W-v0\n", " --env 'my worlds:W-v0'"),
        ("text:\n  reward: null\n", ""),
        ("text:\n  reward: mine:exclaim\n", " --reward mine:exclaim"),
        ("control: [\n", ""),
        ("control: {}\n", ""),
        (None, ""),
    ],
)
def test_the_command_that_goes_on_with_a_run_names_it_too(settings, options, tmp_path):
    if settings is not None:
        (tmp_path / run_folder.CONFIG).write_text(settings)
    assert run_folder.resume_command(tmp_path) == f"tfppo resume {tmp_path}{options}"
