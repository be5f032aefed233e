"""Runs of supervised training: their folder, their evaluation, and how they are resumed."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import keras
import tensorflow as tf

from tfppo.errors import UsageError
from tfppo.execution.devices import apply_execution_settings, choose_device
from tfppo.execution.variables import weights_hash
from tfppo.reporting.curves import plot_curve
from tfppo.settings import with_settings
from tfppo.text.config import TextParts
from tfppo.text.supervised.config import TunedRunConfig
from tfppo.text.supervised.records import Records
from tfppo.text.supervised.training import VALIDATION, Interval, Training
from tfppo.training import files, new_folder, run_folder
from tfppo.training.lock import locked
from tfppo.training.loop import go_back, writing

SLOTS = 3  # AdamW keeps two numbers for each weight, besides the weight
BYTES = 4  # of a float32
Config = TypeVar("Config", bound=TunedRunConfig)


class Parts(Protocol):
    """What a run is made of."""

    @property
    def config(self) -> TunedRunConfig:
        """The settings as they go into config.yaml, see `supervised.parts.recorded`."""

    @property
    def model(self) -> keras.Model:
        """The language model."""

    @property
    def label(self) -> str | None:
        """Part of the default name of the run's folder; None: there is none."""

    @property
    def title(self) -> str:
        """Title of the curve."""

    @property
    def subject(self) -> str:
        """The examples in words."""

    def write(self, folder: Path) -> None:
        """Writes the parts that a resumed run needs into the folder of a new run."""

    def notices(self) -> list[str]:
        """Returns lines about examples that are cut, left out, or in both parts of the data."""

    def training(self) -> Training:
        """Makes the training. Adds adapters to the model if the run has any."""

    def save(self, folder: Path, training: Training) -> None:
        """Saves the tuned model in the folder of the run."""

    def evaluation(self, folder: Path, training: Training) -> dict[str, Any]:
        """Evaluates the tuned model. Writes pictures, if there are any."""

    def describe(self, folder: Path, evaluation: dict[str, Any]) -> str:
        """Formats an evaluation as one line, with the command that uses the model."""


@dataclass(frozen=True)
class Method(Generic[Config]):
    """A method of supervised training: what its runs have of their own."""

    kind: str
    """Name of the section of its settings in config.yaml."""
    config_class: type[Config]
    """Class of the settings of a run."""
    load_records: Callable[[Config, object, object], Records[Any]]
    """Loads the records of a new run from the settings, and from data that are given in Python."""
    kept_records: Callable[[Path], Records[Any]]
    """Reads the records that the folder of a run keeps."""
    load_parts: Callable[[Config, Records[Any], object, Path | None], Parts]
    """Loads the parts from the settings, the records, a given language model, and the folder of an existing run."""


def with_data(
    config: Config, data: object, validation: object, preset: Path | str | None, settings: Mapping[str, object]
) -> tuple[Config, object, object]:
    """Puts data that are paths into the settings of a run.

    Args:
      config: Settings of the run.
      data: Training data: a path, or data in Python. None: those of the settings.
      validation: Validation data, likewise.
      preset: Replaces the preset of the settings. None: it does not.
      settings: More settings that replace those of the config, by field name.

    Returns:
      The settings, and the data and the validation data that are not paths, or None.

    Raises:
      UsageError: If there is no such setting, or a value is invalid.
    """
    given: dict[str, object] = {"data": data, "validation_data": validation}
    paths = {name: Path(value) for name, value in given.items() if isinstance(value, (str, Path))}
    first, second = (None if name in paths else value for name, value in given.items())
    chosen = {**settings, **paths, **({} if preset is None else {"preset": preset})}
    return with_settings(config, chosen), first, second


def start(method: Method[Config], config: Config, data: object, validation: object, model: object) -> Path:
    """Trains a new run.

    Args:
      method: The method.
      config: Settings of the run.
      data: Training examples that are given in Python. None: those of the settings.
      validation: Validation examples that are given in Python. None: those of the settings.
      model: A language model that is given in Python. None: that of the settings.

    Returns:
      The folder of the run.

    Raises:
      UsageError: If settings do not fit together, examples are invalid, the model cannot be tuned, or the folder cannot
        be used.
    """
    began = time.perf_counter()
    config = replace(config, parts=TextParts())  # those of an earlier run do not count
    folder_settings = config.run.of_folder()
    new_folder.refuse_taken_name(folder_settings)
    preset = config.tuning.preset
    if model is not None and preset is not None:
        raise UsageError(f"preset is {preset} and a model is given, but a run has one start: leave one out")
    config, device = _executed(config)
    with tf.device(device):
        records = method.load_records(config, data, validation)
        parts = method.load_parts(config, records, model, None)
        label = [] if parts.label is None else [parts.label]
        name = run_folder.folder_name("-".join([run_folder.command_of(method.kind), *label]))
        with new_folder.new_run_folder(folder_settings, name, parts.config, print, parts.write) as folder:
            _train_and_finish(folder, parts, began)
    return folder


