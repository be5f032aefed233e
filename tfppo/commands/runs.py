"""What is done with runs' folders: `tfppo evaluate`, `generate`, `export`, `resume`, `plot`."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from tyro.conf import Positional, UseAppendAction

from tfppo import runs
from tfppo.errors import UsageError
from tfppo.startup import import_tensorflow, seconds_since_start, tell_whom_it_waits_for


@dataclass(frozen=True)
class Evaluate:
    """Judge a run's checkpoint: greedy episodes (control), or held-out prompts beside the reference (text)."""

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
    checkpoint: str = "latest"
    """Which of its checkpoints: latest, best (by training's mean return or reward), or an iteration's number."""
    reward: str | None = None
    """Text: the run's own package.module:function, which is imported only if you name it; None: the task's."""
    env: str | None = None
    """Control: the run's environment, where it is module:id, which is imported only if you name it."""

    def __call__(self) -> None:
        for name in ("episodes", "prompts"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        is_text, run = _application(self.folder, reward=self.reward, env=self.env)
        if is_text:
            options, named = (self.prompts, self.seed), {"reward": self.reward}
        else:
            options, named = (self.episodes, self.seed, self.video_episodes), {"env": self.env}
        print(run.describe(run.evaluate(self.folder, *options, checkpoint=self.checkpoint, **named)))


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
    checkpoint: str = "latest"
    """Which of its checkpoints: latest, best (by training's mean return or reward), or an iteration's number."""

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
        options["checkpoint"] = self.checkpoint
        responses = run.generate(self.folder, list(self.prompt), samples=self.samples, **options)
        prompts = [prompt for prompt in self.prompt for _ in range(self.samples)]
        for prompt, response in zip(prompts, responses, strict=True):
            print(prompt + response)


@dataclass(frozen=True)
class Export:
    """Write a run's policy into its folder export, for use elsewhere: a SavedModel (control) or a preset (text)."""

    folder: Positional[Path]
    """The run's folder."""
    checkpoint: str = "latest"
    """Which of its checkpoints: latest, best (by training's mean return or reward), or an iteration's number."""
    env: str | None = None
    """Control: the run's environment, where it is module:id, which is imported only if you name it."""

    def __call__(self) -> None:
        is_text, run = _application(self.folder, env=self.env)
        run.export(self.folder, self.checkpoint, **({} if is_text else {"env": self.env}))


@dataclass(frozen=True)
class Resume:
    """Go on with a run from its latest checkpoint."""

    folder: Positional[Path]
    """The run's folder."""
    reward: str | None = None
    """Text: the run's own package.module:function, which is imported only if you name it; None: the task's."""
    env: str | None = None
    """Control: the run's environment, where it is module:id, which is imported only if you name it."""

    def __call__(self) -> None:
        tell_whom_it_waits_for()
        is_text, run = _application(self.folder, reward=self.reward, env=self.env)
        run.resume(self.folder, seconds_since_start(), self.reward if is_text else self.env)


@dataclass(frozen=True)
class Plot:
    """Draw runs side by side: those that differ only in their seed are one line, their mean, with a band of one
    sample standard deviation (n - 1)."""

    folders: Positional[tuple[Path, ...]] = ()
    """The runs' folders, all of control or all of text."""
    out: Path = Path("plot.png")
    """The picture, a PNG, SVG or PDF by its ending; one that exists is overwritten, but never a run's own."""
    metric: str | None = None
    """A column of metrics.csv; None: the mean return (control), the mean score and the KL (text)."""

    def __call__(self) -> None:
        from tfppo.comparison import plot_runs

        groups = plot_runs(self.folders, self.out, self.metric)
        for group in groups:
            print(f"{group.label or 'all'}: {', '.join(map(str, group.folders))}")
        print(f"{self.out} shows them")


def _application(folder: Path, reward: str | None = None, env: str | None = None) -> tuple[bool, ModuleType]:
    """Whether a run is one of text, and the module that runs its kind: the other is not imported.

    Raises UsageError, before TensorFlow is imported, if the folder is no run, or an option is for the other kind.
    """
    is_text = runs.is_text(folder)
    if (env if is_text else reward) is not None:
        kind, option = ("text", "env") if is_text else ("control", "reward")
        raise UsageError(f"{folder} is a {kind} run, which has no {option}: leave --{option} out")
    import_tensorflow()
    return is_text, importlib.import_module("tfppo.text.run" if is_text else "tfppo.control.run")
