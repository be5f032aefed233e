"""Loads the parts of a run of supervised fine-tuning: records, a language model, and the examples made of both."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import keras
import keras_hub

from tfppo.errors import UsageError
from tfppo.settings import with_settings
from tfppo.text.config import PretrainConfig, TextConfig
from tfppo.text.data.codec import PromptCodec, check_tokenizer
from tfppo.text.data.special_tokens import SpecialTokens
from tfppo.text.data.tokenizer import train_tokenizer
from tfppo.text.models.copying import default_policy
from tfppo.text.models.language_model import context_length
from tfppo.text.models.reference import as_language_model
from tfppo.text.models.transformer import make_transformer
from tfppo.text.models.weights import freeze_paths
from tfppo.text.presets.fetching import recorded_name
from tfppo.text.presets.folder import save_preset
from tfppo.text.start.assembly import make_codec
from tfppo.text.start.initial import Start, initial_model
from tfppo.text.start.parts import OWN_MODEL, SHOWN, check_parts, fingerprints
from tfppo.text.supervised.config import (
    NewModelConfig,
    SFTConfig,
    SFTRunConfig,
    check_start,
    default_learning_rate,
    no_data,
)
from tfppo.text.supervised.examples import Examples, check_some_are_left, encode_records
from tfppo.text.supervised.records import Record, as_records, overlap, split_records, write_records
from tfppo.training import run_folder

LONGEST = 1024  # tokens of an example, if nothing else limits it
TRAIN_FILE, VALIDATION_FILE = "train.jsonl", "validation.jsonl"


class Records(NamedTuple):
    """The records of a run."""

    train: list[Record]
    validation: list[Record]
    overlap: int = 0  # validation records that are also training records


class Parts(NamedTuple):
    """The parts of a run of supervised fine-tuning."""

    config: SFTRunConfig  # as it goes into config.yaml: with the learning rate, the paths and the checksums
    records: Records
    model: keras.Model
    tokenizer: keras_hub.models.Tokenizer
    special: SpecialTokens  # of the tuned model, with the chat template that it was tuned with
    train: Examples
    validation: Examples
    template: str | None  # the chat template, if the user gave a file
    length: int  # largest number of tokens of an example
    keeps_model: bool  # no other folder holds the model that the run starts with

    def write(self, folder: Path) -> None:
        """Writes the parts that a resumed run needs into the folder of a new run."""
        (folder / run_folder.DATA).mkdir()
        write_records(folder / run_folder.DATA / TRAIN_FILE, self.records.train)
        if self.records.validation:
            write_records(folder / run_folder.DATA / VALIDATION_FILE, self.records.validation)
        if self.template is not None:
            (folder / run_folder.TEMPLATE).write_text(self.template, encoding="utf-8")
        if self.keeps_model:
            save_preset(folder / run_folder.OWN_MODEL, self.model, self.tokenizer, "float32", self.special)


def load_records(config: SFTConfig, data: object, validation: object) -> Records:
    """Loads the records of a new run.

    Args:
      config: Settings of the run.
      data: Training data that are given in Python; None: the file `config.data`.
      validation: Validation data that are given in Python; None: the file `config.validation_data`, or a share.

    Returns:
      The records.

    Raises:
      UsageError: If data are missing or given twice, or they cannot be read.
    """
    for name, given, path in (("data", data, config.data), ("validation_data", validation, config.validation_data)):
        if given is not None and path is not None:
            raise UsageError(f"{name} is {path}, and {name} is given in Python, too: leave one out")
    if data is None and config.data is None:
        raise no_data()
    train = as_records(config.data if data is None else data, "data")
    given = config.validation_data if validation is None else validation
    if given is not None:
        held_out = as_records(given, "validation_data")
        return Records(train, held_out, overlap(train, held_out))
    kept, held_out = split_records(train, config.validation_share)
    return Records(kept, held_out) if kept and held_out else Records(train, [])


def kept_records(folder: Path) -> Records:
    """Reads the records that the folder of a run keeps.

    Raises:
      UsageError: If the file of the training records is missing, or a file is damaged.
    """
    data = folder / run_folder.DATA
    train = as_records(data / TRAIN_FILE, "data")
    held_out = as_records(data / VALIDATION_FILE, "data") if (data / VALIDATION_FILE).is_file() else []
    return Records(train, held_out, overlap(train, held_out))


def load_parts(config: SFTRunConfig, records: Records, given: object = None, folder: Path | None = None) -> Parts:
    """Loads the language model of a run, and encodes its records. Sets the seed of Keras.

    Args:
      config: Settings of the run.
      records: Records of the run.
      given: A language model that is given in Python, as for `TextTrainer`. None: that of the settings.
      folder: Folder of the run, if the run exists already.

    Returns:
      The parts.

    Raises:
      UsageError: If the model cannot be loaded or tuned, the examples cannot be encoded or are too long, or the parts
        are not those that an existing run was made of.
    """
    sft = config.sft
    keras.utils.set_random_seed(config.run.seed)
    text = TextConfig(preset=sft.preset, dtype=sft.dtype, chat_template=sft.chat_template, system=sft.system)
    is_new = given is None and sft.preset is None
    check_start(config, is_new)
    start = _new_model(config, records) if is_new and folder is None else initial_model(text, folder, given)
    if folder is not None:
        freeze_paths(start.model, config.parts.frozen)
    check_tokenizer(start.tokenizer, as_language_model(start.model).vocabulary_size)
    if not sft.lora_rank and not start.model.trainable_weights:
        raise UsageError(
            f"all weights of {type(start.model).__name__} are frozen; a run without lora_rank must have weights to "
            "train: set model.trainable = True and save the preset again, or set lora_rank"
        )
    # ----- The examples
    codec, template = make_codec(start, text, None, folder)
    plain = PromptCodec(start.tokenizer, None, codec.special._replace(chat_template=None))
    length = _length_limit(sft, start.model)
    train, validation = (
        encode_records(part, codec, plain, sft.loss_on, length) for part in (records.train, records.validation)
    )
    check_some_are_left(train, "training examples", length)
    # ----- The settings that go into config.yaml
    special = codec.special
    if codec.chat is None and any(record.prompt is not None for record in records.train):
        special = special._replace(chat_template=None)
    found = fingerprints(start.model, start.tokenizer, None, None, codec.special)
    found = replace(found, prompts_sha256=train.checksum())
    _check_data(config, found.prompts_sha256)
    check_parts(replace(config.parts, prompts_sha256=None), found, sft.preset)
    kept: dict[str, object] = {}
    if sft.learning_rate is None:
        kept["learning_rate"] = default_learning_rate(start.model.count_params(), is_new, sft.lora_rank)
    if given is not None:
        kept |= {"preset": OWN_MODEL, "dtype": start.model.dtype_policy.name}
    elif sft.preset is not None and sft.preset != OWN_MODEL:
        kept["preset"] = recorded_name(sft.preset)
    for name in ("data", "validation_data"):
        if getattr(sft, name) is not None:
            kept[name] = getattr(sft, name).resolve()
    config = replace(with_settings(config, kept), parts=found)
    keeps_model = is_new or given is not None
    return Parts(
        config, records, start.model, start.tokenizer, special, train, validation, template, length, keeps_model
    )


def _length_limit(sft: SFTConfig, model: keras.Model) -> int:
    """Returns the largest number of tokens of an example.

    Raises:
      UsageError: If `max_length` exceeds the context of the model.
    """
    context = context_length(model)
    if sft.max_length is None:
        return LONGEST if context is None else min(context, LONGEST)
    if context is not None and sft.max_length > context:
        raise UsageError(
            f"max_length is {sft.max_length}; it must be at most the context of the model, {context} tokens: lower it, "
            "or leave it out"
        )
    return sft.max_length


def _check_data(config: SFTRunConfig, checksum: str | None) -> None:
    was = config.parts.prompts_sha256
    if None not in (was, checksum) and was != checksum:
        assert was is not None and checksum is not None
        raise UsageError(
            f"the training examples in the run's folder have the checksum {checksum[:SHOWN]}; the run started with "
            f"{was[:SHOWN]}: restore the files in {run_folder.DATA} from a copy, or start a new run"
        )


def _new_model(config: SFTRunConfig, records: Records) -> Start:
    """Makes a small GPT-2 with new weights, and learns its tokenizer from the training records."""
    sizes: NewModelConfig = config.model
    tokenizer = train_tokenizer(_texts(records.train), sizes.vocabulary_size)
    shape = PretrainConfig(
        num_layers=sizes.num_layers,
        num_heads=sizes.num_heads,
        hidden_dim=sizes.hidden_dim,
        context_length=sizes.context_length,
        dropout=sizes.dropout,
    )
    with default_policy(config.sft.dtype):
        return Start(make_transformer(tokenizer.vocabulary_size(), shape), tokenizer)


def _texts(records: Sequence[Record]) -> list[str]:
    texts = []
    for record in records:
        if record.prompt is not None:
            messages = record.prompt.messages
            texts += [str(record.prompt)] if messages is None else [str(message["content"]) for message in messages]
        texts.append(record.answer)
    return texts
