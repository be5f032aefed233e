"""Tests that only errors of files are reported as a failure to write to the folder of a run."""

import errno
import os
import re
import shutil

import pytest
import tensorflow as tf
from support.refusal import refusal

from tfppo.reporting.tensorboard import TensorBoardWriter
from tfppo.training.file_errors import is_file_error
from tfppo.training.loop import writing


def write_to(path):
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(b"an event")


def enter(folder, action):
    with writing(folder):
        action()


@pytest.mark.fault(
    "TensorFlow cannot write a file: the disk is full or fails, a folder is missing or read-only",
    "A one-line error gives the reason and the command to resume.",
)
@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/dev/full", "No space left on device"),
        ("FOLDER/nowhere/events", "No such file or directory"),
        ("FOLDER/file/events", "Not a directory"),
        ("FOLDER", "Is a directory"),
        ("/sys/events", "Permission denied|Read-only file system"),  # for the superuser, too
    ],
)
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no Linux")
def test_what_tensorflow_raises_for_files_is_one_line(path, reason, tmp_path):
    (tmp_path / "file").touch()
    text = refusal(enter, tmp_path, lambda: write_to(path.replace("FOLDER", str(tmp_path))))
    assert text.startswith(f"cannot write to {tmp_path} (") and re.search(reason, text)
    assert text.endswith(f"tfppo resume {tmp_path}")


def test_an_error_of_the_disk_is_one_line(tmp_path):
    def fail():
        raise tf.errors.UnknownError(None, None, "events; Input/output error")  # what /proc/self/mem gives

    assert "Input/output error" in refusal(enter, tmp_path, fail)


def test_an_event_file_in_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    assert "cannot write" in refusal(enter, tmp_path, lambda: TensorBoardWriter(tmp_path / "file" / "run"))


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.InvalidArgumentError(None, None, "indices[0] = 99 is not in [0, 20)"),
        tf.errors.InternalError(None, None, "a program failed"),
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[9]"),
        ZeroDivisionError("a defect"),
    ],
)
def test_another_error_is_not_told_as_one_of_a_file(error, tmp_path):
    def fail():
        raise error

    with pytest.raises(type(error)) as caught:
        enter(tmp_path, fail)
    assert caught.value is error and not is_file_error(error)


def test_the_advice_depends_on_whether_the_folder_is_there(tmp_path):
    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = tmp_path / "run"
    folder.mkdir()
    assert "free disk space" in refusal(enter, folder, full)
    shutil.rmtree(folder)
    text = refusal(enter, folder, full)
    assert "move the folder back, then resume" in text and "free disk space" not in text
