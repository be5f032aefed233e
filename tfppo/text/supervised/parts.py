"""Loads the language model of a supervised training, and records what the run was made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import keras
import keras_hub

from tfppo.errors import UsageError
from tfppo.settings import with_settings
from tfppo.text.config import TextConfig
from tfppo.text.data.codec import PromptCodec, check_tokenizer
from tfppo.text.data.corpus import Domain
from tfppo.text.models.adapters import add_adapters
from tfppo.text.models.language_model import context_length
from tfppo.text.models.reference import as_language_model
from tfppo.text.models.weights import freeze_paths
from tfppo.text.presets.fetching import label_of, recorded_name
from tfppo.text.presets.folder import save_preset
from tfppo.text.start.assembly import make_codec
from tfppo.text.start.initial import Start, initial_model
from tfppo.text.start.parts import OWN_MODEL, SHOWN, check_parts, fingerprints
from tfppo.text.supervised.batches import Example
from tfppo.text.supervised.config import TunedRunConfig, TuningConfig, default_learning_rate
from tfppo.text.supervised.records import R, Records, keep_records
from tfppo.training import run_folder

LONGEST = 1024  # tokens of an example, if nothing else limits it
Config = TypeVar("Config", bound=TunedRunConfig)


class Base(NamedTuple):
    """The language model that a run starts from, and how its texts are encoded."""

    model: keras.Model
    tokenizer: keras_hub.models.Tokenizer
    codec: PromptCodec
    template: str | None  # the chat template, if the user gave a file
    length: int  # largest number of tokens of an example
    is_new: bool  # the weights are new
    is_given: bool  # the model is given in Python
    domain: Domain | None  # of the control token before each text; None: there is none

    def keep(self, folder: Path) -> None:
        """Writes what no other folder holds into the folder of a new run."""
        if self.template is not None:
            (folder / run_folder.TEMPLATE).write_text(self.template, encoding="utf-8")
        if self.is_new or self.is_given:
            save_preset(folder / run_folder.OWN_MODEL, self.model, self.tokenizer, "float32", self.codec.special)


@dataclass(frozen=True)
class TunedParts(Generic[Config, R]):
    """What the parts of all runs of supervised training have in common, see `supervised.run.Parts`."""

    config: Config
    records: Records[R]
    base: Base

    @property
    def model(self) -> keras.Model:
        """The language model."""
        return self.base.model

    @property
    def label(self) -> str | None:
        """Name of the data or of the preset; None: both are given in Python, or there is no preset."""
        data, preset = self.config.tuning.data, self.config.tuning.preset
        if data is not None:
            return data.stem
        return None if preset is None else label_of(preset)

    def write(self, folder: Path) -> None:
        """Writes the parts that a resumed run needs into the folder of a new run."""
        keep_records(folder, self.records)
        self.base.keep(folder)

    def notices_of_validation(self, count: int) -> list[str]:
        """Returns lines about validation examples that are missing, or that are training examples, too.

        Args:
          count: Number of validation examples.
        """
        lines = []
        if self.records.overlap:
            lines.append(
                f"warning: {self.records.overlap} of {len(self.records.validation)} validation examples are also "
                "training examples, so that the validation loss is too low"
            )
        if not count:
            lines.append("note: there are no validation examples, so that the training does not stop early")
        return lines


def load_base(
    config: TunedRunConfig,
    given: object,
    folder: Path | None,
    make_new: Callable[[], Start] | None = None,
    domain: Domain | None = None,
    longest: int = LONGEST,
) -> Base:
    """Loads the language model of a run. Sets the seed of Keras.

    Args:
      config: Settings of the run.
      given: A language model that is given in Python, as for `TextTrainer`. None: that of the settings.
      folder: Folder of the run, if the run exists already.
      make_new: Makes a new model for a new run. None: the run starts from a trained one.
      domain: Domain of the control token before each text.
      longest: Largest number of tokens of an example if nothing else limits it.

    Returns:
      The model.

    Raises:
      UsageError: If the model cannot be loaded or tuned.
    """
    tuning = config.tuning
    keras.utils.set_random_seed(config.run.seed)
    text = TextConfig(
        preset=tuning.preset, dtype=tuning.dtype, chat_template=tuning.chat_template, system=tuning.system
    )
    start = initial_model(text, folder, given) if make_new is None or folder is not None else make_new()
    if folder is not None:
        freeze_paths(start.model, config.parts.frozen)
    check_tokenizer(start.tokenizer, as_language_model(start.model).vocabulary_size)
    if not tuning.lora_rank and not start.model.trainable_weights:
        raise UsageError(
            f"all weights of {type(start.model).__name__} are frozen; a run without lora_rank must have weights to "
            "train: set model.trainable = True and save the preset again, or set lora_rank"
        )
    codec, template = make_codec(start, text, domain, folder)
    length = _length_limit(tuning, start.model, longest)
    is_new, is_given = make_new is not None, given is not None
    return Base(start.model, start.tokenizer, codec, template, length, is_new, is_given, domain)


def recorded(config: Config, base: Base, checksum: str) -> Config:
    """Returns the settings as they go into config.yaml: with the learning rate, the paths and the checksums.

    Args:
      config: Settings of the run.
      base: The language model of the run.
      checksum: Checksum of the training examples.

    Raises:
      UsageError: If the parts are not those that an existing run was made of.
    """
    tuning, was = config.tuning, config.parts.prompts_sha256
    if was is not None and was != checksum:
        raise UsageError(
            f"the training examples in the run's folder have the checksum {checksum[:SHOWN]}; the run started with "
            f"{was[:SHOWN]}: restore the files in {run_folder.DATA} from a copy, or start a new run"
        )
    found = fingerprints(base.model, base.tokenizer, None, base.domain, base.codec.special)
    found = replace(found, prompts_sha256=checksum)
    check_parts(config.parts, found, tuning.preset)
    kept: dict[str, object] = {}
    if tuning.learning_rate is None:
        kept["learning_rate"] = default_learning_rate(base.model.count_params(), base.is_new, tuning.lora_rank)
    if base.is_given:
        kept |= {"preset": OWN_MODEL, "dtype": base.model.dtype_policy.name}
    elif tuning.preset is not None and tuning.preset != OWN_MODEL:
        kept["preset"] = recorded_name(tuning.preset)
    for name in ("data", "validation_data"):
        if getattr(tuning, name) is not None:
            kept[name] = getattr(tuning, name).resolve()
    return replace(with_settings(config, kept), parts=found)


def with_adapters(model: keras.Model, config: TunedRunConfig) -> keras.Model:
    """Adds the adapters of a run to its language model if it has any, and returns the model."""
    tuning = config.tuning
    if tuning.lora_rank:
        add_adapters(model, tuning.lora_rank, config.run.seed, tuning.lora_alpha, tuning.lora_targets)
    return model


def fixed_length(model: keras.Model, *parts: Sequence[Example]) -> int | None:
    """Returns the number of tokens that all rows of batches must have; None if batches may differ in length.

    Args:
      model: The language model.
      *parts: The examples of the run.
    """
    if not as_language_model(model).needs_static_length:
        return None
    return max(example.length for part in parts for example in part)


def _length_limit(tuning: TuningConfig, model: keras.Model, longest: int) -> int:
    """Returns the largest number of tokens of an example.

    Raises:
      UsageError: If `max_length` exceeds the context of the model.
    """
    context = context_length(model)
    if tuning.max_length is None:
        return longest if context is None else min(context, longest)
    if context is not None and tuning.max_length > context:
        raise UsageError(
            f"max_length is {tuning.max_length}; it must be at most the context of the model, {context} tokens: lower "
            "it, or leave it out"
        )
    return tuning.max_length
