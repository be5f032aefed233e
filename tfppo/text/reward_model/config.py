"""Settings of reward models.

This module does not import TensorFlow, so that the command line starts fast.
"""

from dataclasses import dataclass, field
from pathlib import Path

from tfppo.settings import CountOrNone, NotNegative, Positive, PositiveOrNone, check_fields
from tfppo.text.config import Preset, TextParts
from tfppo.text.supervised.config import TuningConfig, TuningRunSettings

SHIPPED_LENGTH, SHIPPED_RATE = 96, 2e-4  # defaults for the movie ratings, with which the shipped model was made


@dataclass(frozen=True, slots=True)
class RewardModelConfig(TuningConfig):
    """Settings of the data, of the language model and of its training as a reward model."""

    data: Path | None = None
    """File of training examples, .jsonl or .csv. An example has the columns `prompt`, `chosen` and `rejected`, and may
    have `margin`; or `text` and `rating`; or `prompt`, `response` and `rating`. None: the human ratings of movie
    sentences that are shipped with tfppo."""
    preset: Preset = None
    """Language model to start from: a folder, name or handle, as for `tfppo train text --preset`.
    None: the language model that is shipped with tfppo."""
    max_length: CountOrNone = None
    """Largest number of tokens of an example. A longer one loses the beginning of its prompt, or the end of its text if
    that is not enough, and is counted. None: the context of the model, and at most 1024; 96 for the shipped ratings."""
    learning_rate: PositiveOrNone = None
    """Peak learning rate of AdamW: a linear warm-up over the first 5 % of the steps, then a cosine decay to 0.
    None: 1e-4 at the size of GPT-2 (124 million parameters), in inverse proportion to the square root of the size, and
    ten times as much with lora_rank; at most 1e-3. 2e-4 for the shipped ratings."""
    margin: NotNegative = 0.0
    """Comparisons: the score of the chosen response shall be higher by this margin (Touvron et al. 2023, Llama 2,
    section 3.2.2). The column `margin` replaces it."""
    difference: Positive = 1.0
    """Ratings: two texts of a batch form a pair if their ratings differ by more than this."""
    neutral_rating: float | None = None
    """Ratings: rating of a text without an opinion, whose score shall be 0. None: 0 if there are ratings below and
    above 0; otherwise only differences of scores have a meaning."""
    remove_length: bool | None = None
    """Subtracts a line over the number of words from the scores, fitted on the validation texts, so that longer texts
    do not score higher for their length. None: only for the shipped ratings."""


@dataclass(frozen=True, slots=True)
class RewardModelRunConfig:
    """All settings of a run of a reward model, as in its `config.yaml`."""

    run: TuningRunSettings = field(default_factory=TuningRunSettings)
    reward_model: RewardModelConfig = field(default_factory=RewardModelConfig)
    parts: TextParts = field(default_factory=TextParts)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def tuning(self) -> RewardModelConfig:
        """Settings of the data, of the language model and of its training."""
        return self.reward_model
