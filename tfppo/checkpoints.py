"""Checkpoints: everything that a run needs to go on."""

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
    """

    def __init__(self, folder: Path, keep: int = 3, **state: Any):
        self._checkpoint = tf.train.Checkpoint(**state)
        self._manager = tf.train.CheckpointManager(self._checkpoint, str(folder), max_to_keep=keep)
        self._folder = folder

    def save(self, iteration: int) -> None:
        """Writes the state after `iteration` iterations."""
        self._manager.save(checkpoint_number=iteration)

    def restore_latest(self, partial: bool = False) -> str:
        """Restores the latest checkpoint and returns its path.

        Args:
          partial: whether the checkpoint may hold more than is asked for (an evaluation wants the networks only).

        Raises:
          ValueError: if there is none, or it is damaged or of another shape; in one line.
        """
        path = self._manager.latest_checkpoint
        if path is None:
            raise UsageError(f"{self._folder} holds no checkpoint: the run ended before its first one; train it again")
        try:
            status = self._checkpoint.restore(path)
            status.assert_existing_objects_matched()
            if partial:
                status.expect_partial()
            else:
                status.assert_consumed()
        except Exception as error:  # TensorFlow answers damage with whatever its readers stumble over
            reason = " ".join(str(error).split())[:200]
            raise UsageError(
                f"checkpoint {path} cannot be read ({reason}): delete its files and the line that names it in "
                f"{self._folder / 'checkpoint'} to go on from an older one"
            ) from None
        return path
