"""Makes the parts of a text run from its settings: policy, reference policy, reward and training prompts."""

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
from tfppo.text.rewards.callables import Reward, as_reward, load_reward
from tfppo.text.tasks import Task


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
      UsageError: If the model cannot have adapters.
    """
    text = config.text
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
    if given is not None:
        return as_reward(given)
    return as_reward(task.make_reward()) if setting is None else load_reward(setting)


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
      UsageError: If no prompt is short enough, or prompt and response do not fit into the context.
    """
    texts = task.prompts("train")
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
