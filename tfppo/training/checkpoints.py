"""Checkpoints: everything that a run needs to go on, each of them whole or not there."""

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
HIDDEN = "."  # what begins with it is being written or removed


class Progress(NamedTuple):
    """How far a run was at a checkpoint."""

    iteration: int  # iterations that were done
    score: float | None  # by which the best checkpoint is chosen; None: there was none yet
    sizes: dict[str, int]  # bytes of the run's event files


class Checkpoints:
    """The checkpoints of a run: the latest few, and the one of the best score.

    Each is a folder named by its iteration. It is written under another name, brought to the disk, and renamed: what
    has its name is whole, whenever the process or the machine stops.

    Args:
      folder: where they live.
      keep: how many of the latest.
      **state: as for `named_variables`.
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
        """Writes the state after `iteration` iterations, then removes what is not to be kept.

        Args:
          iteration: its name.
          score: how well the run does; NaN or None: nobody knows.
          sizes: bytes of the files that a resumed run goes on from.
          extra: writes more files into the folder that it is given.
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
            if path.exists():  # of a run that goes on from an older one
                path.rename(Path(stage) / "old")
            new.rename(path)
        _to_disk(self._folder)
        self._remove_old()

    def paths(self) -> list[Path]:
        """The checkpoints' folders, oldest first."""
        if not self._folder.is_dir():
            return []
        return sorted((p for p in self._folder.iterdir() if p.name.isdecimal()), key=lambda p: int(p.name))

    def restore(self, which: str = "latest") -> Path | None:
        """Restores a checkpoint and returns its folder; None: there is none yet.

        Args:
          which: "latest", "best" or an iteration's number.

        Raises:
          UsageError: if it does not exist, or is damaged or of another shape; in one line.
        """
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
            arrays = self._read(path / STATE)
        except Exception as error:  # damage is answered with whatever the readers stumble over
            raise UsageError(
                f"checkpoint {path} cannot be read ({_short(error)}): delete it to go on from an older one"
            ) from None
        for name, array in arrays.items():
            self._variables[name].assign(array)
        return path

    def restore_for_use(self, which: str) -> None:
        """Restores a checkpoint that must be there: its policy is to be judged, talked to or exported.

        Raises:
          UsageError: as `restore` does, and if there is none yet.
        """
        if self.restore(which) is None:
            raise UsageError(f"{self._folder} holds no checkpoint: the run ended before its first one; go on with it")

    def _path(self, iteration: int) -> Path:
        return self._folder / f"{iteration:06d}"

    def _best(self, paths: list[Path]) -> Path:
        """That of the highest score, the latest of several; without any score the latest of all."""
        return max(paths, key=lambda path: (_score(path), path))

    def _remove_old(self) -> None:
        paths = self.paths()
        kept = {*paths[-self._keep :], self._best(paths)}
        for path in paths:
            if path not in kept:
                path.rename(path.with_name(f"{HIDDEN}{path.name}-old"))  # what is half removed has no name
        for leftover in self._folder.glob(f"{HIDDEN}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _read(self, path: Path) -> dict[str, object]:
        """All arrays of a checkpoint. Raises some error unless they are just what is wanted: nothing is restored by
        half."""
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        kinds = {name: f"{tuple(x.shape)} of {x.dtype}" for name, x in arrays.items()}
        wanted = {name: f"{tuple(x.shape)} of {x.numpy().dtype}" for name, x in self._variables.items()}
        for name in sorted({*kinds, *wanted}):
            if kinds.get(name) != wanted.get(name):
                there, here = kinds.get(name, "missing"), wanted.get(name, "missing")
                raise ValueError(f"{name} is {there} there and {here} here")
        return arrays


def read_progress(path: Path) -> Progress:
    """How far a run was at the checkpoint in this folder. Raises some error if that is damaged."""
    progress = Progress(**json.loads((path / PROGRESS).read_text()))
    sizes = {str(name): int(size) for name, size in progress.sizes.items()}
    return Progress(int(progress.iteration), None if progress.score is None else float(progress.score), sizes)


def _score(path: Path) -> float:
    try:
        score = read_progress(path).score
    except Exception:  # a damaged one is not the best
        return -math.inf
    return -math.inf if score is None else score


def _to_disk(path: Path) -> None:
    """Waits until a file, or the names in a folder, would survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
