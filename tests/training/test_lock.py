"""Tests that only one process at a time can lock a run's folder, and that a killed process releases its lock."""

import os
import signal
import subprocess
import sys

import pytest
from support.refusal import refusal

from tfppo.training import lock
from tfppo.training.lock import locked

HOLD = """
import os, sys, time
from pathlib import Path
from tfppo.training import lock
from tfppo.training.lock import locked
with locked(Path(sys.argv[1])):
    if os.fork() == 0:  # an environment's process, which outlives its parent
        time.sleep(30)
        os._exit(0)
    print(os.getpid(), flush=True)
    time.sleep(30)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    yield process, int(process.stdout.readline())
    subprocess.run(["pkill", "-9", "-f", str(tmp_path)], check=False)
    process.wait()


def enter(folder):
    with locked(folder):
        return True


@pytest.mark.fault(
    "A second process wants to write to the folder of a run",
    "A one-line error names the first process. The folder is free when that process ends.",
)
def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path, holder):
    process, pid = holder
    text = refusal(enter, tmp_path)
    assert str(tmp_path) in text and f"process {pid}" in text
    os.kill(pid, signal.SIGKILL)
    process.wait()
    assert enter(tmp_path)


def test_a_lock_ends_with_its_block_even_when_that_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    assert subprocess.run([sys.executable, "-c", HOLD.replace("30", "0"), str(tmp_path)], check=False).returncode == 0


def test_a_second_lock_of_the_same_process_is_refused_and_leaves_the_first(tmp_path):
    with locked(tmp_path):
        for _ in range(2):
            assert f"{tmp_path} is in use by another run of this process" in refusal(enter, tmp_path)
        command = [sys.executable, "-c", HOLD.replace("30", "0"), str(tmp_path)]
        other = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
        assert f"in use by process {os.getpid()}" in other.stderr
    assert enter(tmp_path)


def test_a_lock_stays_with_a_folder_that_is_renamed(tmp_path):
    (tmp_path / "before").mkdir()
    with locked(tmp_path / "before"):
        (tmp_path / "before").rename(tmp_path / "after")
        assert "in use" in refusal(enter, tmp_path / "after")
    assert enter(tmp_path / "after")


def test_the_lock_of_a_folder_that_was_replaced_meanwhile_is_not_taken(tmp_path, monkeypatch):
    folder, real = tmp_path / "run", lock.InterProcessLock.acquire
    folder.mkdir()

    def acquire(self, blocking):
        self._do_open()
        folder.rename(tmp_path / "old")
        folder.mkdir()
        (folder / lock.LOCK).touch()
        return real(self, blocking=blocking)

    with monkeypatch.context() as patch:
        patch.setattr(lock.InterProcessLock, "acquire", acquire)
        assert f"has replaced {folder}" in refusal(enter, folder)
    assert enter(folder)


def test_a_folder_that_is_gone_is_told_of(tmp_path):
    assert "No such file" in refusal(enter, tmp_path / "gone")
