"""Functions that train, and export, a control run from Python."""

from pathlib import Path

from tfppo.control.config import ControlRunConfig
from tfppo.control.trainer import CONTROL, ControlTrainer
from tfppo.errors import refusing_exits
from tfppo.training import driver, run_folder


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


@refusing_exits()
def export(folder: Path, checkpoint: str = "latest", env: str | None = None) -> Path:
    """Exports the policy of a run's checkpoint as a SavedModel; see `export_policy`.

    Args:
      folder: The folder of the run.
      checkpoint: "latest", "best" or the number of an iteration.
      env: Environment ID that confirms a module import; see `given` of `run_folder.read_confirmed`.

    Returns:
      The folder of the SavedModel.

    Raises:
      UsageError: If the folder is not a run, has no readable checkpoint, or cannot be written to.
    """
    config = run_folder.read_confirmed(folder, CONTROL.config_class, CONTROL.imported, env)
    return driver.export(ControlTrainer(driver.for_inference(config)), folder, checkpoint)
