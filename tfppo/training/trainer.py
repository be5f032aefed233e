"""Seams between the driver, which every run shares, and the applications, which it knows nothing of."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

import tensorflow as tf

from tfppo.execution.replicas import Replicas
from tfppo.ppo.config import PPOConfig
from tfppo.ppo.learner import PPOLearner
from tfppo.reporting.tensorboard import TensorBoardWriter
from tfppo.training.config import RunConfig

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
else:

    class DataclassInstance(Protocol):
        """A dataclass."""


Metrics = Mapping[str, float]
"""A row: a number for each name of `reporting.metrics.METRICS` that an application has."""
Evaluation = dict[str, object]
"""What evaluation.json holds."""


class Rollout(Protocol):
    """One element of the on-policy dataset."""

    @property
    def metrics(self) -> Mapping[str, tf.Tensor]:
        """Scalars, named as in `reporting.metrics.METRICS`."""


class Collector(Protocol):
    """Lets the current policy act."""

    def collect(self, iteration: tf.Tensor, *prompts: tf.Tensor) -> Rollout:
        """Collects rollout number `iteration` (int64 scalar); TensorFlow can trace it."""

    def raising_own_errors(self) -> AbstractContextManager[None]:
        """Inside, a failure on the host is the exception that was raised there, and no report of TensorFlow's."""


class RunSettings(DataclassInstance, Protocol):
    """The settings of a run, whatever it trains: a frozen dataclass with these parts, and some of its own."""

    @property
    def run(self) -> RunConfig: ...

    @property
    def ppo(self) -> PPOConfig: ...


C = TypeVar("C", bound=RunSettings)


class Display(NamedTuple):
    """The metrics by which a run is watched and judged, by name."""

    columns: Mapping[str, str]  # of the console, and what they are called there
    step: str | None  # horizontal axis of TensorBoard and the count on the console; None: iterations
    scores: Sequence[str]  # beside the settings on TensorBoard's HPARAMS page
    score: str  # says how well the policy does
    kl: str  # what `ppo.adaptive_kl_target` is about
    best: str  # by which the best checkpoint is chosen
    has_choices: bool  # whether actions are discrete, so that an entropy near 0 means that nothing is tried any more


class Trainer(Protocol):
    """An application as the driver sees it: what is trained, how it is watched, judged, kept and handed over."""

    device: str  # "/CPU:0" or "/GPU:0"
    device_reason: str
    replicas: Replicas
    learner: PPOLearner
    compile_seconds: float  # until the first iteration was done

    @property
    def config(self) -> RunSettings:
        """The settings that a resumed run goes on with: "auto" is what it stood for."""

    @property
    def name(self) -> str:
        """Begins the name of the run's folder, unless the user gives one."""

    @property
    def subject(self) -> str:
        """What is trained, in a line."""

    @property
    def modes(self) -> Mapping[str, str]:
        """How each program is compiled, by what it does."""

    @property
    def display(self) -> Display:
        """What is shown of the metrics."""

    @property
    def iteration(self) -> int:
        """Iterations that are done."""

    @property
    def num_iterations(self) -> int:
        """Iterations of the whole run."""

    @property
    def next_step(self) -> int:
        """The first step on TensorBoard's axis that is not done yet."""

    @property
    def metrics(self) -> Metrics:
        """What `is_solved` looks at, as it stands between two iterations."""

    @property
    def weights(self) -> Sequence[tf.Variable]:
        """The weights of the models in a fixed order, without seeds of dropout."""

    @property
    def state(self) -> dict[str, object]:
        """Everything that the run needs to go on, by name, as `execution.variables.named_variables` takes it."""

    @property
    def eval_size(self) -> int:
        """Episodes or prompts of the evaluation at the end; 0: none."""

    def is_solved(self, metrics: Metrics) -> bool:
        """Whether a goal that ends the run early is reached."""

    def recorded_iterations(self, folder: Path, tensorboard: TensorBoardWriter) -> Iterator[tuple[int, Metrics]]:
        """Trains as `iterations`, and writes what the application alone has into the folder and to TensorBoard."""

    def iterations(self) -> Iterator[tuple[int, Metrics]]:
        """Trains from where the learner is to the end of the run; yields each iteration's number and metrics."""

    def save_extra(self, folder: Path) -> None:
        """Writes what a checkpoint holds besides `state` into its folder."""

    def restore_extra(self, folder: Path) -> None:
        """Goes on from what `save_extra` wrote."""

    def draw(self, folder: Path) -> None:
        """Draws the pictures of a finished run into its folder."""

    def judge(self, size: int, seed: int) -> Evaluation:
        """Evaluates the policy on so many episodes or prompts."""

    def describe(self, evaluation: Evaluation) -> str:
        """Tells an evaluation in a few lines."""

    def record(self, folder: Path, seed: int) -> None:
        """Leaves a video or the like in the folder, or says why there is none."""

    def farewell(self, folder: Path) -> str:
        """Says what a finished run's folder holds, and what can be done with it."""

    def export(self, folder: Path) -> str:
        """Writes the policy into a folder for use elsewhere; returns a line that says how to use it."""

    def close(self) -> None:
        """Ends what training needed (environments); may be called twice."""


class Application(NamedTuple, Generic[C]):
    """What the driver needs to make a trainer of a run's folder."""

    kind: str  # the section of config.yaml that only its runs have
    config_class: type[C]  # of the settings
    imported: str  # the setting that may name a module of the user's, and its option
    make_trainer: Callable[[C], Trainer]  # of the settings
