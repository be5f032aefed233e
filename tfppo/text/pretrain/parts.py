"""The parts of a pretraining run: the corpus, the language model, and what the run leaves behind."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np

from tfppo.errors import UsageError, one_line
from tfppo.text.data.corpus import Sentence, sentences
from tfppo.text.data.likelihood import best_temperature, encode, make_dataset, nats_per_character
from tfppo.text.data.tokenizer import check_control_tokens, train_tokenizer
from tfppo.text.models.copying import ModelsDiffer, copy_weights, rebuilt
from tfppo.text.models.language_model import final_normalization
from tfppo.text.models.lstm import make_lstm
from tfppo.text.models.transformer import make_transformer
from tfppo.text.presets.fetching import label_of
from tfppo.text.presets.folder import TOKENIZER_FILE, load_preset, save_preset
from tfppo.text.pretrain.config import PretrainRunConfig
from tfppo.text.sft.examples import Example, Examples
from tfppo.text.sft.parts import make_training
from tfppo.text.start.initial import Start
from tfppo.text.supervised.parts import Base, load_base, recorded
from tfppo.text.supervised.records import Records
from tfppo.text.supervised.run import BYTES
from tfppo.text.supervised.training import Training
from tfppo.training import files, run_folder


@dataclass(frozen=True)
class PretrainParts:
    """The parts of a pretraining run, see `supervised.run.Parts`."""

    config: PretrainRunConfig
    base: Base
    train: Examples
    validation: Examples

    title = "pretraining"

    @property
    def model(self) -> keras.Model:
        """The language model."""
        return self.base.model

    @property
    def label(self) -> str:
        """The architecture of a new model, or the name of the preset."""
        preset = self.config.pretrain.preset
        return self.config.model.model if preset is None else label_of(preset)

    @property
    def subject(self) -> str:
        """The examples in words."""
        return f"{len(self.train.examples):,} sentences of {self.train.tokens:,} tokens"

    def write(self, folder: Path) -> None:
        """Writes the language model that the run starts from into the folder of a new run."""
        self.base.keep(folder)

    def notices(self) -> list[str]:
        """Returns no lines."""
        return []

    def training(self) -> Training:
        """Makes the training."""
        return make_training(self.model, self.train, self.validation, self.config)

    def save(self, folder: Path, training: Training) -> None:
        """Calibrates the trained model, and saves it as a preset."""
        del training
        calibrate(self.model, self.validation, self.config.pretrain.batch_size)
        preset = folder / run_folder.PRESET
        with files.replacing(preset, (TOKENIZER_FILE,), BYTES * self.model.count_params()) as new:
            save_preset(new, self.model, self.base.tokenizer)

    def evaluation(self, folder: Path, training: Training) -> dict[str, Any]:
        """Evaluates the saved model on the movie sentences of the validation and the test split."""
        del training
        model, tokenizer = load_preset(folder / run_folder.PRESET)  # a preset rounds the weights
        evaluation = {}
        for split in ("validation", "test"):
            losses = nats_per_character(model, tokenizer, sentences(split, "movie"))
            evaluation[split] = dict(zip(("nats_per_character", "nats_per_token"), losses, strict=True))
        return evaluation

    def describe(self, folder: Path, evaluation: dict[str, Any]) -> str:
        """Formats an evaluation as one line, with the command that uses the model."""
        test = evaluation["test"]
        return (
            f"loss on the test split {test['nats_per_character']:.3f} nats per character, "
            f"{test['nats_per_token']:.3f} nats per token; tune it with: tfppo train text --preset "
            f"{run_folder.quoted(folder / run_folder.PRESET)}"
        )


def corpus() -> Records[Any]:
    """Returns the sentences of the shipped corpus."""
    return Records(sentences("train"), sentences("validation"))


def load_parts(config: PretrainRunConfig, records: Records[Any], given: object, folder: Path | None) -> PretrainParts:
    """Makes or loads the language model of a run, and encodes the corpus. Sets the seed of Keras.

    Args:
      config: Settings of the run.
      records: The sentences of `corpus`.
      given: None.
      folder: Folder of the run, if the run exists already.

    Returns:
      The parts.

    Raises:
      UsageError: If the preset cannot be loaded or trained, its tokenizer lacks the control tokens of the corpus, sizes
        are set for it, or the parts are not those that an existing run was made of.
    """
    del given
    if config.pretrain.preset is not None:
        config.model.check_unused(besides=("dropout",))
    base = load_base(config, None, folder, lambda: _start(config, records.train), longest=config.model.context_length)
    train, validation = (_examples(base, part) for part in (records.train, records.validation))
    return PretrainParts(recorded(config, base, train.checksum()), base, train, validation)


def calibrate(model: keras.Model, held_out: Examples, batch_size: int) -> None:
    """Divides the logits by the temperature with the lowest loss on held-out text (Guo et al. 2017).

    A model that was trained for many epochs is overconfident. The temperature goes into the weights of the final
    layer normalization, which scale the logits. An LSTM has no such layer and is not changed.

    Args:
      model: The model.
      held_out: The held-out examples.
      batch_size: Number of examples in a forward pass.
    """
    normalization = final_normalization(model)
    if normalization is not None:
        batches = make_dataset([example.tokens for example in held_out.examples], batch_size)
        temperature = best_temperature(model, batches)
        normalization.set_weights([weight / temperature for weight in normalization.get_weights()])


def _examples(base: Base, part: Sequence[Sentence]) -> Examples:
    rows = encode(base.tokenizer, part, base.length)
    return Examples([Example(row, np.arange(len(row)) > 0) for row in rows], 0, 0)


def _start(config: PretrainRunConfig, train: Sequence[Sentence]) -> Start:
    """Makes a new model with a tokenizer of the corpus, or loads those of the preset."""
    preset = config.pretrain.preset
    if preset is not None:
        return Start(*_load_to_go_on(preset, config.model.dropout))
    tokenizer = train_tokenizer([sentence.text for sentence in train], config.model.vocabulary_size)
    make = make_lstm if config.model.model == "lstm" else make_transformer
    return Start(make(tokenizer.vocabulary_size(), config.model), tokenizer)


def _load_to_go_on(preset: Path | str, dropout: float) -> tuple[keras.Model, keras_hub.models.Tokenizer]:
    """Loads the model of a preset, with another dropout rate, and its tokenizer."""
    model, tokenizer = load_preset(preset)
    check_control_tokens(tokenizer, preset)
    if not model.trainable_weights:
        raise UsageError(
            f"all weights of preset {preset} are frozen; pretraining needs weights to train: load it, set "
            "model.trainable = True and save it again"
        )
    try:
        twin = rebuilt(model, dropout=dropout)
        copy_weights(model, twin)
    except (ModelsDiffer, TypeError) as error:  # TypeError: the model has no setting for dropout
        raise UsageError(
            f"preset {preset} holds a {type(model).__name__} that cannot be built with dropout {dropout} "
            f"({one_line(error)}): give a preset that tfppo pretrain made"
        ) from error
    return twin, tokenizer
