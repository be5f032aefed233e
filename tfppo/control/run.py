"""Control runs for Python."""

from pathlib import Path

from tfppo.control.config import ControlRunConfig
from tfppo.control.trainer import CONTROL, ControlTrainer
from tfppo.training import driver, run_folder


def train(config: ControlRunConfig, name: str | None = None, import_seconds: float = 0.0) -> Path | None:
    """Trains a policy in a new run, evaluates it, and returns the run's folder; None in a worker that is not the chief.

    Args:
      config: the settings.
      name: begins the name of the run's folder where the settings have none; None: the environment.
      import_seconds: seconds that went by before, for evaluation.json.

    Raises:
      UsageError: on settings that do not fit together, or a folder that cannot be used.
    """
    return driver.train(ControlTrainer, config, import_seconds, name)


def export(folder: Path, checkpoint: str = "latest", env: str | None = None) -> Path:
    """Writes the policy of a run's checkpoint as a SavedModel (see `export_policy`), and returns its folder.

    Args:
      folder: of the run.
      checkpoint: "latest", "best" or an iteration's number.
      env: as `given` of `run_folder.read_confirmed`.

    Raises:
      UsageError: if the folder is no run, has no checkpoint that can be read, or cannot be written to.
    """
    config = run_folder.read_confirmed(folder, CONTROL.config_class, CONTROL.imported, env)
    return driver.export(ControlTrainer(driver.for_inference(config)), folder, checkpoint)