def resume(method: Method[Config], folder: Path) -> Path:
    """Resumes a run from its latest checkpoint, or from its beginning if there is none.

    It ends with the same weights, bit for bit, as a run that was not interrupted. A finished run is only evaluated
    again.

    Args:
      method: The method.
      folder: Folder of the run.

    Returns:
      The folder.

    Raises:
      UsageError: If the folder is not such a run or is in use, its parts are not those that it was made of, or its
        latest checkpoint is damaged.
    """
    began = time.perf_counter()
    config, device = _executed(run_folder.read_config(folder, method.config_class))
    with tf.device(device), locked(folder):
        parts = method.load_parts(config, method.kept_records(folder), None, folder)
        _train_and_finish(folder, parts, began, resumes=True)
    return folder


def _executed(config: Config) -> tuple[Config, str | None]:
    """Applies the settings that TensorFlow has for the whole process. Returns the settings of the run, and a device.

    The device is "/CPU:0", or None on a GPU, where TensorFlow itself places the operations.
    """
    config = with_settings(config, apply_execution_settings(config.run))
    device, reason = choose_device(config.run.device, None)
    print(f"device {device[1:4]}: {reason}", flush=True)
    return config, device if "CPU" in device else None


def _train_and_finish(folder: Path, parts: Parts, began: float, resumes: bool = False) -> None:
    config, model = parts.config, parts.model
    for line in parts.notices():
        print(line, flush=True)
    base = model.count_params()
    training = parts.training()
    checkpoints = training.checkpoints(folder, config.run.keep_checkpoints)
    if resumes:
        path = go_back(folder, checkpoints)
        found = "there is no checkpoint yet: the run starts from the beginning"
        print(found if path is None else f"resumed from checkpoint {path.name}")
    trained = sum(math.prod(variable.shape) for variable in training.tuner.network.trainable_weights)
    files.check_room(folder, folder, BYTES * (base + SLOTS * trained * (config.run.keep_checkpoints + 1)))
    print(
        f"{type(model).__name__} of {base / 1e6:.2f}M parameters ({trained / 1e6:.2f}M trained), {parts.subject}, "
        f"{training.total} steps of at most {config.tuning.batch_size} examples, seed {config.run.seed} -> {folder}",
        flush=True,
    )
    is_done = training.run(folder, Interval(config.run.checkpoint_interval, config.run.keep_checkpoints))
    if not is_done:
        print(
            f"stopped after step {int(training.progress.steps)} of {training.total}; resume with: "
            f"{run_folder.resume_command(folder)}"
        )
        return
    _finish(folder, parts, training, began)


def _finish(folder: Path, parts: Parts, training: Training, began: float) -> None:
    """Saves the weights with the lowest validation loss, and writes the evaluation and the picture."""
    steps, progress, model = int(training.progress.steps), training.progress, parts.model
    skipped = int(training.tuner.guard.skipped.numpy())
    if progress.is_stopped and steps < training.total:
        print(f"stopped after step {steps} of {training.total}: {progress.patience} validations without a lower loss")
    if int(progress.best_row):
        training.checkpoints(folder, parts.config.run.keep_checkpoints).restore_for_use("best")
    print("saving and evaluating the model", flush=True)
    parts.save(folder, training)
    evaluation = {
        "seed": parts.config.run.seed,
        "epochs": steps / len(training.batches),
        "steps": steps,
        "parameters": model.count_params(),
        **parts.evaluation(folder, training),
        "skipped_updates": skipped,
        "weights": weights_hash([*model.weights, *training.tuner.new_weights]),
        "seconds": {"total": round(time.perf_counter() - began, 3)},
    }
    with writing(folder):
        run_folder.write_evaluation(folder, evaluation)
        columns = [training.loss] if training.held_out is None else [training.loss, VALIDATION]
        plot_curve(folder / run_folder.METRICS, folder / run_folder.CURVE, "iteration", columns, parts.title)
    done = f"{evaluation['parameters']:,} parameters, {steps} step{'s' * (steps != 1)}"
    print(f"{done}: {parts.describe(folder, evaluation)}")
