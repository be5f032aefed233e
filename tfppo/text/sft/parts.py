"""The parts of a run of supervised fine-tuning: records, a language model, and the examples made of both."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from tfppo.text.data.tokenizer import train_tokenizer
from tfppo.text.models.copying import default_policy
from tfppo.text.models.transformer import make_transformer
from tfppo.text.presets.configs import TOKENIZER_FILE
from tfppo.text.presets.folder import save_preset
from tfppo.text.sft.config import SFTRunConfig, check_start
from tfppo.text.sft.examples import Example, Examples, check_some_are_left, encode_records
from tfppo.text.sft.network import can_pack, training_network
from tfppo.text.sft.packing import layout
from tfppo.text.sft.records import Record
from tfppo.text.sft.tuner import SFTTuner, perplexity
from tfppo.text.start.initial import Start
from tfppo.text.supervised.batches import Batches, by_length
from tfppo.text.supervised.config import TunedRunConfig
from tfppo.text.supervised.parts import TunedParts, fixed_length, load_base, recorded, with_adapters
from tfppo.text.supervised.records import Records
from tfppo.text.supervised.run import BYTES
from tfppo.text.supervised.training import Training
from tfppo.training import files, run_folder


@dataclass(frozen=True)
class SFTParts(TunedParts[SFTRunConfig, Record]):
    """The parts of a run of supervised fine-tuning, see `supervised.run.Parts`."""

    train: Examples
    validation: Examples

    title = "fine-tuning"

    @property
    def label(self) -> str | None:
        """Name of the task, of the data or of the preset."""
        return self.config.sft.task or super().label

    @property
    def subject(self) -> str:
        """The examples in words."""
        return f"{len(self.train.examples)} examples of {self.train.tokens:,} tokens"

    def notices(self) -> list[str]:
        """Returns lines about examples that are cut, left out, or in both parts of the data."""
        lines, length = [], self.base.length
        for what, examples in (("training", self.train), ("validation", self.validation)):
            total = len(examples.examples) + examples.left_out
            if examples.truncated:
                lines.append(
                    f"note: {examples.truncated} of {total} {what} examples are longer than {length} tokens and are cut"
                )
            if examples.left_out:
                lines.append(
                    f"note: {examples.left_out} of {total} {what} examples are left out, because their prompt alone "
                    f"fills {length} tokens"
                )
            if examples.spelled:
                lines.append(
                    f"warning: {examples.spelled} of {total} {what} examples spell out special tokens, which stay "
                    "text, so that the model does not learn them: give conversations as messages, and no end token"
                )
        lines += self.notices_of_validation(len(self.validation.examples))
        return lines

    def training(self) -> Training:
        """Makes the training. Adds adapters to the model if the run has any."""
        model = with_adapters(self.model, self.config)
        return make_training(model, self.train, self.validation, self.config, self.config.sft.packing)

    def save(self, folder: Path, training: Training) -> None:
        """Saves the tuned model as a preset."""
        del training
        preset = folder / run_folder.PRESET
        special = self.base.codec.special
        if self.base.codec.chat is None and any(record.prompt is not None for record in self.records.train):
            special = special._replace(chat_template=None)
        with files.replacing(preset, (TOKENIZER_FILE,), BYTES * self.model.count_params()) as new:
            save_preset(new, self.model, self.base.tokenizer, "float32", special)

    def evaluation(self, folder: Path, training: Training) -> dict[str, Any]:
        """Evaluates the saved weights on the validation examples."""
        del folder
        found, first = training.validate(), training.progress.first_loss
        validation = None
        if found:
            loss = found["loss"]
            validation = {
                "loss": loss,
                "perplexity": perplexity(loss),
                "accuracy": found["accuracy"],
                "loss_before": first,
                "perplexity_before": perplexity(first),
                **_sizes(self.validation),
                "in_training_data": self.records.overlap,
            }
        return {
            "validation": validation,
            "train": _sizes(self.train),
            "packed": not training.batches.layout.sorts,
            "padding": round(training.batches.padding(), 4),
        }

    def describe(self, folder: Path, evaluation: dict[str, Any]) -> str:
        """Formats an evaluation as one line, with the command that uses the model."""
        system = self.config.sft.system
        words = [] if system is None else ["--system", shlex.quote(system)]
        preset = run_folder.quoted(folder / run_folder.PRESET)
        use = f"tune it with: tfppo train text --preset {' '.join([preset, *words])}"
        found = evaluation["validation"]
        if found is None:
            return use
        return (
            f"validation loss {found['loss']:.3f} nats per token (before: {found['loss_before']:.3f}), perplexity "
            f"{found['perplexity']:.3g} (before: {found['perplexity_before']:.3g}); {use}"
        )


def make_training(
    model: keras.Model, train: Examples, validation: Examples, config: TunedRunConfig, packing: bool = True
) -> Training:
    """Makes the training of a language model on the likelihood of tokens.

    Args:
      model: The language model.
      train: Training examples.
      validation: Validation examples; if there are none, there is no validation.
      config: Settings of the run.
      packing: Packs several examples into a row if the model can do so.
    """
    tuning = config.tuning
    packs = packing and can_pack(model)
    length = fixed_length(model, train.examples, validation.examples)
    rows, size = layout(packs, None if length is None else length - 1), tuning.batch_size
    batches = Batches(train.examples, size, rows, config.run.seed)
    held_out: Batches[Example, Any] | None = None
    if validation.examples:
        held_out = Batches(by_length(validation.examples), size, rows)
    network = training_network(model, packs, tuning.rematerialize)
    return Training(SFTTuner(network), model, batches, held_out, tuning)


def load_parts(config: SFTRunConfig, records: Records[Record], given: object, folder: Path | None) -> SFTParts:
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
    is_new = given is None and config.sft.preset is None
    check_start(config, is_new)
    base = load_base(config, given, folder, (lambda: _new_model(config, records.train)) if is_new else None)
    plain = base.codec.for_texts()
    train, validation = (
        encode_records(part, base.codec, plain, config.sft.loss_on, base.length)
        for part in (records.train, records.validation)
    )
    check_some_are_left(train, "training examples", base.length)
    return SFTParts(recorded(config, base, train.checksum()), records, base, train, validation)


def _sizes(examples: Examples) -> dict[str, int]:
    return {
        "examples": len(examples.examples),
        "tokens": examples.tokens,
        "truncated": examples.truncated,
        "left_out": examples.left_out,
    }


def _new_model(config: SFTRunConfig, records: Sequence[Record]) -> Start:
    """Makes a small GPT-2 with new weights, and learns its tokenizer from the training records."""
    tokenizer = train_tokenizer(_texts(records), config.model.vocabulary_size)
    with default_policy(config.sft.dtype):
        return Start(make_transformer(tokenizer.vocabulary_size(), config.model), tokenizer)


def _texts(records: Sequence[Record]) -> list[str]:
    texts = []
    for record in records:
        if record.prompt is not None:
            messages = record.prompt.messages
            texts += [str(record.prompt)] if messages is None else [str(message["content"]) for message in messages]
        texts.append(record.answer)
    return texts
