"""Saves and restores checkpoints, which hold everything that a run needs to resume.

A checkpoint is a folder such as `checkpoints/000020`. It is either complete or does not exist, because it is written
under a temporary name and renamed at the end.
"""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from tfppo.errors import UsageError
from tfppo.execution.variables import Variable, named_variables
from tfppo.training.run_folder import is_finished, quoted, resume_command

STATE = "state.npz"
PROGRESS = "progress.json"
HIDDEN = "."  # prefix of folders that are being written or removed
MAX_NAMED = 3  # largest number of variables that an error names


class Array(Protocol):
    """An array of NumPy."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each dimension."""

    @property
    def dtype(self) -> object:
        """Type of the elements."""


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
      fixed: Variables of the state that are not saved, because they have the same values in every process of the run.
        The others have the same names as without this argument.
      **state: Variables to save, in the form that `execution.variables.named_variables` takes.
    """

    def __init__(self, folder: Path, keep: int = 3, fixed: Iterable[Variable] = (), **state: object):
        self._variables = named_variables(state)
        ids = {id(variable) for variable in fixed}
        self._fixed = {name for name, variable in self._variables.items() if id(variable) in ids}
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
            arrays = {name: np.asarray(x.numpy()) for name, x in self._variables.items() if name not in self._fixed}
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
        """Restores a checkpoint in order to resume the run.

        Args:
          which: "latest", "best" or the number of an iteration.

        Returns:
          The folder of the checkpoint, or None if there is no checkpoint yet.

        Raises:
          UsageError: If the checkpoint does not exist, is damaged, or does not match the names, shapes and dtypes of
            the state. Fixed variables may be missing, and must have the same values if they are there. Nothing is
            restored then.
        """
        return self._restore(which, self._advice_to_resume)

    def restore_part(self, which: str) -> Path:
        """Restores variables from a checkpoint that holds more than these, for example the models of another run.

        Args:
          which: "latest", "best" or the number of an iteration.

        Returns:
          The folder of the checkpoint.

        Raises:
          UsageError: If there is no checkpoint, or `restore` raises it for these variables.
        """
        return self._existing(self._restore(which, self._advice_to_use, part=True))

    def restore_for_use(self, which: str) -> None:
        """Restores a checkpoint in order to evaluate, sample from or export its policy.

        Args:
          which: "latest", "best" or the number of an iteration.

        Raises:
          UsageError: If there is no checkpoint, or `restore` raises it.
        """
        self._existing(self._restore(which, self._advice_to_use))

    def _existing(self, path: Path | None) -> Path:
        folder = self._folder.parent
        if path is None and is_finished(folder):
            raise without_checkpoints(folder)
        if path is None:
            raise UsageError(
                f"{self._folder} holds no checkpoint, because the run stopped before its first one: resume the run "
                f"with: {resume_command(folder)}"
            )
        return path

    def _restore(self, which: str, advice: Callable[[Path], str], part: bool = False) -> Path | None:
        """Restores a checkpoint.

        Args:
          which: "latest", "best" or the number of an iteration.
          advice: Returns what to do if the checkpoint is damaged.
          part: Leaves out arrays without a variable, which are an error otherwise.

        Returns:
          The folder of the checkpoint, or None if there is no checkpoint yet.

        Raises:
          UsageError: As `restore`.
        """
        paths = self.paths()
        if not paths:
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
            arrays = {name: x for name, x in _read(path).items() if not part or name in self._variables}
        except Exception as error:  # a damaged file can make the readers raise almost anything
            raise UsageError(f"checkpoint {path} cannot be read ({_short(error)}): {advice(path)}") from None
        self._check(path, arrays)
        for name, array in arrays.items():
            self._variables[name].assign(array)
        return path

    def _advice_to_resume(self, damaged: Path) -> str:
        paths = self.paths()
        older = [path for path in paths[: paths.index(damaged)] if _can_be_read(path)]
        if not older:
            return "there is no older checkpoint, so restore this one from a copy, or train again under another --name"
        away = damaged.with_name(f"{damaged.name}-damaged")  # not a number, so it is no checkpoint
        return (
            f"to resume from the older checkpoint {older[-1].name}, move it away with: mv {quoted(damaged)} "
            f"{quoted(away)}"
        )

    def _advice_to_use(self, damaged: Path) -> str:
        others = [path for path in self.paths() if path != damaged and _can_be_read(path)]
        if not others:
            return "there is no other checkpoint, so restore this one from a copy, or train again under another --name"
        return f"use another checkpoint with --checkpoint {int(others[-1].name)}"

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

    def _check(self, path: Path, arrays: Mapping[str, Array]) -> None:
        """Checks that a checkpoint has the names, shapes and dtypes of the state.

        Older versions saved the fixed variables, too. They must have the same values as in this run, because later
        checkpoints will not hold them: with other values the run would continue with a mixture of two models.

        Raises:
          UsageError: If something differs.
        """
        there = {name: _kind(x) for name, x in arrays.items()}
        wanted = {name: x.numpy() for name, x in self._variables.items() if name in there or name not in self._fixed}
        here = {name: _kind(x) for name, x in wanted.items()}
        differences = [
            f"{name} is {there.get(name, 'missing')} in the checkpoint, but {here.get(name, 'missing')} in this run"
            for name in sorted({*there, *here})
            if there.get(name) != here.get(name)
        ] or [
            f"{name} has other values in the checkpoint than in this run, which does not train it"
            for name in sorted(self._fixed & there.keys())
            if np.asarray(arrays[name]).tobytes() != np.asarray(wanted[name]).tobytes()
        ]
        if not differences:
            return
        more = [f"{len(differences) - MAX_NAMED} more differ"] if len(differences) > MAX_NAMED else []
        raise UsageError(
            f"checkpoint {path} does not fit this run ({'; '.join(differences[:MAX_NAMED] + more)}): give the settings "
            "and the models that the run was trained with, such as its own config.yaml"
        )


def without_checkpoints(folder: Path) -> UsageError:
    """Returns the error for a finished run that has lost its checkpoints."""
    return UsageError(
        f"{folder} is a finished run, but its checkpoints were deleted: restore them from a copy, or train it again "
        "under another --name"
    )


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


def _read(path: Path) -> dict[str, Array]:
    """Reads all arrays of a checkpoint.

    Args:
      path: Folder of the checkpoint.

    Raises:
      Exception: If a file is missing or damaged. The kind depends on the damage.
    """
    read_progress(path)
    with np.load(path / STATE, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _can_be_read(path: Path) -> bool:
    try:
        _read(path)
    except Exception:  # as above
        return False
    return True


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


def _kind(x: object) -> str:
    """Returns the shape and the dtype of an array."""
    array = np.asarray(x)
    return f"{array.shape} of {array.dtype}"


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
