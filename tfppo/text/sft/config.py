"""Settings of supervised fine-tuning.

This module does not import TensorFlow, so that the command line starts fast.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tfppo.errors import UsageError
from tfppo.settings import Must, check_fields, is_printable
from tfppo.text.config import NewModelConfig, Preset, TextParts
from tfppo.text.supervised.config import TuningConfig, TuningRunSettings


@dataclass(frozen=True, slots=True)
class SFTConfig(TuningConfig):
    """Settings of the data, of the language model and of its supervised fine-tuning."""

    data: Path | None = None
    """File of training examples, .jsonl, .csv or .txt. An example has the column `text`, or `prompt` and `response`, or
    `messages` (.jsonl only), a conversation for the chat template. Each line of a .txt file is a text."""
    task: Annotated[str | None, Must(is_printable, "the name of a task")] = None
    """Name of a task whose examples are the data: one of `tfppo tasks`, or package.module:NAME for a task of your own.
    None: the data are data."""
    preset: Preset = None
    """Language model to tune: a folder, name or handle, as for `tfppo train text --preset`.
    None: a small GPT-2 with new weights, whose tokenizer is learned from the data."""
    chat_template: Annotated[str, Must(is_printable, "auto, none or the path of a file")] = "auto"
    """Chat template that renders prompts and messages. auto: that of the language model, if it has one. none: prompts
    are not rendered. Else the path of a file with a Jinja template. A column `text` is never rendered."""
    loss_on: Literal["responses", "all"] = "responses"
    """Tokens whose loss is minimized. responses: those of responses, with their end token; all: those of prompts, too,
    each token of a conversation once. All tokens of a `text` count in both cases."""
    packing: bool = True
    """Packs several short examples of a batch into a row, without attention between them. It saves computation and does
    not change the loss. Families that cannot do so get batches of similar lengths instead."""


@dataclass(frozen=True, slots=True)
class SFTRunConfig:
    """All settings of a run of supervised fine-tuning, as in its `config.yaml`."""

    run: TuningRunSettings = field(default_factory=TuningRunSettings)
    sft: SFTConfig = field(default_factory=SFTConfig)
    model: NewModelConfig = field(default_factory=NewModelConfig)
    parts: TextParts = field(default_factory=TextParts)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def tuning(self) -> SFTConfig:
        """Settings of the data, of the language model and of its training."""
        return self.sft


def check_start(config: SFTRunConfig, is_new: bool) -> None:
    """Checks that a new model has no settings for presets, and a trained model none for new models.

    Args:
      config: Settings of the run.
      is_new: True if the run makes a new model.

    Raises:
      UsageError: If adapters are set for a new model, or sizes for a trained one.
    """
    if not is_new:
        config.model.check_unused()
    if is_new and config.sft.lora_rank:
        if config.sft.task is not None:
            raise UsageError(
                f"task {config.sft.task} tunes a trained model with adapters, and preset is None; a new model cannot "
                "know the answers: give preset, for example the model that make smollm2 makes"
            )
        raise UsageError(
            f"lora_rank is {config.sft.lora_rank} and preset is None; adapters tune a trained model: give preset, or "
            "leave lora_rank out"
        )
