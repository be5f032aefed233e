"""What is done with runs' folders: `tfppo evaluate`, `generate`, `export`, `resume`, `plot`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Interval
from tyro.conf import Positional, UseAppendAction

from tfppo.cli.startup import import_tensorflow, seconds_since_start, tell_whom_it_waits_for
from tfppo.errors import UsageError
from tfppo.settings import Count, CountOrNone, NotNegative, Seed, SeedOrNone, check_fields
from tfppo.training import run_folder


@dataclass(frozen=True)
class Evaluate:
    """Judge a run's checkpoint: greedy episodes (control), or held-out prompts beside the reference (text)."""

    folder: Positional[Path]
    """The run's folder."""
    episodes: CountOrNone = None
    """Control: how many episodes; None: 100."""
    prompts: CountOrNone = None
    """Text: how many prompts; None: 200."""
    seed: SeedOrNone = None
    """Seed of the episodes or the samples; None: the run's."""
    video_episodes: int | None = None
    """Control: greedy episodes of their own that are recorded as the run's video.gif, 10 at most; None or 0: none."""
    checkpoint: str = "latest"
    """Which of its checkpoints: latest, best (by training's mean return or reward), or an iteration's number."""
    reward: str | None = None
    """Text: the run's own package.module:function, which is imported only if you name it; None: the task's."""
    env: str | None = None
    """Control: the run's environment, where it is module:id, which is imported only if you name it."""

    def __call__(self) -> None:
        kind = _kind(
            self.folder,
            control={"episodes": self.episodes, "video_episodes": self.video_episodes, "env": self.env},
            text={"prompts": self.prompts, "reward": self.reward},
        )
        check_fields(self)
        application = _application(kind)
        if kind == "text":
            size, named, settings = _or(self.prompts, 200), self.reward, {}
        else:
            size, named, settings = _or(self.episodes, 100), self.env, {"video_episodes": _or(self.video_episodes, 0)}
        from tfppo.training.driver import evaluate

        _, told = evaluate(application, self.folder, size, self.seed, self.checkpoint, named, **settings)
        print(told)


@dataclass(frozen=True)
class Generate:
    """Let a tuned language model go on from a prompt."""

    folder: Positional[Path]
    """The run's folder."""
    prompt: UseAppendAction[tuple[str, ...]] = ()
    """What it goes on from; may be given several times."""
    samples: Count = 1
    """Responses for each prompt."""
    temperature: NotNegative = 1.0
    """0: always the most probable token."""
    top_k: CountOrNone = None
    """Draw among the k most probable tokens only."""
    top_p: Annotated[float | None, Interval(gt=0, le=1)] = None
    """Draw among the most probable tokens that together have this probability."""
    seed: Seed = 0
    """Seed of the samples."""
    checkpoint: str = "latest"
    """Which of its checkpoints: latest, best (by training's mean return or reward), or an iteration's number."""

    def __post_init__(self) -> None:
        if not self.prompt:
            raise UsageError("there is no prompt: give one with --prompt 'This film'")
        check_fields(self)

    def __call__(self) -> None:
        if run_folder.kind_of(self.folder) != "text":
            raise UsageError(f"{self.folder} is a control run: generate takes a text run")
        import_tensorflow()
        from tfppo.text import run

        responses = run.generate(
            self.folder,
            list(self.prompt),
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            seed=self.seed,
            samples=self.samples,
            checkpoint=self.checkpoint,
        )
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
        kind = _kind(self.folder, control={"env": self.env})
        import_tensorflow()
        if kind == "text":
            from tfppo.text.run import export as export_text

            export_text(self.folder, self.checkpoint)
        else:
            from tfppo.control.run import export as export_control

            export_control(self.folder, self.checkpoint, self.env)


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
        kind = _kind(self.folder, control={"env": self.env}, text={"reward": self.reward})
        application = _application(kind)
        from tfppo.training.driver import resume

        resume(application, self.folder, seconds_since_start(), self.reward if kind == "text" else self.env)


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
        from tfppo.cli.comparison import plot_runs

        groups = plot_runs(self.folders, self.out, self.metric)
        for group in groups:
            print(f"{group.label or 'all'}: {', '.join(map(str, group.folders))}")
        print(f"{self.out} shows them")


def _kind(folder: Path, **options: dict[str, Any]) -> str:
    """What a run trains, given the options that are for one kind of run alone, by kind; None: not given.

    Raises:
      UsageError: if the folder is no run, or an option is for the other kind.
    """
    kind = run_folder.kind_of(folder)
    for other, given in options.items():
        for name, value in given.items():
            if other != kind and value is not None:
                option = "--" + name.replace("_", "-")
                raise UsageError(f"{folder} is a {kind} run, which has no {name}: leave {option} out")
    return kind


def _application(kind: str) -> Any:
    """What the driver needs to know of a kind of run: the other one is not imported."""
    import_tensorflow()
    if kind == "text":
        from tfppo.text.trainer import TEXT

        return TEXT
    from tfppo.control.trainer import CONTROL

    return CONTROL


def _or(given: int | None, usual: int) -> int:
    return usual if given is None else given
