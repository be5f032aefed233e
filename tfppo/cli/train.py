"""`tfppo train`: a policy for control, or for a language model."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg, subcommand

from tfppo.cli.seeds import parse_seeds, train_seeds
from tfppo.cli.startup import import_tensorflow, seconds_since_start, tell_whom_it_waits_for
from tfppo.control.config import ControlConfig, ControlRunConfig
from tfppo.control.recipes import make_control_config
from tfppo.errors import UsageError
from tfppo.execution.tf_config import read_cluster
from tfppo.ppo.config import PPOConfig
from tfppo.text.config import TextConfig, TextRunConfig, make_text_config
from tfppo.training import run_folder
from tfppo.training.config import RunConfig


@dataclass(frozen=True)
class _Training:
    """One run, or one for each of several seeds."""

    seeds: Annotated[str | None, arg(metavar="1,2,3")] = None
    """Seeds in place of --seed: a run for each, one after the other, then a table and a picture; None: one run."""

    def __post_init__(self):
        if self.seeds is not None:
            parse_seeds(self.seeds)

    def _wait(self, run: RunConfig) -> None:
        if run.distribute in ("auto", "multiworker"):
            cluster = read_cluster()
            if self.seeds is not None and cluster is not None and len(cluster.workers) > 1:
                raise UsageError("--seeds is for one process, and TF_CONFIG names several: start a run for each --seed")
            tell_whom_it_waits_for()

    def _train(self, train: Callable[[Any, float], Path], config: Any, task: str) -> None:
        if self.seeds is None:
            train(config, seconds_since_start())
        else:
            train_seeds(train, config, parse_seeds(self.seeds), task)


@dataclass(frozen=True)
class TrainCartpole(_Training):
    """Train on CartPole-v1 and evaluate the greedy policy on gymnasium's own."""

    run: RunConfig = field(default_factory=RunConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)

    task = "cartpole"

    def __call__(self) -> None:
        config = ControlRunConfig(self.run, self.control, self.ppo)
        self._wait(self.run)
        import_tensorflow()
        from tfppo.control import run

        self._train(lambda config, seconds: run.train(config, self.task, seconds), config, self.task)


@dataclass(frozen=True)
class ControlSettings:
    """A control run's settings; what is not given is that of the environment's recipe."""

    run: RunConfig = field(default_factory=lambda: _control.run)
    control: ControlConfig = field(default_factory=lambda: _control.control)
    ppo: PPOConfig = field(default_factory=lambda: _control.ppo)


@dataclass(frozen=True)
class TrainControl(ControlSettings, TrainCartpole):
    """Train on any gymnasium environment: --env ID, or one of your own that a module registers: --env module:ID. Those
    that are known bring tuned defaults."""

    @property
    def task(self) -> str:
        return run_folder.folder_name(self.control.env)


@dataclass(frozen=True)
class TrainText(_Training):
    """Tune a language model by PPO: --task NAME, or a Python reward of your own. A task brings its own defaults."""

    run: RunConfig = field(default_factory=lambda: _text.run)
    text: TextConfig = field(default_factory=lambda: _text.text)
    ppo: PPOConfig = field(default_factory=lambda: _text.ppo)

    def __call__(self) -> None:
        config = TextRunConfig(self.run, self.text, self.ppo)
        self._wait(self.run)
        import_tensorflow()
        from tfppo.text import run

        self._train(run.train_text, config, self.text.task)


@dataclass(frozen=True)
class Train:
    """Train a policy."""

    job: (
        Annotated[TrainCartpole, subcommand("cartpole")]
        | Annotated[TrainControl, subcommand("control")]
        | Annotated[TrainText, subcommand("text")]
    )

    def __call__(self) -> None:
        self.job()


_control, _text = (
    make_control_config(),
    make_text_config(),
)  # the defaults of the environment and the task that are asked for


def use_defaults_of_what_is_asked_for(arguments: list[str]) -> None:
    """What `train ... --help` and `bench --help` show, and what is not given, are the settings of the environment or
    task that is.

    Raises:
      UsageError: if --seed and --seeds are both given: which defaults do not show any more once they are read.
    """
    global _control, _text
    if arguments[:1] == ["train"] and None not in (_given(arguments, "--seed"), _given(arguments, "--seeds")):
        raise UsageError("--seed is for one run, --seeds for several: give one of them")
    _control, _text = make_control_config(), make_text_config()
    env, task = _given(arguments, "--env"), _given(arguments, "--task")
    if env and (arguments[:2] == ["train", "control"] or arguments[:1] == ["bench"]):
        _control = make_control_config(env)
    if arguments[:2] == ["train", "text"] and task:
        from tfppo.text.tasks import get_task

        _text = make_text_config(task=task, **get_task(task).defaults)


def _given(arguments: list[str], option: str) -> str | None:
    """The last value of an option, given as "--option value" or "--option=value"."""
    values = [value for name, value in zip(arguments, arguments[1:], strict=False) if name == option]
    values += [argument.removeprefix(f"{option}=") for argument in arguments if argument.startswith(f"{option}=")]
    return values[-1] if values else None
