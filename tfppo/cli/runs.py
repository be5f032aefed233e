"""Defines the commands that use existing runs: `tfppo evaluate`, `generate`, `export`, `resume` and `plot`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval
from tyro.conf import Positional, UseAppendAction

from tfppo.cli.startup import import_tensorflow, seconds_since_start, tell_whom_it_waits_for
from tfppo.errors import UsageError
from tfppo.settings import Count, CountOrNone, Seed, SeedOrNone, check_fields
from tfppo.training import run_folder


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a checkpoint of a run.

    Control: plays episodes with the greedy policy and with the stochastic policy. Text: scores responses to held-out
    prompts, and compares them with those of the reference policy.
    """

    folder: Positional[Path]
    """Folder of the run."""
    episodes: CountOrNone = None
    """Control: number of episodes. None: 100."""
    prompts: CountOrNone = None
    """Text: number of prompts. None: 200."""
    seed: SeedOrNone = None
    """Seed of the episodes or samples. None: the seed of the run."""
    video_episodes: int | None = None
    """Control: number of additional greedy episodes to record as the run's video.gif, at most 10.
    None or 0: no video."""
    eval_max_steps: CountOrNone = None
    """Control: time limit of an episode, in steps. None: that of the run."""
    checkpoint: str = "latest"
    """Checkpoint to use: latest, best (of training, or of validation if it is on), or the number of an iteration."""
    task: str | None = None
    """Text: the run's own task, package.module:NAME. Importing it runs its code, so you must name it here.
    None: the run uses a task of tfppo."""
    reward: str | None = None
    """Text: the run's own reward, package.module:function. Importing it runs its code, so you must name it here.
    None: the run uses the reward of its task."""
    env: str | None = None
    """Control: the run's environment, if it is module:ID. Importing the module runs its code, so you must name it here.
    None: the environment needs no module."""
    wrappers: tuple[str, ...] = ()
    """Control: the run's wrappers that are your own, module:Class.
    Importing the module runs its code, so you must name it here. Do not name wrappers of Gymnasium."""

    def __call__(self) -> None:
        """Evaluates the checkpoint and prints the result.

        Raises:
          UsageError: If an option is invalid, the folder is not a run, or the checkpoint cannot be read.
        """
        kind = _kind(
            self.folder,
            control={
                "episodes": self.episodes,
                "video_episodes": self.video_episodes,
                "eval_max_steps": self.eval_max_steps,
                "env": self.env,
                "wrappers": self.wrappers or None,
            },
            text={"prompts": self.prompts, "task": self.task, "reward": self.reward},
        )
        check_fields(self)
        run_folder.refuse_without_policy(self.folder)
        application = _application(kind, self.folder)
        given: dict[str, object]
        settings: dict[str, object]
        if kind == "text":
            size, settings = _or(self.prompts, 200), {}
            given = {"task": self.task, "reward": self.reward}
        else:
            size, settings = _or(self.episodes, 100), {"video_episodes": _or(self.video_episodes, 0)}
            if self.eval_max_steps is not None:
                settings["eval_max_steps"] = self.eval_max_steps
            given = {"env": self.env, "wrappers": self.wrappers or None}
        from tfppo.training.driver import evaluate

        _, told = evaluate(application, self.folder, size, self.seed, self.checkpoint, given, **settings)
        print(told)


@dataclass(frozen=True)
class Generate:
    """Continue prompts with the language model of a text run."""

    folder: Positional[Path]
    """Folder of the run."""
    prompt: UseAppendAction[tuple[str, ...]] = ()
    """Text to continue. It can be given several times."""
    samples: Count = 1
    """Number of responses per prompt."""
    temperature: Annotated[float | None, Ge(0)] = None
    """Sampling temperature. 0: always the most probable token. None: the temperature of the run."""
    max_new_tokens: CountOrNone = None
    """Largest number of tokens of a response. None: the response_length of the run."""
    top_k: CountOrNone = None
    """Samples only from the k most probable tokens. None: from all tokens."""
    top_p: Annotated[float | None, Interval(gt=0, le=1)] = None
    """Samples only from the most probable tokens whose probabilities sum to this value. None: from all tokens."""
    seed: Seed = 0
    """Seed of the samples."""
    checkpoint: str = "latest"
    """Checkpoint to use: latest, best (of training, or of validation if it is on), or the number of an iteration."""
    reference: bool = False
    """Responds with the model before tuning."""

    def __post_init__(self) -> None:
        if not self.prompt:
            raise UsageError("no prompt is given: give at least one, such as --prompt 'This film'")
        check_fields(self)

    def __call__(self) -> None:
        """Prints each prompt with its responses.

        Raises:
          UsageError: If the folder is not a text run, a prompt is empty or too long, or the checkpoint cannot be read.
        """
        if run_folder.refuse_without_policy(self.folder) != "text":
            raise UsageError(f"{self.folder} is a control run; generate needs a text run: give the folder of one")
        import_tensorflow(run_folder.onednn_of(self.folder))
        from tfppo import saved_runs

        texts = saved_runs.generate(
            self.folder,
            list(self.prompt),
            temperature=self.temperature,
            max_new_tokens=self.max_new_tokens,
            top_k=self.top_k,
            top_p=self.top_p,
            seed=self.seed,
            samples=self.samples,
            checkpoint=self.checkpoint,
            reference=self.reference,
            strip_prompt=False,
        )
        print(*texts, sep="\n")


