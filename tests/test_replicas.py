"""Several devices, and several processes, train to the weights of one; what dies ends the others in one line."""

import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import together

import tfppo
from tfppo import runs
from tfppo.config import ControlRun
from tfppo.control import run as control_run

ADDRESSES = re.compile(r"localhost:\d+")


def free_ports(count):
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start_workers(command, count=2, **options):
    """The same command in `count` processes that know of each other."""
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
                **options,
            )
        )
    return processes


def end(processes):
    """What each of them printed, once it has ended."""
    try:
        return [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="session")
def alone(preset):
    """`alone(kind)`: weights and metrics of one process."""
    return functools.cache(lambda kind: together.train(kind, preset))


def assert_equal_runs(result, expected):
    weights, rows = result
    expected_weights, expected_rows = expected
    assert max(np.abs(a).max() for a in weights) > 0.01 and np.isfinite(rows).all() == np.isfinite(expected_rows).all()
    for a, b in zip(weights, expected_weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rows, expected_rows, rtol=2e-3, atol=2e-4)


def train_mirrored(kinds, alone, preset, folder):
    command = [sys.executable, together.__file__, str(folder), str(preset), "mirrored", *kinds]
    environment = os.environ | {"PYTHONPATH": str(Path(tfppo.__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for kind in kinds:
        assert_equal_runs(together.load(folder / f"{kind}.npz"), alone(kind))


def train_workers(kinds, alone, preset, folder):
    for index in range(2):
        (folder / str(index)).mkdir()
    processes = start_workers([together.__file__, f"{folder}/{{index}}", preset, *kinds])
    for process, (_, err) in zip(processes, end(processes), strict=True):
        assert process.returncode == 0, err[-3000:]
    for kind in kinds:
        first, second = (together.load(folder / str(index) / f"{kind}.npz") for index in range(2))
        for a, b in zip([*first[0], first[1]], [*second[0], second[1]], strict=True):
            np.testing.assert_array_equal(a, b)
        assert_equal_runs(first, alone(kind))


def test_two_devices_equal_one(alone, preset, tmp_path):
    train_mirrored(["cartpole", "text"], alone, preset, tmp_path)


def test_two_processes_equal_one(alone, preset, tmp_path):
    train_workers(["cartpole", "text"], alone, preset, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("train", [train_mirrored, train_workers])
def test_two_equal_one_in_every_kind_of_run(train, alone, preset, tmp_path):
    train(["jitted", "gymnasium", "recurrent", "lora"], alone, preset, tmp_path)
