"""Defines the commands `tfppo train cartpole`, `tfppo train control` and `tfppo train text`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from tfppo.cli.seeds import Settings, parse_seeds, train_seeds
from tfppo.cli.startup import import_tensorflow, seconds_since_start, tell_whom_it_waits_for
from tfppo.control.config import ControlConfig, ControlRunConfig
from tfppo.errors import UsageError
from tfppo.execution.tf_config import read_cluster
from tfppo.ppo.config import PPOConfig
from tfppo.text.config import TEXT_PPO, TextConfig, TextRunConfig
from tfppo.training import run_folder
from tfppo.training.config import RunConfig

CARTPOLE = "CartPole-v1"


@dataclass(frozen=True)
class _Training:
    """Trains one run, or one run for each of several seeds."""

    seeds: Annotated[str | None, arg(metavar="1,2,3")] = None
    """Several seeds instead of --seed, separated by commas. None: one run with --seed.
    One run is trained per seed, one after the other. A table and a picture summarize the runs."""

    def __post_init__(self) -> None:
        if self.seeds is not None:
            parse_seeds(self.seeds)

    def _wait(self, run: RunConfig) -> None:
        if run.distribute in ("auto", "multiworker"):
            cluster = read_cluster()
            if self.seeds is not None and cluster is not None and len(cluster.workers) > 1:
                raise UsageError(
                    "--seeds is given and TF_CONFIG names several workers, but --seeds works only in one process: "
                    "start one run per seed with --seed"
                )
            tell_whom_it_waits_for()

    def _train(self, train: Callable[[Settings, float], Path | None], config: Settings, task: str) -> None:
        if self.seeds is None:
            train(config, seconds_since_start())
        else:
            train_seeds(train, config, parse_seeds(self.seeds), task)


@dataclass(frozen=True)
class ControlSettings:
    """The settings of a control run."""

    run: RunConfig = field(default_factory=RunConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)


@dataclass(frozen=True)
class TrainCartpole(ControlSettings, _Training):
    """Train on CartPole-v1, then evaluate the greedy policy on Gymnasium's CartPole-v1."""

    @property
    def task(self) -> str:
        """First part of the name of the run's folder."""
        return "cartpole"

    def __call__(self) -> None:
        """Trains one run, or one run per seed.

        Raises:
          UsageError: If a setting is invalid, or a folder cannot be used.
        """
        config = ControlRunConfig(self.run, self.control, self.ppo)
        if type(self) is TrainCartpole and self.control.env != CARTPOLE:
            raise UsageError(
                f"env is {self.control.env}; train cartpole allows only {CARTPOLE}, for which its settings are: use "
                f"tfppo train control --env {self.control.env}"
            )
        if type(self) is TrainCartpole and self.control.recipe is not None:
            raise UsageError(
                f"recipe is {self.control.recipe}; train cartpole has settings of its own: use tfppo train control "
                f"--env {CARTPOLE} --recipe {self.control.recipe}"
            )
        self._wait(self.run)
        import_tensorflow(self.run.onednn)
        from tfppo.control import run

        self._train(lambda config, seconds: run.train_control(config, self.task, seconds), config, self.task)


@dataclass(frozen=True)
class TrainControl(TrainCartpole):
    """Train on any Gymnasium environment.

    Give --env ID, or --env module:ID for an environment that your own module registers. Some environments have tuned
    defaults: --env ID --help shows those of ID. Without --env, the defaults are those of CartPole-v1.
    """

    @property
    def task(self) -> str:
        """First part of the name of the run's folder."""
        return run_folder.folder_name(self.control.env)


@dataclass(frozen=True)
class TrainText(_Training):
    """Tune a language model with PPO.

    Give --task NAME, or --reward package.module:function for your own reward. Each task has its own
    defaults: --task NAME --help shows them.
    """

    run: RunConfig = field(default_factory=RunConfig)
    text: TextConfig = field(default_factory=TextConfig)
    ppo: PPOConfig = TEXT_PPO

    def __call__(self) -> None:
        """Trains one run, or one run per seed.

        Raises:
          UsageError: If a setting is invalid, or a folder cannot be used.
        """
        config = TextRunConfig(self.run, self.text, self.ppo)
        self._wait(self.run)
        import_tensorflow(self.run.onednn, language_model=True)
        from tfppo.text import run

        self._train(run.train_text, config, self.text.task or (self.text.prompts.stem if self.text.prompts else "text"))