@dataclass(frozen=True)
class Export:
    """Export the policy of a run to the folder export of the run: a SavedModel (control) or a preset (text)."""

    folder: Positional[Path]
    """Folder of the run."""
    format: Literal["keras", "transformers"] | None = None
    """Text: keras for a preset of KerasHub, transformers for a folder that Hugging Face transformers loads.
    None: keras."""
    adapters_only: bool = False
    """Text: writes only the adapters of a run with lora_rank, for PEFT."""
    checkpoint: str = "latest"
    """Checkpoint to use: latest, best (of training, or of validation if it is on), or the number of an iteration."""
    env: str | None = None
    """Control: the run's environment, if it is module:ID. Importing the module runs its code, so you must name it here.
    None: the environment needs no module."""
    wrappers: tuple[str, ...] = ()
    """Control: the run's wrappers that are your own, module:Class.
    Importing the module runs its code, so you must name it here. Do not name wrappers of Gymnasium."""

    def __call__(self) -> None:
        """Exports the policy and prints how to load it.

        Raises:
          UsageError: If the folder is not a run or cannot be written to, or the checkpoint cannot be read.
        """
        text = {"format": self.format, "adapters_only": self.adapters_only or None}
        _kind(self.folder, control={"env": self.env, "wrappers": self.wrappers or None}, text=text)
        run_folder.refuse_without_policy(self.folder)
        import_tensorflow(run_folder.onednn_of(self.folder))
        from tfppo import saved_runs

        saved_runs.export(
            self.folder,
            format=self.format,
            adapters_only=self.adapters_only,
            checkpoint=self.checkpoint,
            env=self.env,
            wrappers=self.wrappers,
        )


@dataclass(frozen=True)
class Resume:
    """Resume a run from its latest checkpoint. A finished run is only evaluated again."""

    folder: Positional[Path]
    """Folder of the run."""
    task: str | None = None
    """Text: the run's own task, package.module:NAME. Importing it runs its code, so you must name it here.
    None: the run uses a task of tfppo."""
    reward: str | None = None
    """Text: the run's own reward, package.module:function. Importing it runs its code, so you must name it here.
    None: the run uses the reward of its task."""
    env: str | None = None
    """Control: the run's environment, if it is module:ID. Importing the module runs its code, so you must name it here.
    None: the environment needs no module."""
    wrappers: tuple[str, ...] = ()
    """Control: the run's wrappers that are your own, module:Class.
    Importing the module runs its code, so you must name it here. Do not name wrappers of Gymnasium."""

    def __call__(self) -> None:
        """Resumes the run.

        Raises:
          UsageError: If the folder is not a run or is in use, or its latest checkpoint is damaged.
        """
        tell_whom_it_waits_for()
        _kind(
            self.folder,
            control={"env": self.env, "wrappers": self.wrappers or None},
            text={"task": self.task, "reward": self.reward},
        )
        import_tensorflow(run_folder.onednn_of(self.folder))
        from tfppo import saved_runs

        seconds = seconds_since_start()
        saved_runs.resume(
            self.folder,
            task=self.task,
            reward=self.reward,
            env=self.env,
            wrappers=self.wrappers,
            import_seconds=seconds,
        )


@dataclass(frozen=True)
class Plot:
    """Plot several runs in one picture.

    Runs that differ only in their seed are drawn as their mean, with a band of one sample standard deviation (n - 1) on
    each side.
    """

    folders: Positional[tuple[Path, ...]] = ()
    """Folders of the runs, either all of control or all of text."""
    out: Path = Path("plot.png")
    """Picture to write. Its ending selects the format: .png, .svg or .pdf.
    An existing file is overwritten, unless it is a picture that belongs to a run."""
    metric: str | None = None
    """Column of metrics.csv to plot. None: the mean return (control), or the mean score and the KL (text)."""

    def __call__(self) -> None:
        """Draws the picture and prints the groups of runs.

        Raises:
          UsageError: If the folders cannot be compared, or the picture cannot be written.
        """
        from tfppo.cli.comparison import only_runs, plot_runs

        runs, others = only_runs(self.folders)
        if others:
            print(f"left out, because they are not runs: {', '.join(map(str, others))}")
        groups = plot_runs(runs, self.out, self.metric)
        for group in groups:
            print(f"{group.label or 'all'}: {', '.join(map(str, group.folders))}")
        print(f"{self.out} shows these runs")


def _kind(folder: Path, **options: dict[str, Any]) -> str:
    """Returns the kind of a run, and checks the options that only one kind has.

    Args:
      folder: Folder of the run.
      **options: Values of these options by name, for each kind. None: the option is not given.

    Raises:
      UsageError: If the folder is not a run, or an option of the other kind is given.
    """
    kind = run_folder.kind_of(folder)
    for other, given in options.items():
        for name, value in given.items():
            if other != kind and value is not None:
                option = "--" + name.replace("_", "-")
                raise UsageError(
                    f"{folder} is a {run_folder.command_of(kind)} run, which has no {name}: leave {option} out"
                )
    return kind


def _application(kind: str, folder: Path) -> Any:
    """Returns the application of a kind of run. The other application is not imported."""
    import_tensorflow(run_folder.onednn_of(folder))
    from tfppo import saved_runs

    return saved_runs.application_of(kind)


def _or(given: int | None, usual: int) -> int:
    return usual if given is None else given
