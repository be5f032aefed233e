"""Tests the start and the end of runs: the timer, the folder and the lock."""

import dataclasses
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import tensorflow as tf

from tfppo.control.recipes import make_control_config
from tfppo.execution.replicas import Replicas
from tfppo.training import driver, run_folder
from tfppo.training.config import RunConfig
from tfppo.training.loop import writing


@pytest.fixture
def make_trainer(tmp_path):
    """Makes a trainer with one variable, in a single process or as one of two processes."""

    def make_trainer(value=0, replicas=None):
        return SimpleNamespace(
            config=dataclasses.replace(make_control_config(), run=RunConfig(runs_dir=tmp_path)),
            replicas=replicas or Replicas(),
            state={"iteration": tf.Variable(value)},
            fixed=[],
            compile_seconds=0.5,
            restored=[],
            write_parts=lambda folder: (folder / "part").write_text("kept"),
        )

    return make_trainer


def told_by_lock(folder):
    """Returns the error of another process that locks the folder, or an empty text if it succeeds."""
    enter = (
        "import sys, pathlib, tfppo.training.lock; tfppo.training.lock.locked(pathlib.Path(sys.argv[1])).__enter__()"
    )
    return subprocess.run([sys.executable, "-c", enter, str(folder)], stderr=subprocess.PIPE, text=True).stderr


def test_the_seconds_of_a_run_are_told_apart_and_add_up(monkeypatch, make_trainer, tmp_path):
    moments = iter([100.0, 107.0, 110.0])  # the timer is created, training ends, evaluation ends
    monkeypatch.setattr(driver.time, "perf_counter", lambda: next(moments))
    timer = driver.PhaseTimer(3.0)
    timer.end_training()
    kept = driver._keep_evaluation(make_trainer(), tmp_path, timer, {"mean": 2.0})
    assert kept["seconds"] == {"import": 3.0, "compile": 0.5, "train": 6.5, "evaluate": 3.0, "total": 13.0}
    assert run_folder.read_evaluation(tmp_path) == kept and list(kept) == ["mean", "seconds"]


def test_a_new_run_has_its_folder_for_itself(make_trainer, tmp_path):
    with driver.start_run(make_trainer(), "task") as folder:
        assert folder == tmp_path / "task-seed1" and (folder / "part").read_text() == "kept"
        assert f"in use by process {os.getpid()}" in told_by_lock(folder)
    assert told_by_lock(folder) == ""


def test_a_run_goes_on_from_its_latest_checkpoint_or_its_beginning(make_trainer, tmp_path, capsys):
    trainer, other = make_trainer(5), make_trainer()
    other.restore_extra = other.restored.append
    with driver.resume_run(other, tmp_path) as folder:
        assert folder == tmp_path and other.restored == []
    assert "the run starts from the beginning" in capsys.readouterr().out
    driver.checkpoints_of(trainer, tmp_path).save(5)
    with driver.resume_run(other, tmp_path) as folder:
        assert folder == tmp_path and other.restored == [tmp_path / run_folder.CHECKPOINTS / "000005"]
        assert "in use" in told_by_lock(tmp_path)
    assert int(other.state["iteration"].numpy()) == 5
    assert capsys.readouterr().out == "resumed from checkpoint 000005\n"


def test_a_process_that_trains_along_touches_no_folder(make_trainer, tmp_path):
    trainer = make_trainer(replicas=Replicas(2, process=1, processes=2))
    with driver.start_run(trainer, "task") as folder:
        assert folder is None
    with driver.resume_run(trainer, tmp_path / "nowhere") as folder:
        assert folder is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("modes", "told"),
    [
        ({"rollout": "xla", "update": "graph"}, "compiled as xla (rollout) and graph (update)"),
        ({"fused": "graph"}, "compiled as graph (fused)"),
    ],
)
def test_training_says_how_each_program_is_compiled(modes, told, make_trainer, tmp_path, capsys):
    trainer = make_trainer()
    trainer.device, trainer.device_reason, trainer.modes = "/CPU:0", "because", modes
    trainer.subject = "a subject"
    with driver.training(trainer, tmp_path, tmp_path):
        pass
    assert capsys.readouterr().out.splitlines()[-1] == f"device CPU: because; {told}"


def test_what_was_learnt_can_be_used_on_another_machine():
    config = make_control_config(device="gpu", distribute="mirrored", seed=7)
    used = driver.for_inference(config).run
    assert (used.device, used.distribute, used.seed) == ("auto", "none", 7)
    assert config.run.device == "gpu"


def test_wrong_numbers_in_a_program_are_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(tf.errors.InvalidArgumentError), writing(tmp_path):
        tf.gather(tf.zeros([2]), 5)
