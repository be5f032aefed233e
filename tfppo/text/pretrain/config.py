"""Settings of pretraining.

This module does not import TensorFlow, so that the command line starts fast.
"""

from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

from annotated_types import Interval

from tfppo.settings import Count, NotNegative, Positive, check_fields, exact_div
from tfppo.text.config import Length, NewModelConfig, Preset, TextParts
from tfppo.text.supervised.config import TuningConfig, TuningRunSettings


@dataclass(frozen=True, slots=True)
class PretrainConfig:
    """Settings of the training on the shipped corpus.

    The first training run of the shipped model used these defaults (see `tfppo/assets/NOTICE`).
    """

    preset: Preset = None
    """Folder of a language model to continue with; it keeps its architecture, its sizes and its tokenizer.
    None: train a new model."""
    learning_rate: Positive = 1e-3
    """Peak learning rate of AdamW: a linear warm-up over the first 5 % of the steps, then a cosine decay to 0."""
    weight_decay: NotNegative = 0.01
    """Weight decay of AdamW."""
    batch_size: Count = 32
    """Sentences in a gradient step."""
    epochs: Count = 20
    """Largest number of passes over the corpus."""
    patience: Count = 3
    """Training stops after this many epochs without a lower validation loss."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True)
class CorpusModelConfig(NewModelConfig):
    """Architecture and sizes of a new language model, and the dropout of the training."""

    model: Literal["gpt2", "lstm"] = "gpt2"
    """New model: gpt2 is a small GPT-2 made of KerasHub layers, lstm is the LSTM of docs/article (section 4.3)."""
    context_length: Length = 128
    """New model: largest number of tokens that the transformer attends to, at least 8; longer sentences are cut."""
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.1
    """Dropout rate of the training, of a preset too, at least 0 and below 1; PPO uses no dropout."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.model == "gpt2":
            exact_div(self.hidden_dim, self.num_heads, "hidden_dim", "num_heads")


@dataclass(frozen=True, slots=True)
class PretrainRunConfig:
    """All settings of a pretraining run, as in its `config.yaml`."""

    run: TuningRunSettings = field(default_factory=TuningRunSettings)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    model: CorpusModelConfig = field(default_factory=CorpusModelConfig)
    parts: TextParts = field(default_factory=TextParts)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def tuning(self) -> TuningConfig:
        """Settings of the language model and of its training. Settings that pretraining lacks have their defaults."""
        return TuningConfig(**{each.name: getattr(self.pretrain, each.name) for each in fields(PretrainConfig)})
