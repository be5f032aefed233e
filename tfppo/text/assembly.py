"""What a text run is made of: the policy and its reference, the reward, and the prompts."""

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
    """The policy and its reference."""
    text = config.text
    critic = copy_of(model) if text.separate_critic else None
    if text.lora_rank:
        add_adapters(model.model, text.lora_rank, config.run.seed)
    reference = WithoutAdapters(model) if text.lora_rank else freeze(copy_of(model))
    return TextPolicy(model, text.temperature, critic), reference


def make_reward(task: Task, setting: str | None, given: Reward | keras.Model | None) -> Reward:
    """Returns the reward that is given, else the one that the setting names, else the task's.

    Raises:
      UsageError: if the reward that the setting names cannot be loaded.
    """
    if given is not None:
        return as_reward(given)
    return task.make_reward() if setting is None else load_reward(setting)


def training_prompts(
    task: Task, codec: PromptCodec, text: TextConfig, context: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """A task's training prompts of at most prompt_length tokens: int32 [N, P], padded on the right, and lengths [N].

    Args:
      task: of the run.
      codec: makes tokens of the prompts.
      text: the lengths of prompts and responses.
      context: tokens that the language model can look at; None: any.

    Raises:
      UsageError: if no prompt is short enough, or prompt and response do not fit into the context.
    """
    ids, lengths = codec.encode(task.prompts("train"))
    kept = lengths <= text.prompt_length
    if not kept.any():
        raise UsageError(
            f"all {len(lengths)} training prompts of task {task.name} have more than prompt_length = "
            f"{text.prompt_length} tokens, the shortest {lengths.min()}: make prompt_length larger"
        )
    if context is not None and text.prompt_length + text.response_length > context:
        raise UsageError(
            f"prompt_length = {text.prompt_length} and response_length = {text.response_length} do not fit "
            f"into the language model's context of {context} tokens: make one of them smaller"
        )
    return ids[kept, : lengths[kept].max()], lengths[kept]
