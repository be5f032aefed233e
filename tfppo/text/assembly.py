"""Makes the parts of a text run from its settings: policy, reference policy, reward and training prompts."""

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


def make_reward(task: Task, setting: str | None, given: Reward | keras.Model | None) -> Reward:
    """Chooses the reward of a run.

    Args:
      task: Task of the run.
      setting: The setting `reward`, as `package.module:function`; None if there is none.
      given: A reward that was passed in Python; None if there is none.

    Returns:
      `given` if it is not None, else the reward that `setting` names, else the reward of the task.

    Raises:
      UsageError: If the reward that the setting names cannot be loaded.
    """
    if given is not None:
        return as_reward(given)
    return task.make_reward() if setting is None else load_reward(setting)


def training_prompts(
    task: Task, codec: PromptCodec, text: TextConfig, context: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Encodes the training prompts of a task; prompts of more than `prompt_length` tokens are left out.

    Args:
      task: Task of the run.
      codec: Encodes the prompts.
      text: The lengths of prompts and responses.
      context: Context length of the language model, in tokens; None if it has no limit.

    Returns:
      Token ids int32 [N, P], padded on the right, and lengths int32 [N].

    Raises:
      UsageError: If no prompt is short enough, or prompt and response do not fit into the context.
    """
    ids, lengths = codec.encode(task.prompts("train"))
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
    return ids[kept, : lengths[kept].max()], lengths[kept]
