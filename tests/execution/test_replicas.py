"""Runs on several devices or processes reach the weights of a run on one, and end with one line if a worker dies."""

import csv
import functools
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from support import replica_runs
from support.refusal import refusal

import tfppo
from tfppo import cli
from tfppo.control import trainer
from tfppo.execution.distribute import make_replicas
from tfppo.execution.replicas import ALONE, Replicas
from tfppo.training import run_folder

CARTPOLE = [
    *("--num-envs", "4", "--rollout-length", "16", "--total-steps", "384", "--hidden-units", "8", "--seed", "3"),
    *("--minibatch-size", "32", "--num-epochs", "2", "--eval-episodes", "2", "--video-episodes", "0"),
    *("--device", "cpu", "--compile-rollout", "graph", "--compile-update", "graph", "--checkpoint-interval", "2"),
]
MORTAL = Path(replica_runs.__file__).with_name("dying_worker.py")


def free_ports(count):
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start_workers(command, count=2):
    """Starts a command in `count` processes, with a TF_CONFIG that names all of them."""
    workers = [f"localhost:{port}" for port in free_ports(count)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    environment["PYTHONPATH"] = str(Path(tfppo.__file__).parents[1])
    processes = []
    for index in range(count):
        config = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        own = [str(part).format(index=index) for part in command]
        processes.append(
            subprocess.Popen(
                [sys.executable, *own],
                env=environment | {"TF_CONFIG": json.dumps(config)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return processes


def end(processes):
    """Waits for the processes. Returns what each of them printed."""
    try:
        return [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="session")
def alone(preset):
    """`alone(kind)` returns the weights and metrics of a run in one process."""
    return functools.cache(lambda kind: replica_runs.train(kind, preset))


def assert_equal_runs(result, expected):
    weights, rows = result
    expected_weights, expected_rows = expected
    assert max(np.abs(a).max() for a in weights) > 0.01 and np.isfinite(rows).all() == np.isfinite(expected_rows).all()
    for a, b in zip(weights, expected_weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rows, expected_rows, rtol=2e-3, atol=2e-4)


def assert_mirrored_equal_one(kinds, alone, preset, folder):
    command = [sys.executable, replica_runs.__file__, str(folder), str(preset), "mirrored", *kinds]
    environment = os.environ | {"PYTHONPATH": str(Path(tfppo.__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for kind in kinds:
        assert_equal_runs(replica_runs.load(folder / f"{kind}.npz"), alone(kind))


def assert_workers_equal_one(kinds, alone, preset, folder):
    for index in range(2):
        (folder / str(index)).mkdir()
    processes = start_workers([replica_runs.__file__, f"{folder}/{{index}}", preset, *kinds])
    for process, (_, err) in zip(processes, end(processes), strict=True):
        assert process.returncode == 0, err[-3000:]
    for kind in kinds:
        first, second = (replica_runs.load(folder / str(index) / f"{kind}.npz") for index in range(2))
        for a, b in zip([*first[0], first[1]], [*second[0], second[1]], strict=True):
            np.testing.assert_array_equal(a, b)
        assert_equal_runs(first, alone(kind))


@pytest.mark.slow
def test_two_devices_equal_one(alone, preset, tmp_path):
    assert_mirrored_equal_one(["cartpole", "text"], alone, preset, tmp_path)


@pytest.mark.slow
def test_two_processes_equal_one(alone, preset, tmp_path):
    assert_workers_equal_one(["cartpole", "text"], alone, preset, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("assert_equal", [assert_mirrored_equal_one, assert_workers_equal_one])
def test_two_equal_one_in_every_kind_of_run(assert_equal, alone, preset, tmp_path):
    assert_equal(["jitted", "gymnasium", "recurrent", "lora", "rloo", "in_chunks"], alone, preset, tmp_path)


def rows_of(folder):
    with (folder / run_folder.METRICS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    return np.array([[float(v) for k, v in row.items() if not k.startswith("time/")] for row in rows])


@pytest.mark.fault(
    "One of several workers dies", "The others end with a one-line error that names it. All workers can resume the run."
)
@pytest.mark.slow
def test_a_worker_that_dies_ends_the_others_in_one_line_and_resume_goes_on(tmp_path):
    folder = tmp_path / "runs" / "mine"
    command = ["train", "cartpole", *CARTPOLE, "--runs-dir", folder.parent, "--name", "mine"]
    chief, other = start_workers([MORTAL, "SIGKILL", *command])
    (out, err), _ = end([chief, other])
    assert other.returncode == -signal.SIGKILL and chief.returncode == 2, err
    assert len(err.splitlines()) == 1 and err.startswith("tfppo: worker 1 (localhost:"), err
    assert f"of 2 has died or cannot be reached: start all workers again, with tfppo resume {folder}" in err
    assert "worker 0 of 2" in out and "shared by 2 workers" in out and not run_folder.is_finished(folder)
    # The other machine needs only config.yaml, because the state comes from the chief.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / run_folder.CONFIG).write_text((folder / run_folder.CONFIG).read_text())
    (tmp_path / "0").symlink_to(folder)
    (tmp_path / "1").symlink_to(elsewhere)
    processes = start_workers(["-m", "tfppo", "resume", f"{tmp_path}/{{index}}"])
    printed = end(processes)
    assert [process.returncode for process in processes] == [0, 0], printed
    assert printed[1][1] == "" and len(printed[1][0].splitlines()) == 3, printed[1]
    assert run_folder.is_finished(folder) and run_folder.read_evaluation(folder)
    assert [path.name for path in elsewhere.iterdir()] == [run_folder.CONFIG]
    assert cli.main(["train", "cartpole", *CARTPOLE, "--runs-dir", str(tmp_path), "--name", "alone"]) == 0
    np.testing.assert_allclose(rows_of(folder), rows_of(tmp_path / "alone"), rtol=2e-3, atol=2e-4)


@pytest.mark.fault(
    "Workers are started with different settings", "Every worker ends with a one-line error before the training starts."
)
@pytest.mark.slow
def test_workers_with_other_settings_do_not_begin(tmp_path):
    command = ["-m", "tfppo", "train", "cartpole", *CARTPOLE, "--gamma", "0.9{index}", "--runs-dir", tmp_path]
    processes = start_workers(command)
    for process, (_, err) in zip(processes, end(processes), strict=True):
        assert process.returncode == 2 and len(err.splitlines()) == 1, err
        assert "worker 1 of 2 and worker 0 have different settings" in err


@pytest.mark.fault("SIGTERM at one of several workers", "All workers stop with a checkpoint.")
@pytest.mark.slow
def test_where_one_worker_is_asked_to_stop_all_of_them_do(tmp_path):
    folder = tmp_path / "mine"
    command = ["train", "cartpole", *CARTPOLE, "--runs-dir", tmp_path, "--name", folder.name]
    processes = start_workers([MORTAL, "SIGTERM", *command])
    printed = end(processes)
    assert [process.returncode for process in processes] == [0, 0], printed
    assert f"; resume with: tfppo resume {folder}" in printed[0][0]
    assert (folder / run_folder.CHECKPOINTS / "000004").is_dir() and len(rows_of(folder)) == 4


# ----- In one process


def test_alone_nothing_is_cut():
    x = tf.range(6)
    assert ALONE.cut(x, 0) is x and ALONE.count == 1 and ALONE.is_chief and ALONE.modes("xla") == ("xla", "eager")
    assert ALONE.gather(lambda index: (x, index), (0, 0)) == (x, 0)


def test_shares_are_consecutive_and_make_up_the_whole():
    three = Replicas(3)
    x = {"a": tf.reshape(tf.range(24), [2, 6, 2]), "b": None}
    parts = [three.cut(x, index, axis=1) for index in range(3)]
    assert all(part["b"] is None for part in parts)
    np.testing.assert_array_equal(tf.concat([part["a"] for part in parts], axis=1), x["a"])
    assert three.divide(12, "num_envs") == 4 and three.divide(12, "minibatch_size", 2) == 2
    assert refusal(three.divide, 8, "num_envs") == (
        "num_envs = 8 is not a multiple of the number of replicas = 3: change one of them, for example the number of "
        "replicas to 2 or 4"
    )
    assert "minibatch_size = 9 is not a multiple of the number of replicas x 2 = 6" in refusal(
        three.divide, 9, "minibatch_size", 2
    )
    assert three.modes("xla") == ("graph", "xla") and three.modes("graph") == ("graph", "eager")


def test_what_there_is_nothing_to_distribute_over(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "nonsense")
    assert make_replicas("none", "/CPU:0") is ALONE
    assert "TF_CONFIG is invalid" in refusal(make_replicas, "auto", "/CPU:0")
    worker = {"cluster": {"worker": ["localhost:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(worker))
    assert make_replicas("auto", "/CPU:0") is ALONE
    assert "does not name two or more workers" in refusal(make_replicas, "multiworker", "/CPU:0")
    assert "only one CPU" in refusal(make_replicas, "mirrored", "/CPU:0")


def test_workers_that_have_used_tensorflow_before_are_refused(monkeypatch):
    tf.constant(1)
    workers = {"cluster": {"worker": ["localhost:1", "localhost:2"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(workers))
    assert "TensorFlow has already computed something in this process" in refusal(make_replicas, "auto", "/CPU:0")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"fused": True}, "fused is True and there are 2 replicas"),
        ({"num_envs": 1}, "num_envs = 1 is not a multiple of the number of replicas = 2"),
        ({"lstm_units": 4}, "minibatch_size = 1 is not a multiple of the number of replicas = 2"),
    ],
)
def test_runs_that_cannot_be_shared_are_refused(settings, named, monkeypatch):
    monkeypatch.setattr(trainer, "make_replicas", lambda setting, device: Replicas(2))
    assert named in refusal(lambda: replica_runs.control("auto", settings, minibatch_size=16))
