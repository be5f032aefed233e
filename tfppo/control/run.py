"""Trains control runs from Python."""

import functools
from pathlib import Path

from tfppo.control.config import ControlRunConfig
from tfppo.control.envs.registration import MakeEnvironment
from tfppo.control.trainer import ControlTrainer
from tfppo.training import driver


def train_control(
    config: ControlRunConfig,
    name: str | None = None,
    import_seconds: float = 0.0,
    *,
    env: MakeEnvironment | None = None,
) -> Path | None:
    """Trains a policy in a new run and evaluates it.

    Args:
      config: The settings.
      name: Start of the run folder's name if the settings give no name; None uses the environment ID.
      import_seconds: Seconds spent on imports before this call, for evaluation.json.
      env: A function, or a class, that makes a new environment in each call; it replaces the setting `env`. A run
        whose function has no name that another program can import needs it again in `tfppo.resume` and
        `tfppo.evaluate`.

    Returns:
      The folder of the run, or None in a worker that is not the chief.

    Raises:
      UsageError: If settings do not fit together, or a folder cannot be used.
    """
    return driver.train(functools.partial(ControlTrainer, env=env), config, import_seconds, name)
