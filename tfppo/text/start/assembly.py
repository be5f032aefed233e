"""Makes the parts of a text run from its settings: policy, reference policy, reward and training prompts."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from tfppo.errors import UsageError
from tfppo.execution.compilation import choose_token_compilation
from tfppo.settings import with_settings
from tfppo.text.config import TextConfig, TextRunConfig
from tfppo.text.data.chat import read_template
from tfppo.text.data.codec import PromptCodec, check_tokenizer
from tfppo.text.data.corpus import SPLITS, Domain
from tfppo.text.data.special_tokens import special_tokens_of
from tfppo.text.defaults import parameters_of
from tfppo.text.evaluate import held_out_prompts
from tfppo.text.models.adapters import WithoutAdapters, add_adapters
from tfppo.text.models.language_model import LanguageModel, check_decoding
from tfppo.text.models.reference import as_language_model, copy_of, freeze
from tfppo.text.models.weights import fixed_weights, freeze_paths
from tfppo.text.policy import TextPolicy
from tfppo.text.presets.fetching import recorded_name
from tfppo.text.presets.folder import default_preset
from tfppo.text.rewards.callables import Reward
from tfppo.text.rewards.whole_texts import ReadsTexts
from tfppo.text.start.initial import Start, assign_parts, initial_model, keep_start
from tfppo.text.start.memory import check_memory, fitted
from tfppo.text.start.parts import OWN_MODEL, check_parts, fingerprints
from tfppo.text.start.pretraining import PretrainingLoss, PretrainingTexts, load_pretraining
from tfppo.text.start.prompts import (
    INCLUDED_LENGTH,
    SETTINGS,
    GivenPrompts,
    OwnPrompts,
    TrainingPrompts,
    keep_prompts,
    training_prompts,
    without_long_prompts,
)
from tfppo.text.start.task import GivenReward, load_task, unscored, unscored_task
from tfppo.text.tasks import Task
from tfppo.training import run_folder

SAMPLES = 8  # prompts in a table of samples


class Parts(NamedTuple):
    """The parts that a text run is made of."""

    config: TextRunConfig  # as it goes into config.yaml: with the names, the paths and the checksums of the parts
    task: Task
    start: Start
    codec: PromptCodec
    context: int | None  # context length of the language model, in tokens; None if it has no limit
    prompts: TrainingPrompts | None  # None for a trainer that does not train
    own_prompts: OwnPrompts | None  # None: the prompts are those of the task
    template: str | None  # the chat template, if the user gave a file
    is_given: bool  # True if the language model is given in Python
    reward: Reward
    notes: Sequence[str] = ()  # lines about the memory and the reward
    pretraining: PretrainingTexts | None = None
    has_checksum: bool = True  # False: version 0.2 or older wrote config.yaml, without one of the model

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
        prompts: Sequence[str] = self.task.checked_prompts("validation") or (self.prompts.texts if self.prompts else [])
        return list(prompts[:SAMPLES])

    def pretraining_loss(self, policy: TextPolicy) -> PretrainingLoss | None:
        """Returns the loss on the pretraining data; None if there are none."""
        if self.pretraining is None:
            return None
        ppo, coeff = self.config.ppo, self.config.text.pretraining_coeff
        return PretrainingLoss(policy, self.pretraining, coeff, ppo.minibatch_size, ppo.num_micro_batches)

    def fixed_weights(self, policy: TextPolicy) -> list[keras.Variable]:
        """Returns the weights of the policy's language model that checkpoints leave out.

        They are the weights that the run does not train (see `weights.fixed_weights`). They have the values of the
        model that the run started with, which is loaded again and compared with the checksum in `config.yaml`. Without
        a checksum the list is empty. A separate critic is saved completely, because its weights are in no preset.

        Args:
          policy: Policy of the run.
        """
        return fixed_weights(policy.model.model) if self.has_checksum else []


def load_parts(
    config: TextRunConfig,
    task: Task | str | None,
    reward: GivenReward,
    model: object,
    prompts: GivenPrompts,
    folder: Path | None,
    trains: bool,
    scores: bool,
    replicas: int = 1,
    memory: int | None = None,
) -> Parts:
    """Loads the parts of a text run, and checks that they fit together.

    Args:
      config: Settings of the run.
      task: As for `TextTrainer`.
      reward: As for `TextTrainer`.
      model: As for `TextTrainer`.
      prompts: Prompts that are given in Python, by split.
      folder: As for `TextTrainer`.
      trains: As for `TextTrainer`.
      scores: As for `TextTrainer`.
      replicas: As for `given_model`.
      memory: Memory for the run in bytes; None: unknown.

    Returns:
      The parts.

    Raises:
      UsageError: As `TextTrainer`.
    """
    text = config.text
    loaded = load_task(config, task, reward, prompts, folder, SPLITS if trains else SPLITS[-1:]) if scores else None
    if folder is None and model is None and text.init_from is None:
        check_memory(parameters_of(Path(text.preset or default_preset())) or 0, config, memory)
    # ----- The language model and its tokens
    start = initial_model(text, folder, model, replicas)
    kept = _paths_of(text, folder, start, model is not None) | (loaded.names if loaded else {})
    if folder is not None:
        freeze_paths(start.model, config.parts.frozen)
    language_model = as_language_model(start.model)
    check_tokenizer(start.tokenizer, language_model.vocabulary_size)
    chosen, own = (loaded.task, loaded.own) if loaded else (unscored_task(config), None)
    codec, template = make_codec(start, text, chosen.domain, folder)
    for part in loaded.parts if loaded else ():
        if isinstance(part, ReadsTexts):
            part.between = codec.between
    context = language_model.context_length
    # ----- The training prompts
    is_included = (own, model, text.preset, text.init_from) == (None, None, None, None)
    if text.prompt_length is None and is_included:
        text = replace(text, prompt_length=INCLUDED_LENGTH)
    if own is not None and text.prompt_length is not None:
        chosen = without_long_prompts(chosen, own, codec, text.prompt_length)
    training = training_prompts(chosen, codec, text, context, own is not None) if trains else None
    if training is not None:
        kept["prompt_length"] = text.prompt_length or int(training.lengths.max())
    pretraining = None
    if training is not None:
        pretraining = load_pretraining(text, folder, codec, kept["prompt_length"] + text.response_length)
    scorer = loaded.checksum if loaded else None
    recorded = fingerprints(start.model, start.tokenizer, training, chosen.domain, codec.special, scorer)
    recorded = replace(recorded, pretraining_sha256=pretraining and pretraining.checksum())
    check_parts(config.parts, recorded, None if model is not None else text.preset)
    has_checksum = folder is None or config.parts.model_sha256 is not None
    config = replace(with_settings(config, kept), parts=recorded)
    notes = [] if training is None else _notes_of(loaded.parts if loaded else (), config.text)
    if training is not None and folder is None:
        config, note = fitted(start.model, config, memory)
        notes += [note] if note else []
    used = loaded.reward if loaded else unscored
    is_given = model is not None
    parts = Parts(
        config, chosen, start, codec, context, training, own, template, is_given, used, notes, pretraining, has_checksum
    )
    if trains:  # an error now, not after the training
        parts.encode(parts.sample_prompts())
        if text.eval_prompts:
            parts.encode(held_out_prompts(chosen, text.eval_prompts))
    return parts


def _notes_of(rewards: Iterable[object], text: TextConfig) -> list[str]:
    """Returns a line about each reward that does not read all tokens of a prompt and its response."""
    assert text.prompt_length is not None
    longest = text.prompt_length + text.response_length
    limits = [reward.longest for reward in rewards if isinstance(reward, ReadsTexts) and reward.longest]
    return [
        f"warning: a prompt with its response has up to {longest} tokens, and the reward model reads at most {limit} "
        "of its own, so the rest has no effect on the score: train one with a larger max_length, or lower "
        "prompt_length or response_length"
        for limit in limits
        if longest > limit
    ]


def _paths_of(text: TextConfig, folder: Path | None, start: Start, is_given: bool) -> dict[str, Any]:
    """Returns the settings that say where the language model of a run is from.

    Paths are absolute, so that the run can be resumed from any folder.
    """
    kept: dict[str, Any] = {}
    if is_given:
        kept |= {"preset": OWN_MODEL, "dtype": start.model.dtype_policy.name}
    elif text.preset is not None and not (folder is not None and text.preset == OWN_MODEL):
        kept["preset"] = recorded_name(text.preset)
    for name in ("init_from", "pretraining_data", *SETTINGS.values()):
        if getattr(text, name) is not None:
            kept[name] = getattr(text, name).resolve()
    if start.checkpoint is not None:
        kept["init_checkpoint"] = start.checkpoint
    return kept


def choose_modes(config: TextRunConfig, device: str) -> dict[str, str]:
    """Chooses the compilation of the rollout and of the update, see `choose_token_compilation`.

    Args:
      config: Settings of the run.
      device: TensorFlow device of the run.

    Returns:
      The settings `compile_rollout` and `compile_update`, in this order.
    """
    run, text = config.run, config.text
    responses = text.iterations * text.batch_size
    trained = config.ppo.num_epochs * responses * (text.response_length + (text.prompt_length or INCLUDED_LENGTH))
    sampled = responses * text.response_length
    return {
        "compile_rollout": choose_token_compilation(run.compile_rollout, "rollout", device, sampled),
        "compile_update": choose_token_compilation(run.compile_update, "update", device, trained),
    }


def keep_parts(folder: Path, parts: Parts) -> list[str]:
    """Keeps the parts of a new run in its folder, if no other folder holds them.

    Args:
      folder: Folder of the run.
      parts: Parts of the run.

    Returns:
      Lines about what the run starts from.
    """
    if parts.own_prompts is not None:
        keep_prompts(folder, parts.own_prompts)
    if parts.pretraining is not None:
        parts.pretraining.write(folder)
    if parts.template is not None:
        (folder / run_folder.TEMPLATE).write_text(parts.template, encoding="utf-8")
    if not parts.is_given and parts.config.text.init_from is None:
        return []
    return [line for line in (parts.start.note, keep_start(folder, parts.start)) if line]


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
      UsageError: If the model cannot have adapters, cannot be copied or rematerialized, has nothing to train, or would
        sample from another policy than the one that is trained.
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
    if text.rematerialize:
        for trained in filter(None, (model, critic)):
            trained.rematerialize()
    policy = TextPolicy(model, text.temperature, critic, text.has_values)
    assign_parts(policy, start.weights)
    return policy, reference


def make_codec(
    start: Start, text: TextConfig, domain: Domain | None, folder: Path | None
) -> tuple[PromptCodec, str | None]:
    """Makes the codec of a run, with its chat template.

    Args:
      start: The model that the run starts with, and its tokenizer.
      text: Settings of the run.
      domain: Domain of the control token before each prompt.
      folder: Folder of the run, if the run exists already. It keeps a template that the user gave as a file.

    Returns:
      The codec, and the template of the user's file; None if there is no file.

    Raises:
      UsageError: If the template cannot be read or is not valid, or there is a system text without a template.
    """
    special = special_tokens_of(start.tokenizer) if start.special is None else start.special
    template, own = special.chat_template, None
    if text.chat_template == "none":
        template, special = None, special._replace(chat_template=None)  # an export must not have it either
    elif text.chat_template != "auto":
        path = Path(text.chat_template) if folder is None else folder / run_folder.TEMPLATE
        template = own = read_template(path, "; it must be auto, none or the path of a file")
    if text.system and template is None:
        raise UsageError(
            "system is given, and the run has no chat template; a system message needs one: give --chat-template FILE, "
            "or leave system out"
        )
    return PromptCodec(start.tokenizer, domain, special, template, text.system), own
