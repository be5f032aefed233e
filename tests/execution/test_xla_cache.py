"""XLA's persistent cache: the flags that turn it on, the user's own settings, and damaged entries."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

import tfppo
from tfppo import cli
from tfppo.cli import startup
from tfppo.execution import xla_cache
from tfppo.execution.xla_cache import FIELDS, VARIABLE, keep_compiled_programs

GPU_ONLY = "--tf_xla_persistent_cache_device_types=GPU"
COMPILE = """
from tfppo.cli.startup import import_tensorflow
import_tensorflow()
import tensorflow as tf
print(float(tf.function(lambda x: x * 2.0 + 1.0, jit_compile=True)(tf.constant(3.0))))
"""


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """A machine with an NVIDIA driver, no flags, and a cache folder in tmp_path. Tests may change each of them."""
    gpus = tmp_path / "gpus"
    gpus.write_text("Model: \t NVIDIA H100\nIRQ: 5\n")
    monkeypatch.setattr(xla_cache, "NVIDIA_DRIVER", (str(gpus),))
    monkeypatch.setattr(xla_cache, "MACHINE", (f"{tmp_path}/gp*", "/no/such/file"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("TF_XLA_FLAGS", VARIABLE):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)  # monkeypatch deletes it again after the test
    return gpus


def flags():
    keep_compiled_programs()
    return os.environ.get("TF_XLA_FLAGS")


def only_folder(parent):
    (folder,) = parent.iterdir()
    return folder


@pytest.mark.parametrize("given", ["", "--tf_xla_auto_jit=0", " --tf_xla_auto_jit=0 "])
def test_the_gpus_programs_are_kept_in_the_users_cache(tmp_path, monkeypatch, given):
    monkeypatch.setenv("TF_XLA_FLAGS", given)
    words = flags().split()
    folder = only_folder(tmp_path / "cache" / "tfppo" / "xla")
    assert words == [*given.split(), f"--tf_xla_persistent_cache_directory='{folder}'", GPU_ONLY]
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("relative", ["", "somewhere"])
def test_without_such_a_folder_it_is_below_the_home(tmp_path, monkeypatch, relative):
    monkeypatch.setenv("XDG_CACHE_HOME", relative)
    monkeypatch.setenv("HOME", str(tmp_path / "a home"))
    folder = only_folder_after_keeping(tmp_path / "a home" / ".cache" / "tfppo" / "xla")
    assert f"'{folder}'" in os.environ["TF_XLA_FLAGS"]  # quoted, for the space


def only_folder_after_keeping(parent):
    keep_compiled_programs()
    return only_folder(parent)


def test_without_a_driver_nothing_is_kept_unless_a_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(xla_cache, "NVIDIA_DRIVER", (str(tmp_path / "none"),))
    assert flags() is None
    assert not (tmp_path / "cache").exists()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "mine"))
    assert flags() == f"--tf_xla_persistent_cache_directory='{only_folder_after_keeping(tmp_path / 'mine')}'"


@pytest.mark.parametrize("off", ["off", "OFF", "no", "false", "0"])
def test_it_can_be_switched_off(tmp_path, monkeypatch, off):
    monkeypatch.setenv(VARIABLE, off)
    assert flags() is None
    assert not (tmp_path / "cache").exists()


def test_a_named_folder_takes_the_place_of_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(VARIABLE, "~/mine")
    assert str(only_folder_after_keeping(tmp_path / "mine")) in os.environ["TF_XLA_FLAGS"]
    assert GPU_ONLY not in os.environ["TF_XLA_FLAGS"]
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("given", ["--tf_xla_persistent_cache_directory=elsewhere", "/home/me/flags.txt"])
def test_the_users_own_cache_and_file_of_flags_stay(tmp_path, monkeypatch, given):
    monkeypatch.setenv("TF_XLA_FLAGS", given)
    assert flags() == given
    assert not (tmp_path / "cache").exists()


def in_the_way(tmp_path):
    return tmp_path / "in the way" / "folder"


def quoted(tmp_path):
    return tmp_path / "it's"


@pytest.mark.parametrize("place", [in_the_way, quoted])
def test_a_folder_that_cannot_be_used_is_done_without_or_refused(tmp_path, monkeypatch, place, capsys):
    (tmp_path / "in the way").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(place(tmp_path)))
    assert flags() is None
    monkeypatch.setenv(VARIABLE, str(place(tmp_path)))
    assert cli.main(["train", "cartpole", "--runs-dir", str(tmp_path / "runs")]) == 2
    err = capsys.readouterr().err
    assert (
        err.startswith(f"tfppo: {VARIABLE} is {place(tmp_path)}, a folder that cannot be used (")
        and err.count("\n") == 1
    )
    assert err.endswith("): set another folder, or off\n")
    assert not (tmp_path / "runs").exists() and "TF_XLA_FLAGS" not in os.environ


def test_a_folder_that_is_not_writable_is_done_without(monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(xla_cache.tempfile, "TemporaryFile", refuse)
    assert flags() is None


def test_a_full_disk_is_done_without(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=xla_cache.LEAST_FREE_BYTES - 1))
    assert flags() is None


def test_versions_and_machines_have_folders_of_their_own(tmp_path, machine, monkeypatch):
    first = only_folder_after_keeping(tmp_path / "cache" / "tfppo" / "xla")
    assert first.name.startswith(f"tensorflow-{version('tensorflow')}-")
    machine.write_text("Model: \t NVIDIA H100\nIRQ: 6\n")
    assert xla_cache._machine() == first.name
    machine.write_text("Model: \t NVIDIA A100\nIRQ: 5\n")
    assert xla_cache._machine() not in (first.name, "")
    machine.write_text("Model: \t NVIDIA H100\n")
    monkeypatch.setattr(xla_cache, "version", lambda package: "9.9")
    assert xla_cache._machine().split("-")[1:] == ["9.9", first.name.split("-")[2]]


def entry(sizes=(53, 200, 70_000)):
    """A protocol buffer of three fields."""
    whole = b""
    for tag, size in zip(FIELDS, sizes, strict=True):
        length = b""
        rest = size
        while rest >= 0x80:
            length, rest = length + bytes([rest & 0x7F | 0x80]), rest >> 7
        whole += tag + length + bytes([rest]) + b"x" * size
    return whole


def test_entries_that_are_not_whole_are_removed(tmp_path, monkeypatch):
    folder = only_folder_after_keeping(tmp_path / "cache" / "tfppo" / "xla")
    whole = entry()
    broken = [b"", b"\x0a", whole[:1000], whole[:-1], whole + b"\x00", b"\xff" * 500, b"\x00" * len(whole), whole[55:]]
    for number, data in enumerate([whole, entry((0, 0, 0)), *broken]):
        (folder / f"{number}.pb").write_bytes(data)
    (folder / "written.pb.tmp").write_bytes(b"half")
    monkeypatch.delenv("TF_XLA_FLAGS")
    keep_compiled_programs()
    assert sorted(path.name for path in folder.iterdir()) == ["0.pb", "1.pb", "written.pb.tmp"]


@pytest.mark.slow
@pytest.mark.fault("A compiled program in the XLA cache is damaged", "It is compiled again.")
def test_programs_are_kept_and_damage_ends_no_run(tmp_path):
    """TensorFlow itself, on the CPU, stores a program, reads it, and compiles it again after the entry was damaged."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    environment |= {VARIABLE: str(tmp_path / "mine"), "PYTHONPATH": str(Path(tfppo.__file__).parents[1])}

    def compile_in_a_process():
        done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "7.0\n"), done.stderr
        (path,) = only_folder(tmp_path / "mine").glob("*.pb")
        return path

    path = compile_in_a_process()
    data = path.read_bytes()
    with path.open("rb") as stream:
        assert xla_cache._is_whole(stream, len(data))
    path.write_bytes(data[: len(data) // 2])
    assert compile_in_a_process() == path  # under the same name, and whole again
    assert len(path.read_bytes()) == len(data)


def test_a_measurement_of_compilation_keeps_nothing(monkeypatch):
    calls = []
    monkeypatch.setattr(startup, "keep_compiled_programs", lambda: calls.append(1))
    startup.import_tensorflow(keep_programs=False)
    assert calls == []
    startup.import_tensorflow()
    assert calls == [1]
