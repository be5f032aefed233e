"""The command line: `tfppo ...`, read by tyro from the config dataclasses."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import FlagConversionOff, OmitArgPrefixes, OmitSubcommandPrefixes, Positional, subcommand

from tfppo.config import ControlConfig, ControlRun, PPOConfig, RunConfig
from tfppo.errors import UsageError
from tfppo.startup import import_tensorflow, seconds_since_start


@dataclass(frozen=True)
class TrainCartpole:
    """Train on CartPole-v1 and evaluate the greedy policy on gymnasium's own."""

    run: RunConfig = field(default_factory=RunConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)

    task = "cartpole"

    def __call__(self) -> None:
        config = ControlRun(self.run, self.control, self.ppo)
        import_tensorflow()
        from tfppo.control import run

        run.train(config, self.task, seconds_since_start())


@dataclass(frozen=True)
class TrainControl(TrainCartpole):
    """Train on any gymnasium environment with Box observations and Discrete actions: --env ID."""

    @property
    def task(self) -> str:
        return re.sub(r"[^A-Za-z0-9_.-]+", "-", self.control.env)


@dataclass(frozen=True)
class Train:
    """Train a policy."""

    job: Annotated[TrainCartpole, subcommand("cartpole")] | Annotated[TrainControl, subcommand("control")]

    def __call__(self) -> None:
        self.job()


@dataclass(frozen=True)
class Evaluate:
    """Play greedy episodes with a run's latest checkpoint."""

    folder: Positional[Path]
    """The run's folder."""
    episodes: int = 100
    """How many episodes."""
    seed: int | None = None
    """Seed of the episodes; None: the run's."""

    def __call__(self) -> None:
        if self.episodes < 1:
            raise UsageError(f"episodes must be at least 1, not {self.episodes}")
        import_tensorflow()
        from tfppo.control import run

        print(run.describe(run.evaluate(self.folder, self.episodes, self.seed)))


@dataclass(frozen=True)
class Resume:
    """Go on with a run from its latest checkpoint."""

    folder: Positional[Path]
    """The run's folder."""

    def __call__(self) -> None:
        import_tensorflow()
        from tfppo.control import run

        run.resume(self.folder, seconds_since_start())


Command = (
    Annotated[Train, subcommand("train")]
    | Annotated[Resume, subcommand("resume")]
    | Annotated[Evaluate, subcommand("evaluate")]
)


def main(arguments: list[str] | None = None) -> int:
    """Runs a command line; returns its exit code. What the user can mend is one line on stderr, and 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        _parse(arguments)()
    except UsageError as error:
        print(f"tfppo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("tfppo: interrupted", file=sys.stderr)
        return 130
    return 0


def _parse(arguments: list[str]) -> Any:
    held = io.StringIO()
    try:
        with _drawn_plainly(held):
            return _read(arguments)
    except SystemExit as end:
        if end.code in (0, None):
            return _read(arguments)  # help was asked for: again, drawn for the terminal
        raise UsageError(_one_line(held.getvalue())) from None


def _read(arguments: list[str]) -> Any:
    return tyro.cli(
        Command,
        prog="tfppo",
        description="PPO for control and for language models in TensorFlow 2 and Keras 3.",
        args=arguments,
        config=(OmitArgPrefixes, OmitSubcommandPrefixes, FlagConversionOff),
    )


@contextlib.contextmanager
def _drawn_plainly(held: io.StringIO) -> Iterator[None]:
    """What is printed goes into `held`, without colours and in lines too long to be broken."""
    columns = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100000"
    try:
        with contextlib.redirect_stderr(held), contextlib.redirect_stdout(held):
            yield
    finally:
        if columns is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = columns


def _one_line(box: str) -> str:
    """The sentences inside the box that tyro draws around an error: its title, rules and edges are left out."""
    lines = [line.strip().strip("│|").strip() for line in box.splitlines()[1:]]
    text = " ".join(line for line in lines if line.strip("╰╯─+-"))
    text = re.sub(r"Error parsing __tyro-dummy-inner__\S*: ", "", text)
    return re.sub(r"\s*For full helptext, (see|run):? ", "; help: ", text)


if __name__ == "__main__":
    sys.exit(main())
