"""The settings of text: pretraining, and tuning by PPO. No TensorFlow here, so that the command line can answer at
once."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from tfppo.errors import UsageError
from tfppo.ppo.config import PPOConfig
from tfppo.settings import (
    AtLeastZero,
    Count,
    Must,
    NotNegative,
    Positive,
    PositiveOrNone,
    Seed,
    check_fields,
    check_value,
    exact_div,
    is_printable,
    with_settings,
)
from tfppo.training.config import RunConfig

Length = Annotated[int, Ge(8)]
VocabularySize = Annotated[int, Must(lambda v: v >= 512, "at least 512 (256 bytes, special tokens, and some pairs)")]


@dataclass(frozen=True, slots=True)
class PretrainConfig:
    """A language model and how it learns the corpus. The shipped one began with these defaults (data/NOTICE)."""

    model: Literal["gpt2", "lstm"] = "gpt2"
    """gpt2: a small GPT-2 of KerasHub's parts; lstm: the document's recurrent one (section 4.3)."""
    preset: Path | None = None
    """Folder of a language model to go on with; its kind, its sizes and its tokenizer count then."""
    vocabulary_size: VocabularySize = 2048
    """Tokens of the byte-pair tokenizer that is learnt from the corpus."""
    num_layers: Count = 4
    """Transformer or LSTM layers."""
    num_heads: Count = 4
    """Attention heads of the transformer; they divide hidden_dim exactly."""
    hidden_dim: Count = 256
    """Width of the model."""
    context_length: Length = 128
    """Tokens that the transformer can look at; longer sentences are cut."""
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.1
    """Dropout while it is pretrained; in PPO it is off."""
    learning_rate: Positive = 1e-3
    """AdamW's step size at its highest, after a warm-up over 5 % of the steps; then a cosine to 0."""
    weight_decay: NotNegative = 0.01
    """AdamW's weight decay."""
    batch_size: Count = 32
    """Sentences a step."""
    epochs: Count = 20
    """Passes over the corpus at most."""
    patience: Count = 3
    """Epochs without a better validation loss after which training stops."""
    seed: Seed = 1
    """Seed of the weights, the dropout and the order of the sentences."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.model == "gpt2":
            exact_div(self.hidden_dim, self.num_heads, "hidden_dim", "num_heads")


@dataclass(frozen=True, slots=True)
class RewardModelConfig:
    """A reward model and how it learns people's ratings. Defaults are those of the one that is shipped."""

    difference: Positive = 1.0
    """Points (of -4 to 4) by which the mean ratings of a pair must differ."""
    learning_rate: Positive = 2e-4
    """AdamW's step size at its highest, after a warm-up over 10 % of the steps; then a cosine to 0."""
    weight_decay: NotNegative = 0.01
    """AdamW's weight decay."""
    batch_size: Count = 32
    """Sentences a step; all their pairs count."""
    epochs: Count = 3
    """Passes over the rated sentences."""
    length: Length = 96
    """Tokens of a sentence that are read."""
    seed: Seed = 1
    """Seed of the head, the dropout and the order of the sentences."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True)
class TextConfig:
    """A task, the language model that is tuned for it, and how much it writes."""

    task: Annotated[str, Must(is_printable, "the name of a task")] = "sentiment"
    """The task's name."""
    preset: Path | None = None
    """Folder of the language model (`tfppo pretrain` makes one); None: the one that is shipped."""
    reward: Annotated[str | None, Must(is_printable, "package.module:function")] = None
    """A Python reward in place of the task's, as package.module:function."""
    iterations: Count = 160
    """Rollouts, each followed by an update."""
    batch_size: Count = 64
    """Prompts in a rollout, one response each."""
    prompt_length: Count = 12
    """Tokens of a training prompt at most; longer prompts of the task are left out."""
    response_length: Count = 40
    """Tokens of a response at most, its end included."""
    stop_token: str | None = None
    """A token that ends a response too, like "." [Ziegler et al. 2019]; None: only the end of the text does."""
    stop_after: int = 0
    """Tokens at the start of a response that stop_token does not end it at."""
    temperature: Positive = 1.0
    """Logits are divided by it in sampling and in every log-probability."""
    separate_critic: bool = False
    """Values from a language model of their own, in place of a head on the policy's trunk."""
    lora_rank: AtLeastZero = 0
    """Rank of adapters on queries and values, which alone are trained [Hu et al. 2021]; 0: all weights are."""
    normalize_scores: bool = True
    """Scale scores to mean 0 and standard deviation 1 on the reference's responses [Ziegler et al. 2019]."""
    score_clip: PositiveOrNone = None
    """Largest magnitude of a score, after normalisation; None: unlimited."""
    score_position: Literal["last", "after_end"] = "last"
    """Where the score goes: to the response's last token, or to the slot behind its end."""
    missing_end_penalty: NotNegative = 0.0
    """Subtracted from the score of a response that does not end within response_length tokens."""
    whiten_rewards: bool = False
    """Scale the rewards of a rollout to standard deviation 1, keeping their mean [Ziegler et al. 2019]."""
    dtype: Literal["float32", "mixed_bfloat16"] = "float32"
    """Precision of the language models' matrix products."""
    sample_interval: Count = 10
    """Iterations between two tables of samples."""
    eval_prompts: AtLeastZero = 200
    """Held-out prompts of the evaluation at the end; 0: none."""

    def __post_init__(self) -> None:
        check_fields(self)
        wanted = f"between 0 and response_length - 1 = {self.response_length - 1}"
        check_value("stop_after", self.stop_after, wanted, lambda v: 0 <= v < self.response_length)


TEXT_PPO = PPOConfig(
    learning_rate=2e-4,
    value_clip=0.2,
    value_coeff=0.1,
    entropy_coeff=0.022,
    kl_in="reward",
    kl_controller="ziegler",
    kl_coeff=0.1,
    adaptive_kl_target=10.5,
    kl_horizon=600,
    max_grad_norm=1.0,
    gamma=1.0,
    gae_lambda=0.95,
    num_epochs=2,
    minibatch_size=32,
)
"""Where text differs from control: Ziegler et al. 2019 in the main, at the size of the shipped model."""


@dataclass(frozen=True, slots=True)
class TextRunConfig:
    """Everything that defines a text run: what config.yaml holds."""

    run: RunConfig = field(default_factory=RunConfig)
    text: TextConfig = field(default_factory=TextConfig)
    ppo: PPOConfig = field(default_factory=lambda: TEXT_PPO)

    def __post_init__(self) -> None:
        check_fields(self)
        exact_div(self.text.batch_size, self.ppo.minibatch_size, "batch_size", "minibatch_size")
        if self.ppo.recompute_advantages:
            raise UsageError("recompute_advantages is for control; text keeps the rollout's values: leave it out")


def make_text_config(**settings: object) -> TextRunConfig:
    """Makes the config of a text run: the defaults of text, except for the settings that are given by field name.

    Raises:
      UsageError: if no setting has such a name, or a value is invalid.
    """
    return with_settings(TextRunConfig(), settings)
