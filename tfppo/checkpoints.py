"""Checkpoints: everything that a run needs to go on."""

import tempfile
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfppo.errors import UsageError


class Checkpoints:
    """The checkpoints of a run, the latest few, each written whole before an older one goes.

    Args:
      folder: where they live.
      keep: how many.
      **state: named trackable objects: models, optimizers, variables and lists of them.

    Raises:
      UsageError: if the folder's list of checkpoints is damaged.
    """

    def __init__(self, folder: Path, keep: int = 3, **state: Any):
        self._checkpoint = tf.train.Checkpoint(**state)
        self._folder = folder
        try:
            self._manager = tf.train.CheckpointManager(self._checkpoint, str(folder), max_to_keep=keep)
        except Exception as error:  # TensorFlow answers damage with whatever its readers stumble over
            raise UsageError(f"{folder / 'checkpoint'} is damaged ({_short(error)}): restore it from a copy") from None

    def save(self, iteration: int) -> None:
        """Writes the state after `iteration` iterations."""
        self._manager.save(checkpoint_number=iteration)

    def restore_latest(self) -> str:
        """Restores the latest checkpoint and returns its path.

        Raises:
          UsageError: if there is none, or it is damaged or of another shape; in one line.
        """
        listed = [*self._manager.checkpoints, self._manager.latest_checkpoint or ""]
        paths = [path for path in listed if Path(f"{path}.index").exists()]
        if not paths:
            raise UsageError(f"{self._folder} holds no checkpoint: the run ended before its first one; train it again")
        path = paths[-1]
        try:
            self._check(path)
            self._checkpoint.restore(path).expect_partial()
        except Exception as error:  # TensorFlow answers damage with whatever its readers stumble over
            raise UsageError(
                f"checkpoint {path} cannot be read ({_short(error)}): delete {path}.* to go on from an older one"
            ) from None
        return path

    def _check(self, path: str) -> None:
        """Reads the whole checkpoint, and raises ValueError unless it holds just what is wanted.

        A restore that fails half-way would leave the models half-restored, and a screen of warnings.
        """
        reader = tf.train.load_checkpoint(path)
        theirs = _shapes(reader)
        for name in theirs:
            reader.get_tensor(name)
        with tempfile.TemporaryDirectory() as folder:
            ours = _shapes(tf.train.load_checkpoint(self._checkpoint.write(f"{folder}/state")))
        for name in sorted({*ours, *theirs}):
            if ours.get(name) != theirs.get(name):
                raise ValueError(f"{name.split('/.ATTR')[0]} is {theirs.get(name)} there and {ours.get(name)} here")


def _shapes(reader: Any) -> dict[str, list[int]]:
    """The shapes of a checkpoint's variables, its own counter of saves left out."""
    return {name: shape for name, shape in reader.get_variable_to_shape_map().items() if "save_counter" not in name}


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
