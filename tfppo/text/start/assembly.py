"""Makes the parts of a text run from its settings: policy, reference policy, reward and training prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from tfppo.errors import UsageError
from tfppo.settings import with_settings
from tfppo.text.config import TextConfig, TextRunConfig
from tfppo.text.data.codec import PromptCodec, check_tokenizer
from tfppo.text.evaluate import held_out_prompts
from tfppo.text.models.adapters import WithoutAdapters, add_adapters
from tfppo.text.models.language_model import LanguageModel, check_decoding
from tfppo.text.models.reference import as_language_model, copy_of, freeze
from tfppo.text.models.weights import freeze_paths
from tfppo.text.policy import TextPolicy
from tfppo.text.presets.fetching import recorded_name
from tfppo.text.rewards.callables import Reward, as_reward, load_reward, reward_name
from tfppo.text.start.initial import Start, assign_parts, initial_model
from tfppo.text.start.parts import OWN_MODEL, check_parts, fingerprints
from tfppo.text.tasks import Task, get_task
from tfppo.text.tasks.task import task_name
from tfppo.training.user_modules import is_importable, name_of, same_name

SAMPLES = 8  # prompts in a table of samples


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


class Parts(NamedTuple):
    """The parts that a text run is made of."""

    config: TextRunConfig  # as it goes into config.yaml: with the names, the paths and the checksums of the parts
    task: Task
    start: Start
    codec: PromptCodec
    context: int | None  # context length of the language model, in tokens; None if it has no limit
    prompts: "TrainingPrompts | None"  # None for a trainer that does not train
    reward: Reward

    def encode(self, prompts: Sequence[str], max_new_tokens: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Encodes prompts, and checks that each fits into the context together with a response.

        Args:
          prompts: N texts.
          max_new_tokens: Largest length of a response. None: `response_length`.

        Returns:
          Token ids int32 [N, P], padded on the right, and lengths int32 [N].

        Raises:
          UsageError: If a prompt is empty, not a text, or too long.
        """
        context, length = self.context, self.config.text.response_length
        if max_new_tokens is None:
            return self.codec.encode(prompts, None if context is None else context - length)
        return self.codec.encode(prompts, None if context is None else context - max_new_tokens, "max_new_tokens")

    def sample_prompts(self) -> list[str]:
        """Returns the prompts of the tables of samples."""
        prompts = self.task.checked_prompts("validation")
        return (prompts or (self.prompts.texts if self.prompts else []))[:SAMPLES]


def load_parts(
    config: TextRunConfig,
    task: Task | str | None,
    reward: Reward | keras.Model | str | None,
    model: object,
    folder: Path | None,
    trains: bool,
    scores: bool,
    replicas: int = 1,
) -> Parts:
    """Loads the parts of a text run, and checks that they fit together.

    Args:
      config: Settings of the run.
      task: As for `TextTrainer`.
      reward: As for `TextTrainer`.
      model: As for `TextTrainer`.
      folder: As for `TextTrainer`.
      trains: As for `TextTrainer`.
      scores: As for `TextTrainer`.
      replicas: As for `given_model`.

    Returns:
      The parts.

    Raises:
      UsageError: As `TextTrainer`.
    """
    text = config.text
    chosen = choose_task(config, task) if scores else unscored_task(config)
    start = initial_model(text, folder, model, replicas)
    kept = _paths_of(text, folder, start, model is not None)
    if scores:
        kept |= (names := names_of(chosen, reward))
        if folder is not None:
            check_names(text, names)
    if folder is not None:
        freeze_paths(start.model, config.parts.frozen)
    language_model = as_language_model(start.model)
    check_tokenizer(start.tokenizer, language_model.vocabulary_size)
    codec, context = PromptCodec(start.tokenizer, chosen.domain, start.special), language_model.context_length
    prompts = training_prompts(chosen, codec, text, context) if trains else None
    recorded = fingerprints(start.model, start.tokenizer, prompts and prompts[:2], chosen.domain, codec.special)
    check_parts(config.parts, recorded, None if model is not None else text.preset)
    config = replace(with_settings(config, kept), parts=recorded)
    used = make_reward(chosen, text.reward, reward) if scores else unscored
    parts = Parts(config, chosen, start, codec, context, prompts, used)
    if trains:  # an error now, not after the training
        parts.encode(parts.sample_prompts())
        if text.eval_prompts:
            parts.encode(held_out_prompts(chosen, text.eval_prompts))
    return parts


def _paths_of(text: TextConfig, folder: Path | None, start: Start, is_given: bool) -> dict[str, Any]:
    """Returns the settings that say where the language model of a run is from.

    Paths are absolute, so that the run can be resumed from any folder.
    """
    kept: dict[str, Any] = {}
    if is_given:
        kept |= {"preset": OWN_MODEL, "dtype": start.model.dtype_policy.name}
    elif text.preset is not None and not (folder is not None and text.preset == OWN_MODEL):
        kept["preset"] = recorded_name(text.preset)
    if text.init_from is not None:
        kept["init_from"] = text.init_from.resolve()
    if start.checkpoint is not None:
        kept["init_checkpoint"] = start.checkpoint
    return kept


class TrainingPrompts(NamedTuple):
    """The N training prompts of a run, of `total` that the task has."""

    token_ids: np.ndarray  # [N, P] int32, padded on the right
    lengths: np.ndarray  # [N] int32
    texts: list[str]  # N, as the task gives them
    total: int


NO_PROMPTS = TrainingPrompts(np.zeros([0, 0], np.int32), np.zeros([0], np.int32), [], 0)
"""Those of a trainer that does not train."""


def make_models(parts: Parts, config: TextRunConfig) -> tuple[TextPolicy, LanguageModel]:
    """Makes the policy and its reference policy.

    By default the reference is a frozen copy of the model. With adapters (`lora_rank`) it is the same model with the
    adapters switched off, so that no copy is needed.

    Args:
      parts: Parts of the run; the policy changes the weights of `parts.start.model`.
      config: Settings of the run.

    Returns:
      The policy and the reference policy.

    Raises:
      UsageError: If the model cannot have adapters, cannot be copied, has nothing to train, or would sample from
        another policy than the one that is trained.
    """
    text, start = config.text, parts.start
    model = as_language_model(start.model)
    if parts.prompts is not None:
        check_decoding(model, parts.prompts.token_ids, parts.prompts.lengths, parts.codec.pad)
    if not text.lora_rank and not model.trainable_variables:
        raise UsageError(
            f"all weights of {type(model.model).__name__} are frozen; a run without lora_rank must have weights to "
            "train: set model.trainable = True (and save a preset again), or set lora_rank"
        )
    critic = copy_of(model) if text.separate_critic else None
    if text.lora_rank:
        add_adapters(model.model, text.lora_rank, config.run.seed, text.lora_alpha, text.lora_targets)
        reference: LanguageModel = WithoutAdapters(model)
    else:
        reference = freeze(copy_of(model) if start.reference is None else as_language_model(start.reference))
    policy = TextPolicy(model, text.temperature, critic)
    assign_parts(policy, start.weights)
    return policy, reference


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
            f"model's context of {context} tokens: lower prompt_length or response_length"
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
