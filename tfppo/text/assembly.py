"""Makes the parts of a text run from its settings: policy, reference policy, reward and training prompts."""

import operator

import keras
import numpy as np

from tfppo.errors import UsageError
from tfppo.text.config import TextConfig, TextRunConfig
from tfppo.text.data.codec import PromptCodec
from tfppo.text.models.adapters import WithoutAdapters, add_adapters
from tfppo.text.models.initial import Start, assign_parts
from tfppo.text.models.language_model import LanguageModel
from tfppo.text.models.reference import as_language_model, copy_of, freeze
from tfppo.text.policy import TextPolicy
from tfppo.text.rewards.callables import Reward, as_reward, load_reward
from tfppo.text.tasks import Task
from tfppo.training.stop_rules import StopRule

SCORE, KL = "text/score_mean", "text/kl"
SCORE_WINDOW = 5  # iterations, so that one batch of easy prompts does not end a run


def make_models(start: Start, config: TextRunConfig) -> tuple[TextPolicy, LanguageModel]:
    """Makes the policy and its reference policy.

    By default the reference is a frozen copy of the model. With adapters (`lora_rank`) it is the same model with the
    adapters switched off, so that no copy is needed.

    Args:
      start: The models before tuning; the policy changes the weights of `start.model`.
      config: Settings of the run.

    Returns:
      The policy and the reference policy.

    Raises:
      UsageError: If the model cannot have adapters.
    """
    text, model = config.text, as_language_model(start.model)
    critic = copy_of(model) if text.separate_critic else None
    if text.lora_rank:
        add_adapters(model.model, text.lora_rank, config.run.seed)
        reference: LanguageModel = WithoutAdapters(model)
    else:
        reference = freeze(copy_of(model) if start.reference is None else as_language_model(start.reference))
    policy = TextPolicy(model, text.temperature, critic)
    assign_parts(policy, start.weights)
    return policy, reference


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
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Encodes the training prompts of a task; prompts of more than `prompt_length` tokens are left out.

    Args:
      task: Task of the run.
      codec: Encodes the prompts.
      text: The lengths of prompts and responses.
      context: Context length of the language model, in tokens; None if it has no limit.

    Returns:
      Token ids int32 [N, P], padded on the right, lengths int32 [N], and the N prompts as texts.

    Raises:
      UsageError: If no prompt is short enough, or prompt and response do not fit into the context.
    """
    prompts = task.prompts("train")
    ids, lengths = codec.encode(prompts)
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
    return ids[kept, : lengths[kept].max()], lengths[kept], [prompts[index] for index in np.flatnonzero(kept)]


def make_stop_rules(text: TextConfig) -> dict[str, StopRule]:
    """Makes the rules that end a run early.

    Args:
      text: Settings of the run.

    Returns:
      A rule for each of the settings `stop_kl` and `target_score` that is not None, by the name of the setting.
    """
    rules = {}
    if text.stop_kl is not None:
        rules["stop_kl"] = StopRule(KL, operator.gt, text.stop_kl, words="KL {mean} exceeds stop_kl {bound}")
    if text.target_score is not None:
        words = f"mean score {{mean}} of the last {SCORE_WINDOW} iterations reaches target_score {{bound}}"
        rules["target_score"] = StopRule(SCORE, operator.ge, text.target_score, SCORE_WINDOW, words=words)
    return rules
