"""Trains control runs from Python."""

from pathlib import Path

from tfppo.control.config import ControlRunConfig
from tfppo.control.trainer import ControlTrainer
from tfppo.training import driver


def train(config: ControlRunConfig, name: str | None = None, import_seconds: float = 0.0) -> Path | None:
    """Trains a policy in a new run and evaluates it.

    Args:
      config: The settings.
      name: Start of the run folder's name if the settings give no name; None uses the environment ID.
      import_seconds: Seconds spent on imports before this call, for evaluation.json.

    Returns:
      The folder of the run, or None in a worker that is not the chief.

    Raises:
      UsageError: If settings do not fit together, or a folder cannot be used.
    """
    return driver.train(ControlTrainer, config, import_seconds, name)
