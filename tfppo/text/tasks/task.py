"""The class `Task`, the registry of tasks, and prompts from the beginnings of movie sentences."""

import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tfppo.errors import UsageError
from tfppo.text.data.corpus import DOMAINS, SPLITS, Domain, Split, sentences
from tfppo.text.rewards.callables import Reward
from tfppo.text.rewards.signature import check_signature

MIN_WORDS = 8  # shorter sentences give no prompt
PROMPT_WORDS = (2, 3, 4, 5)


@dataclass(frozen=True)
class Task:
    """A task for a language model: prompts, a reward for the responses, and a metric."""

    name: str
    """Name on the command line and in the names of runs: letters, digits, `-` and `_`."""
    description: str
    """One line for the list of tasks."""
    prompts: Callable[[Split], list[str]]
    """Returns the prompts of a split: "train", "validation" or "test"."""
    make_reward: Callable[[], Reward]
    """Makes the reward function. If the reward needs a model, it is loaded here and not before."""
    measure: Callable[[list[str], list[str]], float]
    """Computes the metric of the task from prompts and responses: a mean over at least one response."""
    metric: str
    """Name of the metric in `evaluation.json`."""
    target: float
    """Value that the metric should reach after training."""
    domain: Domain | None = "movie"
    """Domain of the control token before each prompt; None: no control token."""
    defaults: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Settings of this task (by field name) that differ from the text defaults."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.name):
            raise UsageError(
                f"task name is {self.name!r}; it must consist of letters, digits, - and _, and start with a letter or "
                "a digit"
            )
        if self.domain is not None and self.domain not in DOMAINS:
            raise UsageError(
                f"domain of task {self.name} is {self.domain!r}; it must be one of {', '.join(DOMAINS)}, or None"
            )
        check_signature(self.measure, f"measure of task {self.name}")


_TASKS: dict[str, Task] = {}


def register_task(task: Task) -> Task:
    """Registers a task, so that its name can be used as the setting `task`.

    Args:
      task: The task. Registering the same object twice is allowed.

    Returns:
      The same task.

    Raises:
      UsageError: If another task has the same name.
    """
    if _TASKS.setdefault(task.name, task) is not task:
        raise UsageError(
            f"task name {task.name} is already used by another task ({_TASKS[task.name].description}): give another "
            "name"
        )
    return task


def get_task(name: str) -> Task:
    """Returns a registered task.

    Args:
      name: Name of the task.

    Raises:
      UsageError: If no task has this name.
    """
    if name not in _TASKS:
        raise UsageError(f"task is {name!r}; it must be one of {', '.join(task_names())}")
    return _TASKS[name]


def task_names() -> tuple[str, ...]:
    """Returns the names of all registered tasks, sorted."""
    return tuple(sorted(_TASKS))


def movie_prompts(split: Split, words: Sequence[int] = PROMPT_WORDS) -> list[str]:
    """Makes prompts from the first words of the movie sentences of a split.

    A checksum of the sentence's id chooses the number of words, so that the prompts are the same on every machine.
    Sentences of fewer than 8 words are left out.

    Args:
      split: "train", "validation" or "test".
      words: Possible numbers of words.

    Returns:
      The prompts in the order of the corpus, without duplicates and without prompts of an earlier split.

    Raises:
      UsageError: If there is no such split.
    """
    if split not in SPLITS:
        raise UsageError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}")
    seen = {prompt for earlier in SPLITS[: SPLITS.index(split)] for prompt in _beginnings(earlier, words)}
    return [prompt for prompt in dict.fromkeys(_beginnings(split, words)) if prompt not in seen]


def _beginnings(split: Split, words: Sequence[int]) -> Iterator[str]:
    for sentence in sentences(split, "movie"):
        pieces = sentence.text.split()
        count = words[zlib.crc32(sentence.id.encode()) % len(words)]
        if len(pieces) >= MIN_WORDS:
            yield " ".join(pieces[:count])
