"""Loads the task, the prompts and the reward of a text run."""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import NamedTuple, TypeAlias

import keras

from tfppo.errors import UsageError
from tfppo.execution.variables import digest
from tfppo.text.config import TextConfig, TextRunConfig
from tfppo.text.data.corpus import Split
from tfppo.text.rewards.callables import Reward, as_reward, is_folder, reward_name
from tfppo.text.rewards.reward_model import RewardModel
from tfppo.text.rewards.signature import check_labels, way_of
from tfppo.text.rewards.weighted import SEPARATOR, as_rewards, combined, parts_of_reward
from tfppo.text.rewards.whole_texts import ReadsTexts
from tfppo.text.start.prompts import GivenPrompts, OwnPrompts, own_prompts, task_of
from tfppo.text.tasks import Task, get_task
from tfppo.text.tasks.definition.registry import task_name
from tfppo.training.user_modules import is_importable, name_of, same_name

DEFAULT_TASK = "sentiment"
OneReward: TypeAlias = "Reward | keras.Model | Path | str"
"""A function, a Keras model, the name of a function, or the folder of a reward model."""
GivenReward: TypeAlias = "OneReward | Sequence[OneReward] | None"
"""A reward that the user gives in Python, or several of them; None: not given."""


class LoadedTask(NamedTuple):
    """The task of a run with its prompts and its reward."""

    task: Task
    own: OwnPrompts | None  # None: the prompts are those of the task
    reward: Reward
    names: dict[str, object]  # settings that name the task and the reward
    checksum: str | None  # of the reward model; None: there is none
    parts: Sequence[Reward]  # of the reward


def load_task(
    config: TextRunConfig,
    task: Task | str | None,
    reward: GivenReward,
    prompts: GivenPrompts,
    folder: Path | None,
    splits: Sequence[Split],
) -> LoadedTask:
    """Loads the task, the prompts and the reward of a run, and checks that the prompts have the labels.

    It comes before the language model is loaded, so that most errors come at once.

    Args:
      config: Settings of the run.
      task: A task that was given in Python, or its name; None if there is none.
      reward: A reward that was given in Python, its name, or a list of rewards; None if there is none.
      prompts: Prompts that are given in Python, by split.
      folder: Folder of the run, if the run exists already.
      splits: Splits whose prompts the run uses.

    Returns:
      The task with its prompts and its reward.

    Raises:
      UsageError: If a part cannot be found or is not valid, a name differs from that of the existing run, or a prompt
        lacks a label that the reward or the metric needs.
    """
    text = config.text
    own = own_prompts(text, folder, prompts)
    named = choose_task(text.task, task, own is not None)
    others, given_model = without_folder(reward)
    names = names_of(named, others)
    if folder is not None:
        check_names(text, names)
        if given_model is not None and text.reward_model is None:
            raise UsageError(
                f"the given reward is the reward model {given_model}; the run has none: leave it out, or give the "
                "reward of the run"
            )
    model = text.reward_model if given_model is None else given_model
    if model is not None:
        names["reward_model"] = model.resolve()
    if others is None and (given_model is None or folder is not None):
        others = text.reward
    elif others is None:
        names["reward"] = None  # a reward model alone replaces the reward of the settings
    chosen = named if own is None else task_of(own, named, text.prompts)
    assert chosen is not None, "a run without prompts of its own has a task"
    rewards = make_rewards(chosen, others, model)
    used = combined(rewards, text.reward_weights, text.reward_timeout)
    _check_labels(chosen, used, splits)
    return LoadedTask(chosen, own, used, names, _checksum(rewards), rewards)


def choose_task(setting: str | None, given: Task | str | None, has_prompts: bool) -> Task | None:
    """Chooses the task of a run.

    Args:
      setting: The setting `task`.
      given: A task that was given in Python, or its name; None if there is none.
      has_prompts: True if the run has prompts of its own.

    Returns:
      The given task, else the task of the setting. Without both it is the default task, or None for a run with prompts
      of its own.

    Raises:
      UsageError: If the task cannot be found.
    """
    chosen = setting if given is None else given
    if chosen is None:
        return None if has_prompts else get_task(DEFAULT_TASK)
    return get_task(chosen) if isinstance(chosen, str) else chosen


