"""Saves and restores checkpoints, which hold everything that a run needs to resume.

A checkpoint is a folder such as `checkpoints/000020`. It is either complete or does not exist, because it is written
under a temporary name and renamed at the end.
"""

import functools
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tfppo.errors import UsageError
from tfppo.execution.variables import named_variables

STATE = "state.npz"
PROGRESS = "progress.json"
HIDDEN = "."  # prefix of folders that are being written or removed


class Progress(NamedTuple):
    """The progress of a run at a checkpoint."""

    iteration: int  # number of finished iterations
    score: float | None  # selects the best checkpoint; None: no score was known yet
    sizes: dict[str, int]  # sizes of the files that the run appends to, in bytes


class Checkpoints:
    """Keeps the latest checkpoints of a run, and the checkpoint with the best score.

    Each checkpoint is a folder named after its iteration. It is written under a temporary name, flushed to the disk and
    then renamed. So a folder with the final name is complete, even if the process is killed or the power fails.

    Args:
      folder: Folder that holds the checkpoints.
      keep: Number of latest checkpoints to keep.
      **state: Variables to save, in the form that `execution.variables.named_variables` takes.
    """

    def __init__(self, folder: Path, keep: int = 3, **state: object):
        self._variables = named_variables(state)
        self._folder = folder
        self._keep = keep

    def save(
        self,
        iteration: int,
        score: float | None = None,
        sizes: dict[str, int] | None = None,
        extra: Callable[[Path], None] | None = None,
    ) -> None:
        """Writes a checkpoint, then removes the checkpoints that are no longer kept.

        Args:
          iteration: Number of finished iterations, after which the checkpoint is named.
          score: Score of the run, higher is better. NaN or None: the score is unknown.
          sizes: Sizes in bytes of the files that the run appends to, by name. A resumed run truncates them.
          extra: Function that writes more files into the checkpoint. It takes the folder.
        """
        self._folder.mkdir(exist_ok=True)
        score = None if score is None or math.isnan(score) else score
        path = self._path(iteration)
        with tempfile.TemporaryDirectory(prefix=f"{HIDDEN}{path.name}-", dir=self._folder) as stage:
            new = Path(stage) / path.name
            new.mkdir()
            arrays = {name: np.asarray(x.numpy()) for name, x in self._variables.items()}
            np.savez(new / STATE, allow_pickle=False, **arrays)
            if extra is not None:
                extra(new)
            (new / PROGRESS).write_text(json.dumps(Progress(iteration, score, sizes or {})._asdict()))
            for written in [*new.iterdir(), new]:
                _to_disk(written)
            if path.exists():  # the run resumed from an older checkpoint
                path.rename(Path(stage) / "old")
            new.rename(path)
        _to_disk(self._folder)
        self._remove_old()

    def paths(self) -> list[Path]:
        """Returns the folders of the checkpoints, oldest first."""
        if not self._folder.is_dir():
            return []
        return sorted((p for p in self._folder.iterdir() if p.name.isdecimal()), key=lambda p: int(p.name))

    def restore(self, which: str = "latest") -> Path | None:
        """Restores a checkpoint.

        Args:
          which: "latest", "best" or the number of an iteration.

        Returns:
          The folder of the checkpoint, or None if `which` is "latest" or "best" and there is no checkpoint yet.

        Raises:
          UsageError: If the checkpoint does not exist, is damaged, or does not match the names, shapes and dtypes of
            the state. Nothing is restored then.
        """
        return self._restore(which, self._read)

    def restore_part(self, which: str) -> Path:
        """Restores variables from a checkpoint that holds more than these, for example the models of another run.

        Args:
          which: "latest", "best" or the number of an iteration.

        Returns:
          The folder of the checkpoint.

        Raises:
          UsageError: If there is no checkpoint, or `restore` raises it for these variables.
        """
        return self._existing(self._restore(which, functools.partial(self._read, part=True)))

    def _restore(self, which: str, read: Callable[[Path], dict[str, object]]) -> Path | None:
        """Restores the arrays that `read` returns for the file of a checkpoint; see `restore`."""
        paths = self.paths()
        if not paths and which in ("latest", "best"):
            return None
        if which == "latest":
            path = paths[-1]
        elif which == "best":
            path = self._best(paths)
        else:
            path = self._path(int(which)) if which.isdecimal() else self._folder
            if path not in paths:
                there = ", ".join(["latest", "best", *(str(int(p.name)) for p in paths)])
                raise UsageError(f"{self._folder} has no checkpoint {which!r}: choose one of {there}")
        try:
            read_progress(path)
            arrays = read(path / STATE)
        except Exception as error:  # a damaged file can make the readers raise almost anything
            raise UsageError(
                f"checkpoint {path} cannot be read ({_short(error)}): delete it to resume from an older one"
            ) from None
        for name, array in arrays.items():
            self._variables[name].assign(array)
        return path

    def restore_for_use(self, which: str) -> None:
        """Restores a checkpoint in order to evaluate, sample from or export its policy.

        Args:
          which: "latest", "best" or the number of an iteration.

        Raises:
          UsageError: If there is no checkpoint, or `restore` raises it.
        """
        self._existing(self.restore(which))

    def _existing(self, path: Path | None) -> Path:
        if path is None:
            raise UsageError(
                f"{self._folder} holds no checkpoint, because the run stopped before its first one: resume the run"
            )
        return path

    def _path(self, iteration: int) -> Path:
        return self._folder / f"{iteration:06d}"

    def _best(self, paths: list[Path]) -> Path:
        """Returns the checkpoint with the highest score. Of several, or without any score, it is the latest."""
        return max(paths, key=lambda path: (_score(path), path))

    def _remove_old(self) -> None:
        paths = self.paths()
        kept = {*paths[-self._keep :], self._best(paths)}
        for path in paths:
            if path not in kept:
                path.rename(path.with_name(f"{HIDDEN}{path.name}-old"))  # a half removed folder must not look complete
        for leftover in self._folder.glob(f"{HIDDEN}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _read(self, path: Path, part: bool = False) -> dict[str, object]:
        """Reads all arrays of a checkpoint, before any of them is restored. `part` leaves out those without a variable.

        Raises:
          Exception: If the file is damaged, or its names, shapes and dtypes differ from those of the state.
        """
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if not part or name in self._variables}
        kinds = {name: f"{tuple(x.shape)} of {x.dtype}" for name, x in arrays.items()}
        wanted = {name: f"{tuple(x.shape)} of {x.numpy().dtype}" for name, x in self._variables.items()}
        for name in sorted({*kinds, *wanted}):
            if kinds.get(name) != wanted.get(name):
                there, here = kinds.get(name, "missing"), wanted.get(name, "missing")
                raise ValueError(f"{name} is {there} in the checkpoint, but {here} in this run")
        return arrays


def read_progress(path: Path) -> Progress:
    """Reads the progress of a run from the folder of a checkpoint.

    Args:
      path: Folder of the checkpoint.

    Returns:
      The iteration, the score and the sizes of the files that the run appends to.

    Raises:
      Exception: If the file is missing or damaged. The kind depends on the damage.
    """
    progress = Progress(**json.loads((path / PROGRESS).read_text()))
    sizes = {str(name): int(size) for name, size in progress.sizes.items()}
    return Progress(int(progress.iteration), None if progress.score is None else float(progress.score), sizes)


def _score(path: Path) -> float:
    try:
        score = read_progress(path).score
    except Exception:  # a damaged checkpoint is never the best
        return -math.inf
    return -math.inf if score is None else score


def _to_disk(path: Path) -> None:
    """Flushes a file, or the entries of a folder, to the disk, so that they survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
