"""Tests that the command line imports TensorFlow without start-up messages, and still prints errors."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tfppo
from tfppo.cli import startup
from tfppo.execution import xla_cache

NOISE = [
    "I0000 00:00:1700000000.000000    1234 port.cc:153] oneDNN custom operations are on.",
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    "To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow.",
]
NO_GPU = "E0000 00:00:1700000000.000000    1234 cuda_platform.cc:52] failed call to cuInit: UNKNOWN ERROR (303)"
REAL = [
    "E0000 00:00:1700000000.000000    1234 cuda_dnn.cc:10] Could not load library libcudnn.so",
    "Traceback (most recent call last):",
    "a line in which I0000 is no beginning",
    "W0000 a warning",
]
REPORT = """
import sys
sys.path.insert(0, {package!r})
import gc
from tfppo.cli.startup import import_tensorflow, seconds_since_start
assert "tensorflow" not in sys.modules
before = seconds_since_start()
import_tensorflow()
assert 0 <= before < seconds_since_start()
assert gc.isenabled()
assert "tensorflow" in sys.modules and "keras" in sys.modules and "matplotlib" not in sys.modules
import matplotlib.figure
matplotlib.figure.Figure()
import tensorflow as tf
print("and", int(tf.constant(1) + 1))
"""


def test_the_import_is_silent_and_leaves_matplotlib_to_be_imported():
    package = str(Path(tfppo.__file__).parents[1])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    done = subprocess.run(
        [sys.executable, "-c", REPORT.format(package=package)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "and 2\n", "")


class Terminal(io.StringIO):
    """A standard output that is a terminal."""

    def isatty(self):
        return True


def test_a_terminal_shows_that_tensorflow_is_loading_and_then_no_longer():
    with contextlib.redirect_stdout(Terminal()) as terminal:
        startup.import_tensorflow()
    passing, clear = terminal.getvalue().split("TensorFlow ...")
    assert "\n" not in passing + clear
    assert clear == "\r\033[K"


@pytest.fixture
def driver(monkeypatch, tmp_path):
    """Sets whether an NVIDIA driver is installed."""

    def exists(answer):
        monkeypatch.setattr(xla_cache, "NVIDIA_DRIVER", (str(tmp_path if answer else tmp_path / "none"),))

    return exists


@pytest.fixture
def stderr(capfd):
    """Returns a function that reads the output to file descriptor 2."""
    return lambda: capfd.readouterr().err


@contextlib.contextmanager
def python_writes_there():
    """Makes sys.stderr write to file descriptor 2 through a buffer. pytest's sys.stderr does not."""
    with open(2, "w", closefd=False) as stream, contextlib.redirect_stderr(stream):
        yield


def write_held_back(lines):
    with python_writes_there(), startup._without_noise():
        os.write(2, "".join(f"{line}\n" for line in lines).encode())
        print("from Python", file=sys.stderr)


def test_noise_is_dropped_and_the_rest_appears_in_order(stderr, driver):
    driver(False)
    write_held_back([REAL[0], NOISE[0], REAL[1], NOISE[1], NOISE[2], NO_GPU, *REAL[2:]])
    assert stderr().splitlines() == [*REAL, "from Python"]


def test_a_failing_gpu_is_no_noise_where_there_is_a_driver(stderr, driver):
    driver(True)
    write_held_back([*NOISE, NO_GPU])
    assert stderr().splitlines() == [NO_GPU, "from Python"]


def test_what_was_held_back_appears_when_the_import_fails(stderr, driver):
    driver(False)
    with pytest.raises(ImportError, match="broken"), startup._without_noise():
        os.write(2, f"{NOISE[0]}\n{REAL[0]}\n".encode())
        raise ImportError("broken")
    assert stderr().splitlines() == [REAL[0]]


def test_afterwards_lines_go_straight_to_the_terminal(stderr, driver):
    driver(False)
    write_held_back([])
    assert stderr() == "from Python\n"
    os.write(2, NOISE[0].encode())
    with python_writes_there():
        print("from Python", file=sys.stderr)
    assert stderr() == NOISE[0] + "from Python\n"


def test_bytes_that_are_no_text_do_not_stop_it(stderr, driver):
    driver(False)
    with startup._without_noise():
        os.write(2, b"E \xff\n")
    assert stderr().startswith("E ")


FAILING = """
import gymnasium
import numpy as np


class Failing(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, [3], np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.steps += 1
        if self.steps > 50:
            raise ValueError("a bug of mine")
        return np.zeros(3, np.float32), 1.0, False, False, {}
"""


@pytest.mark.slow  # another process, because pytest's has another level of TensorFlow's log
def test_a_failing_environment_is_one_message_without_lines_of_tensorflow(tmp_path):
    (tmp_path / "failing.py").write_text(FAILING)
    sizes = ["--num-envs", "2", "--rollout-length", "64", "--minibatch-size", "64", "--total-steps", "128"]
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-m", "tfppo", "train", "control", "--env", "failing:Failing", *sizes],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        check=False,
    )
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and len(lines) <= 4, done.stderr
    assert lines[0].startswith("tfppo: step of failing:Failing raised ValueError: a bug of mine (copy 0, step 51)")
    assert "failing.py" in lines[1]
