"""The command line: `tfppo ...`, read by tyro from the config dataclasses."""

import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, subcommand

from tfppo import runs
from tfppo.config import ControlConfig, ControlRun, PPOConfig, RunConfig
from tfppo.control.recipes import control_run
from tfppo.errors import UsageError
from tfppo.parsing import parse
from tfppo.startup import import_tensorflow, seconds_since_start
from tfppo.text.config import PretrainConfig, RewardModelConfig, TextConfig, TextRun, text_run


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
    """Train on any gymnasium environment: --env ID. Those that are known bring tuned defaults."""

    run: RunConfig = field(default_factory=lambda: _control.run)
    control: ControlConfig = field(default_factory=lambda: _control.control)
    ppo: PPOConfig = field(default_factory=lambda: _control.ppo)

    @property
    def task(self) -> str:
        return re.sub(r"[^A-Za-z0-9_.-]+", "-", self.control.env)


@dataclass(frozen=True)
class TrainText:
    """Tune a language model by PPO: --task NAME, or a Python reward of your own. A task brings its own defaults."""

    run: RunConfig = field(default_factory=lambda: _text.run)
    text: TextConfig = field(default_factory=lambda: _text.text)
    ppo: PPOConfig = field(default_factory=lambda: _text.ppo)

    def __call__(self) -> None:
        config = TextRun(self.run, self.text, self.ppo)
        import_tensorflow()
        from tfppo.text import run

        run.train_text(config, seconds_since_start())


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


@dataclass(frozen=True)
class Pretrain:
    """Train a language model on the corpus by maximum likelihood; its preset is what `train text` starts from."""

    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    name: str | None = None
    """Name of the run's folder; None: pretrain, the model and the seed."""
    runs_dir: Path = Path("runs")
    """Folder that holds the runs."""

    def __call__(self) -> None:
        import_tensorflow()
        from tfppo.text.pretrain import pretrain_run

        pretrain_run(self.pretrain, self.name, self.runs_dir)


@dataclass(frozen=True)
class RewardModel:
    """Train the reward model of the sentiment task on people's ratings."""

    reward_model: RewardModelConfig = field(default_factory=RewardModelConfig)
    preset: Path | None = None
    """Folder of the pretrained language model that it starts from; None: the one that is shipped."""
    name: str | None = None
    """Name of the run's folder; None: reward-model and the seed."""
    runs_dir: Path = Path("runs")
    """Folder that holds the runs."""

    def __call__(self) -> None:
        import_tensorflow()
        from tfppo.text.preferences import reward_model_run

        reward_model_run(self.reward_model, self.preset, self.name, self.runs_dir)


@dataclass(frozen=True)
class Evaluate:
    """Judge a run's latest checkpoint: greedy episodes (control), or held-out prompts beside the reference (text)."""

    folder: Positional[Path]
    """The run's folder."""
    episodes: int = 100
    """Control: how many episodes."""
    prompts: int = 200
    """Text: how many prompts."""
    seed: int | None = None
    """Seed of the episodes or the samples; None: the run's."""
    video_episodes: int = 0
    """Control: greedy episodes, the first ones, that are recorded as the run's video.gif; 10 at most; 0: none."""

    def __call__(self) -> None:
        for name in ("episodes", "prompts"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        is_text = runs.is_text(self.folder)
        import_tensorflow()
        from tfppo.control import run as control
        from tfppo.text import run as text

        if is_text:
            print(text.describe(text.evaluate(self.folder, self.prompts, self.seed)))
        else:
            print(control.describe(control.evaluate(self.folder, self.episodes, self.seed, self.video_episodes)))


@dataclass(frozen=True)
class Generate:
    """Let a tuned language model go on from a prompt."""

    folder: Positional[Path]
    """The run's folder."""
    prompt: UseAppendAction[tuple[str, ...]] = ()
    """What it goes on from; may be given several times."""
    samples: int = 1
    """Responses for each prompt."""
    temperature: float = 1.0
    """0: always the most probable token."""
    top_k: int | None = None
    """Draw among the k most probable tokens only."""
    top_p: float | None = None
    """Draw among the most probable tokens that together have this probability."""
    seed: int = 0
    """Seed of the samples."""

    def __post_init__(self):
        if not self.prompt:
            raise UsageError("there is no prompt: give one with --prompt 'This film'")
        for name, least in (("samples", 1), ("temperature", 0), ("top_k", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise UsageError(f"{name} must be at least {least}, not {value}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UsageError(f"top_p must be above 0 and at most 1, not {self.top_p}")

    def __call__(self) -> None:
        if not runs.is_text(self.folder):
            raise UsageError(f"{self.folder} is a control run: generate takes a text run")
        import_tensorflow()
        from tfppo.text import run

        options = {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p, "seed": self.seed}
        responses = run.generate(self.folder, list(self.prompt), samples=self.samples, **options)
        prompts = [prompt for prompt in self.prompt for _ in range(self.samples)]
        for prompt, response in zip(prompts, responses, strict=True):
            print(prompt + response)


@dataclass(frozen=True)
class Resume:
    """Go on with a run from its latest checkpoint."""

    folder: Positional[Path]
    """The run's folder."""

    def __call__(self) -> None:
        is_text = runs.is_text(self.folder)
        import_tensorflow()
        from tfppo.control import run as control
        from tfppo.text import run as text

        (text if is_text else control).resume(self.folder, seconds_since_start())


_control, _text = control_run(), text_run()  # the defaults of the environment and the task that are asked for

Command = (
    Annotated[Train, subcommand("train")]
    | Annotated[Pretrain, subcommand("pretrain")]
    | Annotated[RewardModel, subcommand("reward-model")]
    | Annotated[Generate, subcommand("generate")]
    | Annotated[Resume, subcommand("resume")]
    | Annotated[Evaluate, subcommand("evaluate")]
)


def main(arguments: list[str] | None = None) -> int:
    """Runs a command line; returns its exit code. What the user can mend is one line on stderr, and 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        _use_defaults_of_what_is_asked_for(arguments)
        try:
            parse(Command, arguments)()
        finally:
            sys.stdout.flush()  # here, where a closed pipe is no stack trace
    except UsageError as error:
        print(f"tfppo: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `tfppo ... | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as a shell says it of SIGPIPE
    except KeyboardInterrupt:
        print("tfppo: interrupted", file=sys.stderr)
        return 130
    return 0


def _use_defaults_of_what_is_asked_for(arguments: list[str]) -> None:
    """What `train ... --help` shows, and what is not given, are the settings of the environment or task that is."""
    global _control, _text
    _control, _text = control_run(), text_run()
    env, task = _given(arguments, "--env"), _given(arguments, "--task")
    if arguments[:2] == ["train", "control"] and env:
        _control = control_run(env)
    if arguments[:2] == ["train", "text"] and task:
        from tfppo.text.tasks import get_task

        _text = text_run(task=task, **get_task(task).defaults)


def _given(arguments: list[str], option: str) -> str | None:
    """The last value of an option, given as "--option value" or "--option=value"."""
    values = [value for name, value in zip(arguments, arguments[1:], strict=False) if name == option]
    values += [argument.removeprefix(f"{option}=") for argument in arguments if argument.startswith(f"{option}=")]
    return values[-1] if values else None


if __name__ == "__main__":
    sys.exit(main())
