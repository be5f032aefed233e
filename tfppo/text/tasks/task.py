"""What a text task is, the register of all tasks, and the beginnings of movie sentences that they prompt with."""

import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tfppo.errors import UsageError
from tfppo.text.data.corpus import DOMAINS, SPLITS, Domain, Split, sentences
from tfppo.text.rewards.callables import Reward

MIN_WORDS = 8  # of a sentence whose beginning is a prompt
PROMPT_WORDS = (2, 3, 4, 5)


@dataclass(frozen=True)
class Task:
    """What a language model is to learn: prompts, a reward for its responses, and how to tell that it has learnt."""

    name: str
    """What it is called on the command line and in the names of runs."""
    description: str
    """One line for the list of tasks."""
    prompts: Callable[[Split], list[str]]
    """The prompts of a split of the corpus."""
    make_reward: Callable[[], Reward]
    """Makes the reward function; only this may load a model."""
    measure: Callable[[list[str], list[str]], float]
    """The task's metric, a mean over prompts and responses, of which there must be one."""
    metric: str
    """Name of what `measure` gives."""
    target: float
    """What `measure` must reach after training."""
    domain: Domain | None = "movie"
    """Domain whose control token stands before the prompt; None: no token."""
    defaults: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Settings (field name -> value) that differ from the text defaults of the config."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.name):
            raise UsageError(f"a task's name must be letters, digits, - and _, for folders: not {self.name!r}")
        if self.domain is not None and self.domain not in DOMAINS:
            raise UsageError(f"domain of task {self.name} must be one of {', '.join(DOMAINS)}, not {self.domain!r}")


_TASKS: dict[str, Task] = {}


def register_task(task: Task) -> Task:
    """Makes a task known by its name, and returns it; the same object may be registered again.

    Raises:
      UsageError: if another task has its name.
    """
    if _TASKS.setdefault(task.name, task) is not task:
        raise UsageError(f"task name {task.name} is taken ({_TASKS[task.name].description}): give another name")
    return task


def get_task(name: str) -> Task:
    """The task of a name. Raises UsageError, with the names that there are, if it is not known."""
    if name not in _TASKS:
        raise UsageError(f"no task is called {name!r}; give one of {', '.join(task_names())}")
    return _TASKS[name]


def task_names() -> tuple[str, ...]:
    """The names of all tasks, sorted."""
    return tuple(sorted(_TASKS))


def movie_prompts(split: Split, words: Sequence[int] = PROMPT_WORDS) -> list[str]:
    """The first words of the movie sentences of a split, in the order of the corpus; no prompt comes twice, in the
    split or in an earlier one.

    Which of the numbers `words` is decided by a checksum of the sentence's id, the same on every machine. Sentences of
    fewer than 8 words are left out.

    Raises:
      UsageError: if there is no such split.
    """
    if split not in SPLITS:
        raise UsageError(f"no split is called {split!r}; give one of {', '.join(SPLITS)}")
    seen = {prompt for earlier in SPLITS[: SPLITS.index(split)] for prompt in _beginnings(earlier, words)}
    return [prompt for prompt in dict.fromkeys(_beginnings(split, words)) if prompt not in seen]


def _beginnings(split: Split, words: Sequence[int]) -> Iterator[str]:
    for sentence in sentences(split, "movie"):
        pieces = sentence.text.split()
        count = words[zlib.crc32(sentence.id.encode()) % len(words)]
        if len(pieces) >= MIN_WORDS:
            yield " ".join(pieces[:count])
