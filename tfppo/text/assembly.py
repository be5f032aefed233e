"""Makes the parts of a text run from its settings: policy, reference policy, reward and training prompts."""

from collections.abc import Mapping
from typing import NamedTuple

import keras
import numpy as np

from tfppo.errors import UsageError
from tfppo.text.config import TextConfig, TextRunConfig
from tfppo.text.data.codec import PromptCodec
from tfppo.text.models.adapters import WithoutAdapters, add_adapters
from tfppo.text.models.language_model import LanguageModel
from tfppo.text.models.reference import copy_of, freeze
from tfppo.text.policy import TextPolicy
from tfppo.text.rewards.callables import Reward, as_reward, load_reward, reward_name
from tfppo.text.tasks import Task, get_task
from tfppo.text.tasks.task import task_name
from tfppo.training.user_modules import is_importable, name_of, same_name


def choose_task(config: TextRunConfig, given: Task | str | None) -> Task:
    """Returns the given task, or the task that the config names."""
    if given is None:
        given = config.text.task
    return get_task(given) if isinstance(given, str) else given


def names_of(task: Task, reward: Reward | keras.Model | str | None) -> dict[str, object]:
    """Returns the settings that name the task and the reward of a run.

    Args:
      task: Task of the run.
      reward: A reward that was given in Python, or its name; None if there is none.

    Returns:
      Values of the settings `task` and, if a reward is given, `reward`. A part that no other process can import is
      described in angle brackets.
    """
    names: dict[str, object] = {"task": task_name(task)}
    if isinstance(reward, str):
        names["reward"] = reward
    elif reward is not None:
        names["reward"] = name_of(reward, reward_name(reward).partition(":")[2])
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
        return get_task(config.text.task)
    return Task(
        name="unscored",
        description="generates only",
        prompts=lambda split: [],
        make_reward=lambda: unscored,
        measure=lambda prompts, responses: 0.0,
        metric="unscored",
        target=0.0,
        domain=config.parts.domain,
    )


class TrainingPrompts(NamedTuple):
    """The N training prompts of a run, of `total` that the task has."""

    token_ids: np.ndarray  # [N, P] int32, padded on the right
    lengths: np.ndarray  # [N] int32
    texts: list[str]  # N, as the task gives them
    total: int


def make_models(model: LanguageModel, config: TextRunConfig) -> tuple[TextPolicy, LanguageModel]:
    """Makes the policy and its reference policy.

    The reference is a frozen copy of the model. With adapters (`lora_rank`) it is the same model with the adapters
    switched off, so that no copy is needed.

    Args:
      model: The language model before tuning; the policy changes its weights.
      config: Settings of the run.

    Returns:
      The policy and the reference policy.

    Raises:
      UsageError: If the model cannot have adapters, cannot be copied, or has nothing to train.
    """
    text = config.text
    if not text.lora_rank and not model.trainable_variables:
        raise UsageError(
            f"all weights of {type(model.model).__name__} are frozen; a run without lora_rank must have weights to "
            "train: set model.trainable = True (and save a preset again), or set lora_rank"
        )
    critic = copy_of(model) if text.separate_critic else None
    if text.lora_rank:
        add_adapters(model.model, text.lora_rank, config.run.seed)
    reference = WithoutAdapters(model) if text.lora_rank else freeze(copy_of(model))
    return TextPolicy(model, text.temperature, critic), reference


def make_reward(task: Task, setting: str | None, given: Reward | keras.Model | str | None) -> Reward:
    """Chooses the reward of a run.

    Args:
      task: Task of the run.
      setting: The setting `reward`, as `package.module:function`; None if there is none.
      given: A reward that was passed in Python, or its name; None if there is none.

    Returns:
      `given` if it is not None, else the reward that `setting` names, else the reward of the task.

    Raises:
      UsageError: If the reward cannot be loaded, or cannot take prompts and responses.
    """
    if isinstance(given, str):
        return load_reward(given)
    if given is not None:
        return as_reward(given)
    return task.checked_reward() if setting is None else load_reward(setting)


def training_prompts(task: Task, codec: PromptCodec, text: TextConfig, context: int | None) -> TrainingPrompts:
    """Encodes the training prompts of a task; prompts of more than `prompt_length` tokens are left out.

    Args:
      task: Task of the run.
      codec: Encodes the prompts.
      text: The lengths of prompts and responses.
      context: Context length of the language model, in tokens; None if it has no limit.

    Returns:
      The prompts.

    Raises:
      UsageError: If there is no prompt, no prompt is short enough, or prompt and response do not fit into the context.
    """
    texts = task.checked_prompts("train")
    if not texts:
        raise UsageError(f"task {task.name} has no training prompts; a run needs at least one: add some to the task")
    ids, lengths = codec.encode(texts)
    kept = lengths <= text.prompt_length
    if not kept.any():
        raise UsageError(
            f"prompt_length is {text.prompt_length}; the shortest of the {len(lengths)} training prompts of task "
            f"{task.name} has {lengths.min()} tokens: raise prompt_length"
        )
    if context is not None and text.prompt_length + text.response_length > context:
        raise UsageError(
            f"prompt_length {text.prompt_length} + response_length {text.response_length} is more than the language "
            f"model's context of {context} tokens: lower one of them"
        )
    return TrainingPrompts(
        ids[kept, : lengths[kept].max()],
        lengths[kept],
        [text for text, is_kept in zip(texts, kept, strict=True) if is_kept],
        len(texts),
    )


def notices(prompts: TrainingPrompts, text: TextConfig) -> list[str]:
    """Returns the lines that a run prints before training, about what its settings leave out.

    Args:
      prompts: The training prompts.
      text: Settings of the run.
    """
    lines = []
    left_out = prompts.total - len(prompts.texts)
    if left_out:
        verbs = ("has", "is") if left_out == 1 else ("have", "are")
        lines.append(
            f"{left_out:,} of {prompts.total:,} training prompts {verbs[0]} more than {text.prompt_length} tokens and "
            f"{verbs[1]} left out"
        )
    if not text.normalize_scores and text.score_clip not in (None, TextConfig().score_clip):
        lines.append(f"score_clip {text.score_clip:g} is not used, because normalize_scores is False")
    return lines