def names_of(task: Task | None, reward: GivenReward) -> dict[str, object]:
    """Returns the settings that name the task and the reward of a run.

    Args:
      task: Task of the run; None if it has none.
      reward: A reward that was given in Python, its name, or a list of rewards; None if there is none.

    Returns:
      Values of the settings `task` and, if a reward is given, `reward`. A part that no other process can import is
      described in angle brackets.
    """
    names: dict[str, object] = {} if task is None else {"task": task_name(task)}
    if reward is not None:
        each = reward if isinstance(reward, list | tuple) else [reward]
        names["reward"] = SEPARATOR.join(
            one if isinstance(one, str) else name_of(one, reward_name(one).partition(":")[2]) for one in each
        )
    return names


def check_names(recorded: TextConfig, names: Mapping[str, object]) -> None:
    """Checks that an existing run goes on with the task and the reward that its settings name.

    Parts that cannot be imported have no name to compare. The checksum of the prompts recognises another task.

    Args:
      recorded: Settings of the run.
      names: What `names_of` returns for the parts that are used now.

    Raises:
      UsageError: If a name differs.
    """
    for option, name in names.items():
        was = getattr(recorded, option)
        if was is not None and not (is_importable(str(was)) and is_importable(str(name))):
            continue
        if was is None or not same_name(str(was), str(name)):
            has = f"the {option} {was}" if was is not None else f"no {option} of its own"
            raise UsageError(
                f"the given {option} is {name}; the run has {has}: leave {option} out, or give the {option} of the run"
            )


def unscored(prompts: list[str], responses: list[str]) -> list[float]:
    """Stands for the reward of a trainer that scores nothing."""
    raise AssertionError("this trainer has no reward, but responses were scored")


def unscored_task(config: TextRunConfig) -> Task:
    """Makes a task that has only the domain of a run, so that the run's own task need not be imported.

    Args:
      config: Settings of the run. A run of an older version does not know its domain, and its task is looked up.
    """
    if config.parts.model_sha256 is None:
        return get_task(config.text.task or DEFAULT_TASK)
    return Task("unscored", "generates only", lambda split: [], domain=config.parts.domain)


def without_folder(reward: GivenReward) -> tuple[GivenReward, Path | None]:
    """Separates the folder of a reward model from the other rewards that a user gives in Python.

    Args:
      reward: A reward, its name, the folder of a reward model, or a list of these.

    Returns:
      The other rewards, or None if there are none, and the folder, or None.

    Raises:
      UsageError: If there are several folders, or other rewards follow a folder.
    """
    each = list(reward) if isinstance(reward, list | tuple) else [reward]
    folders = [Path(one) for one in each if is_folder(one)]
    if not folders:
        return reward, None
    if len(folders) > 1 or not is_folder(each[-1]):
        raise UsageError(
            f"reward has the folders {', '.join(map(str, folders))} of reward models; there must be one, and it must "
            "be the last reward: load the others with tfppo.RewardModel.load(folder)"
        )
    return (each[:-1] or None), folders[0]


def make_rewards(task: Task, others: GivenReward, model: Path | None) -> list[Reward]:
    """Loads the rewards of a run.

    Args:
      task: Task of the run.
      others: A reward that was given in Python, the names in the settings, or a list of rewards; None if there is none.
      model: Folder of a reward model; None if there is none.

    Returns:
      The other rewards and the reward model. Without both it is the reward of the task.

    Raises:
      UsageError: If a reward cannot be loaded, or cannot take prompts and responses.
    """
    rewards = [] if others is None else as_rewards(others)
    if model is not None:
        rewards.append(as_reward(model))
    return [copy(reward) if isinstance(reward, ReadsTexts) else reward for reward in rewards or [task.checked_reward()]]


def _checksum(rewards: Sequence[Reward]) -> str | None:
    found = [reward.checksum() for reward in rewards if isinstance(reward, RewardModel)]
    return found[0] if len(found) == 1 else digest([], "".join(found)) if found else None


def _check_labels(task: Task, reward: Reward, splits: Sequence[Split]) -> None:
    """Checks that all prompts have the labels that the reward and the metric need."""
    functions: list[tuple[str, Callable[..., object]]] = []
    functions += [(f"reward {reward_name(part)}", part) for part in parts_of_reward(reward)]
    functions += [] if task.measure is None else [(f"measure of task {task.name}", task.measure)]
    functions = [(what, function) for what, function in functions if (way := way_of(function)) and way.required]
    for split in splits if functions else ():
        prompts = task.checked_prompts(split)
        for what, function in functions:
            check_labels(function, what, prompts)
