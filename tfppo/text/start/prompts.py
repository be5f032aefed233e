"""The prompts of a text run: those of its task, or those that the user gives, with labels and held-out parts."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tfppo.errors import UsageError
from tfppo.text.config import TEXT_PPO, TextConfig, TextRunConfig
from tfppo.text.data.codec import PromptCodec
from tfppo.text.data.corpus import SPLITS, Split
from tfppo.text.data.prompt_files import read_prompts, split_share, write_prompts
from tfppo.text.data.prompts import Prompt, as_prompts
from tfppo.text.defaults import describe_defaults
from tfppo.text.tasks import Task
from tfppo.training import run_folder

INCLUDED_LENGTH = 12  # prompt_length of the included model: a few words of a movie review
SETTINGS: Mapping[Split, str] = {"train": "prompts", "validation": "validation_prompts", "test": "test_prompts"}
GivenPrompts = Mapping[Split, object]
"""Prompts that the user gives in Python, by split, in a form that `as_prompts` takes; None: not given."""


class OwnPrompts(NamedTuple):
    """Prompts that the user gives, by split. Only the training prompts must not be empty."""

    train: list[Prompt]
    validation: list[Prompt]
    test: list[Prompt]

    def of(self, split: Split) -> list[Prompt]:
        """Returns the prompts of a split, or those that are used in their place.

        The test prompts are replaced by the validation prompts if there are none, and these by the training prompts.
        """
        return {"train": self.train, "validation": self.validation, "test": self.test}[self.used_for(split)]

    def used_for(self, split: Split) -> Split:
        """Returns the split whose prompts are used for a split."""
        if split == "test" and not self.test:
            split = "validation"
        return "train" if split == "validation" and not self.validation else split


def own_prompts(text: TextConfig, folder: Path | None, given: GivenPrompts) -> OwnPrompts | None:
    """Loads the prompts that the user gives.

    Args:
      text: Settings of the run.
      folder: Folder of the run, if the run exists already. It keeps its prompts.
      given: Prompts that are given in Python.

    Returns:
      The prompts, or None if the run has the prompts of its task.

    Raises:
      UsageError: If prompts are given twice, held-out prompts are given without training prompts, prompts are
        invalid, or a file of the folder is missing.
    """
    if folder is not None:
        return _kept_prompts(text, folder / run_folder.PROMPTS)
    found: dict[Split, list[Prompt]] = {}
    for split, name in SETTINGS.items():
        in_python, path = given.get(split), getattr(text, name)
        if in_python is not None and path is not None:
            raise UsageError(f"{name} is {path}, and {name} are given in Python, too: leave one out")
        if in_python is not None:
            found[split] = as_prompts(in_python, name)
        elif path is not None:
            found[split] = read_prompts(path)
    if "train" not in found:
        for name in [SETTINGS[split] for split in found] or ["validation_share"] * (text.validation_share > 0):
            raise UsageError(f"{name} is given without prompts; it needs training prompts: give prompts, too")
        return None
    if not found["train"]:
        raise UsageError("prompts is empty; it must have at least one prompt")
    if text.validation_share and "validation" in found:
        raise UsageError(
            f"validation_prompts are given and validation_share is {text.validation_share:g}, but both give the "
            "validation prompts: leave one out"
        )
    if text.validation_share:
        found["train"], found["validation"] = split_share(found["train"], text.validation_share)
        if not (found["train"] and found["validation"]):
            count = len(found["train"]) + len(found["validation"])
            raise UsageError(
                f"validation_share is {text.validation_share:g}; of {count} prompts it leaves "
                f"{len(found['train'])} for training and {len(found['validation'])} for validation: give more prompts, "
                "or validation_prompts"
            )
    return OwnPrompts(*(found.get(split, []) for split in SPLITS))


FILES = tuple(f"{split}.jsonl" for split in SPLITS)


def _kept_prompts(text: TextConfig, kept: Path) -> OwnPrompts | None:
    """Reads the prompts that the folder of a run keeps, see `own_prompts`."""
    if not kept.is_dir() and text.prompts is None and text.task is not None:
        return None
    given = (True, text.validation_prompts is not None or text.validation_share > 0, text.test_prompts is not None)
    parts: list[list[Prompt]] = []
    for path, is_needed in zip(map(kept.joinpath, FILES), given, strict=True):
        if is_needed and not path.is_file():
            raise UsageError(f"{path} is missing; the run keeps its prompts in this file: restore it from a copy")
        parts.append(read_prompts(path) if path.is_file() else [])
    return OwnPrompts(*parts)


def keep_prompts(folder: Path, prompts: OwnPrompts) -> None:
    """Writes the prompts of a new run into its folder, from where `own_prompts` reads them."""
    (folder / run_folder.PROMPTS).mkdir()
    for name, part in zip(FILES, prompts, strict=True):
        if part:
            write_prompts(folder / run_folder.PROMPTS / name, part)


def task_of(prompts: OwnPrompts, task: Task | None, path: Path | None) -> Task:
    """Returns a task with the prompts that the user gives.

    Args:
      prompts: The prompts.
      task: The task whose prompts they replace. None: there is no task.
      path: File of the training prompts, after which a run without a task is named. None: they are given in Python.
    """
    if task is not None:
        return replace(task, prompts=prompts.of)
    name = run_folder.folder_name("prompts" if path is None else path.stem).strip(".-_").replace(".", "-") or "prompts"
    return Task(name=name, description="prompts of your own", prompts=prompts.of, domain=None)


def without_long_prompts(task: Task, prompts: OwnPrompts, codec: PromptCodec, limit: int) -> Task:
    """Returns a task whose samples and evaluation use no training prompts that are left out of training.

    Args:
      task: A task with the prompts that the user gives, see `task_of`.
      prompts: The prompts.
      codec: Encodes the prompts.
      limit: The setting `prompt_length`. Held-out prompts of the user may be longer.
    """

    @functools.cache
    def of(split: Split) -> list[Prompt]:
        found = prompts.of(split)
        if split == "train" or prompts.used_for(split) != "train":
            return found
        return [prompt for prompt, length in zip(found, codec.encode(found)[1], strict=True) if length <= limit]

    return replace(task, prompts=of)


class TrainingPrompts(NamedTuple):
    """The N training prompts of a run, of `total` that the task has."""

    token_ids: np.ndarray  # [N, P] int32, padded on the right
    lengths: np.ndarray  # [N] int32
    texts: list[str]  # N, as the task gives them
    total: int


NO_PROMPTS = TrainingPrompts(np.zeros([0, 0], np.int32), np.zeros([0], np.int32), [], 0)
"""Those of a trainer that does not train."""


def training_prompts(
    task: Task, codec: PromptCodec, text: TextConfig, context: int | None, are_own: bool = False
) -> TrainingPrompts:
    """Encodes the training prompts of a task; prompts of more than `prompt_length` tokens are left out.

    Without `prompt_length`, prompts of a task that do not fit into the context are left out.

    Args:
      task: Task of the run.
      codec: Encodes the prompts.
      text: The lengths of prompts and responses.
      context: Context length of the language model, in tokens; None if it has no limit.
      are_own: True if the prompts are the user's own. Without `prompt_length`, all of them must fit into the context.

    Returns:
      The prompts.

    Raises:
      UsageError: If there is no prompt, no prompt is short enough, or prompt and response do not fit into the context.
    """
    texts = task.checked_prompts("train")
    if not texts:
        raise UsageError(f"task {task.name} has no training prompts; a run needs at least one: add some to the task")
    room = None if context is None else max(1, context - text.response_length)
    ids, lengths = codec.encode(texts)
    longest = int(lengths.max())
    if are_own and text.prompt_length is None and room is not None and longest > room:
        prompt = texts[int(lengths.argmax())]
        raise UsageError(
            f"{prompt.origin} ({prompt[:40]!r} ...) has {longest} tokens; the context has room for {room} besides the "
            f"response: shorten the prompt, lower response_length, or set prompt_length to {room}, which leaves longer "
            "prompts out"
        )
    limit = text.prompt_length or (longest if room is None else min(longest, room))
    kept = lengths <= limit
    if not kept.any():
        raise UsageError(
            f"prompt_length is {limit}; the shortest of the {len(lengths)} training prompts of task "
            f"{task.name} has {lengths.min()} tokens: raise prompt_length"
        )
    if context is not None and limit + text.response_length > context:
        raise UsageError(
            f"prompt_length {limit} + response_length {text.response_length} is more than the language "
            f"model's context of {context} tokens: lower prompt_length or response_length"
        )
    return TrainingPrompts(
        ids[kept, : lengths[kept].max()],
        lengths[kept],
        [text for text, is_kept in zip(texts, kept, strict=True) if is_kept],
        len(texts),
    )


def _unused_by_advantages(config: TextRunConfig) -> str:
    """Names the settings of the value function that the user has changed, for a run without one. Empty: none."""
    names = () if config.text.has_values else ("gamma", "gae_lambda", "value_clip")
    changed = [(name, getattr(config.ppo, name)) for name in names]
    changed = [(name, value) for name, value in changed if value != getattr(TEXT_PPO, name)]
    verb = "is" if len(changed) == 1 else "are"
    return " and ".join(f"{name} {value}" for name, value in changed) + f" {verb}" if changed else ""


def notices(prompts: TrainingPrompts, config: TextRunConfig, parameters: int, notes: Sequence[str]) -> list[str]:
    """Returns the lines that a run prints before training, about its settings.

    Args:
      prompts: The training prompts.
      config: Settings of the run.
      parameters: Number of parameters of the language model, without adapters.
      notes: More lines.
    """
    text, lines = config.text, [*notes]
    left_out = prompts.total - len(prompts.texts)
    if left_out:
        verbs = ("has", "is") if left_out == 1 else ("have", "are")
        lines.append(
            f"{left_out:,} of {prompts.total:,} training prompts {verbs[0]} more than {text.prompt_length} tokens and "
            f"{verbs[1]} left out"
        )
    count, wanted = len(prompts.texts), text.batch_size // text.responses_per_prompt
    if count < wanted:
        lines.append(
            f"{count} training prompt{'s' * (count != 1)} for batches of {wanted}: every batch has prompts several "
            "times"
        )
    if unused := _unused_by_advantages(config):
        lines.append(f"{unused} not used, because advantages is {text.advantages}, which has no value function")
    if not text.normalize_scores and text.score_clip not in (None, TextConfig().score_clip):
        lines.append(f"score_clip {text.score_clip:g} is not used, because normalize_scores is False")
    defaults = describe_defaults(parameters, text, run_folder.flat_settings(config))
    if defaults is not None:
        lines.append(defaults)
    return lines
