"""Defines the interfaces between the driver and the applications, control and text.

The driver (`training.driver`) trains, evaluates and exports any application that implements these protocols.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

import tensorflow as tf

from tfppo.execution.devices import apply_execution_settings
from tfppo.execution.replicas import Replicas
from tfppo.execution.variables import Variable
from tfppo.ppo.config import PPOConfig
from tfppo.ppo.learner import PPOLearner
from tfppo.reporting.tensorboard import TensorBoardWriter
from tfppo.settings import with_settings
from tfppo.training.config import RunConfig

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
else:

    class DataclassInstance(Protocol):
        """Any dataclass."""


Metrics = Mapping[str, float]
"""A row of metrics: values by name. The names are in `reporting.metrics.METRICS`."""
Evaluation = dict[str, object]
"""Contents of `evaluation.json`."""


class Rollout(Protocol):
    """One element of the on-policy dataset."""

    @property
    def metrics(self) -> Mapping[str, tf.Tensor]:
        """Metrics of the rollout, scalars by name of `reporting.metrics.METRICS`."""


class Collector(Protocol):
    """Collects rollouts with the current policy."""

    def collect(self, iteration: tf.Tensor, *prompts: tf.Tensor) -> Rollout:
        """Collects a rollout. TensorFlow must be able to trace this method.

        Args:
          iteration: int64 scalar, the number of the rollout.
          *prompts: Components of the element of the prompt dataset. None for control.

        Returns:
          The rollout.
        """

    def raising_own_errors(self) -> AbstractContextManager[None]:
        """Returns a context manager that raises the original exception of a failure in Python.

        Without it, TensorFlow would raise its own error instead of the exception of an environment or a reward.
        """


class RunSettings(DataclassInstance, Protocol):
    """The settings of a run: a frozen dataclass with these parts and one part of its application."""

    @property
    def run(self) -> RunConfig:
        """Settings that every run has."""

    @property
    def ppo(self) -> PPOConfig:
        """Settings of the algorithm."""


C = TypeVar("C", bound=RunSettings)


def executed(config: C) -> C:
    """Applies the settings of a run that TensorFlow has for the whole process, before TensorFlow computes anything.

    Args:
      config: The settings.

    Returns:
      The settings, with the number of threads and the library for matrices that are used.

    Raises:
      UsageError: If TensorFlow already runs with another number of threads or the other library.
    """
    return with_settings(config, apply_execution_settings(config.run))


def is_due(done: int, interval: int, total: int) -> bool | None:
    """Returns True if a validation is due after so many iterations: every `interval`, and at the end.

    Args:
      done: Number of finished iterations.
      interval: Iterations between two validations. 0: there is no validation, and the result is None.
      total: Number of iterations of the whole run.
    """
    return (done % interval == 0 or done == total) if interval else None


class Display(NamedTuple):
    """The metrics that are shown during a run and that measure its success, by name."""

    columns: Mapping[str, str]  # labels of the console's columns, by metric name
    step: str | None  # horizontal axis of TensorBoard, and the step count on the console; None: iterations
    scores: Sequence[str]  # shown beside the settings on TensorBoard's HPARAMS page
    score: str  # measures the policy's performance
    kl: str  # the KL that `ppo.adaptive_kl_target` applies to
    best: str  # selects the best checkpoint
    has_choices: bool  # actions are discrete, so an entropy near 0 means that the policy no longer explores
    should_end: bool = False  # responses should end by themselves, as answers of a conversation do


class Trainer(Protocol):
    """The interface of an application for the driver: training, evaluation, checkpoints and export."""

    device: str  # "/CPU:0" or "/GPU:0"
    device_reason: str  # why this device was chosen
    replicas: Replicas
    learner: PPOLearner
    compile_seconds: float  # seconds until the end of the first iteration
    rollouts_keep_state: bool  # a rollout that fails changes nothing that a checkpoint holds

    @property
    def config(self) -> RunSettings:
        """Settings that are saved for a resumed run. The choice replaces "auto" if a resumed run must repeat it."""

    @property
    def name(self) -> str:
        """First part of the default name of the run's folder."""

    @property
    def subject(self) -> str:
        """Description of the training in one line."""

    @property
    def modes(self) -> Mapping[str, str]:
        """Compilation mode of each program, by phase."""

    @property
    def display(self) -> Display:
        """Metrics that are shown during the run."""

    @property
    def iteration(self) -> int:
        """Number of finished iterations."""

    @property
    def num_iterations(self) -> int:
        """Number of iterations of the whole run."""

    @property
    def next_step(self) -> int:
        """Next step on the horizontal axis of TensorBoard."""

    @property
    def weights(self) -> Sequence[tf.Variable]:
        """Weights of the models in a fixed order, without the seeds of dropout layers."""

    @property
    def state(self) -> dict[str, object]:
        """State of the run for checkpoints, by name, in the form that `execution.variables.named_variables` takes."""

    @property
    def fixed(self) -> Sequence[Variable]:
        """Variables of `state` that checkpoints leave out, because each trainer of a run starts with their values."""

    @property
    def eval_size(self) -> int:
        """Number of episodes or prompts of the final evaluation. 0: no evaluation."""

    @property
    def stop_reason(self) -> str | None:
        """Why the run ends early, in a few words, from the iterations so far. None: it continues."""

    def is_validated(self, done: int) -> bool | None:
        """Returns True if a validation measures the policy after so many iterations. None: the run has no validation.

        The best checkpoint of a run with a validation is one that was validated.
        """

    def recorded_iterations(self, folder: Path, tensorboard: TensorBoardWriter) -> Iterator[tuple[int, Metrics]]:
        """Trains as `iterations` does, and writes the application's own records, such as samples.

        Args:
          folder: Folder of the run.
          tensorboard: Writer of the run's event file.

        Yields:
          The number and the metrics of each iteration.
        """

    def iterations(self) -> Iterator[tuple[int, Metrics]]:
        """Trains from the learner's current iteration to the end of the run.

        Yields:
          The number and the metrics of each iteration.
        """

    def write_parts(self, folder: Path) -> None:
        """Writes the parts of a new run that cannot be loaded from elsewhere into its folder, before training."""

    def save_extra(self, folder: Path) -> None:
        """Writes further data of a checkpoint, besides `state`, into the checkpoint's folder."""

    def restore_extra(self, folder: Path) -> None:
        """Restores the data that `save_extra` wrote."""

    def draw(self, folder: Path) -> None:
        """Draws the pictures of a finished run into its folder."""

    def judge(self, size: int, seed: int) -> Evaluation:
        """Evaluates the policy.

        Args:
          size: Number of episodes or prompts.
          seed: Seed of the episodes or samples.

        Returns:
          The evaluation.
        """

    def describe(self, evaluation: Evaluation) -> str:
        """Describes an evaluation in a few lines."""

    def record(self, folder: Path, seed: int) -> None:
        """Writes recordings, such as a video, into the run's folder, or prints why there are none."""

    def farewell(self, folder: Path) -> str:
        """Returns the last lines that a finished run prints: its files, and useful commands."""

    def export(self, folder: Path, form: str | None = None) -> str:
        """Writes the policy into a folder for use without tfppo.

        Args:
          folder: Folder of the export. An earlier export there is replaced.
          form: Form of the export, if the application has several. None: the usual one.

        Returns:
          A line that explains how to use it.
        """

    def close(self) -> None:
        """Releases resources such as environments. It may be called twice."""


class ExistingRun(NamedTuple):
    """An existing run, for which a trainer is made."""

    folder: Path
    given: Mapping[str, object]  # parts of the run that the user gave, by name, such as "reward"; None: not given
    trains: bool = False  # False: the trainer evaluates, generates or exports only
    scores: bool = True  # False: the trainer generates or exports only


class Application(NamedTuple, Generic[C]):
    """The parts that the driver needs to make a trainer from a run's folder."""

    kind: str  # name of the section of config.yaml that only this application has
    config_class: type[C]  # class of the settings
    make_trainer: Callable[[C, ExistingRun], Trainer]  # makes the trainer of an existing run from its settings
    always_imported: Sequence[str] = ()  # settings that name modules which also a trainer that scores nothing imports
