"""Settings of text runs, and the sizes of new language models.

This module does not import TensorFlow, so that the command line starts fast.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from tfppo.errors import UsageError
from tfppo.ppo.config import PPOConfig
from tfppo.settings import (
    AtLeastZero,
    Count,
    CountOrNone,
    Must,
    NotNegative,
    Positive,
    PositiveOrNone,
    check_fields,
    check_unused,
    check_value,
    exact_div,
    is_printable,
)
from tfppo.text.data.corpus import Domain
from tfppo.training.config import RunConfig

PRETRAINING_COEFF = 0.1
ADAPTERS = ("lora_alpha", "lora_targets")  # settings that need lora_rank
NO_ADAPTERS = ("lora_rank is 0; it needs adapters", "set lora_rank, for example to 16")
Length = Annotated[int, Ge(8)]
VocabularySize = Annotated[int, Must(lambda v: v >= 512, "at least 512 (special tokens, 256 bytes and byte pairs)")]


Preset = Annotated[str | Path | None, Must(lambda v: is_printable(str(v)), "a folder, a name or a handle, printable")]


def _is_checkpoint(name: str) -> bool:
    return name in ("latest", "best") or (name.isascii() and name.isdecimal())


@dataclass(frozen=True, slots=True)
class NewModelConfig:
    """Sizes of a new language model, for a run without a preset."""

    vocabulary_size: VocabularySize = 2048
    """New model: largest vocabulary of its byte-pair tokenizer, which is learned from the data; at least 512."""
    num_layers: Count = 4
    """New model: number of transformer layers."""
    num_heads: Count = 4
    """New model: number of attention heads; hidden_dim must be a multiple of it."""
    hidden_dim: Count = 256
    """New model: width of the embeddings and of the hidden states."""
    context_length: Length = 256
    """New model: largest number of tokens that it attends to, at least 8."""
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.1
    """New model: dropout rate of the training, at least 0 and below 1. A preset has its own."""

    def __post_init__(self) -> None:
        check_fields(self)
        exact_div(self.hidden_dim, self.num_heads, "hidden_dim", "num_heads")

    def check_unused(self, besides: Collection[str] = ()) -> None:
        """Checks that nothing is set, for a run that starts from a trained model.

        Args:
          besides: Names of settings that trained models have, too.

        Raises:
          UsageError: If a setting does not have its default.
        """
        for each in fields(self):
            value = getattr(self, each.name)
            if value != each.default and each.name not in besides:
                raise UsageError(
                    f"{each.name} is {value}, and the run starts from a trained model, which has its own: leave it out"
                )


@dataclass(frozen=True, slots=True)
class TextConfig:
    """Settings of the task, of the language model and of the rollouts."""

    task: Annotated[str | None, Must(is_printable, "the name of a task")] = None
    """Name of the task, as tfppo tasks lists them, or package.module:NAME for a task of your own.
    None: sentiment, or no task if prompts are given."""
    prompts: Path | None = None
    """File of training prompts, .jsonl, .csv or .txt, which replace the prompts of the task.
    Its column `prompt` has the prompts; the reward gets all other columns as labels. None: the prompts of the task."""
    validation_prompts: Path | None = None
    """File of prompts for the samples and the validation during training. None: validation_share, or none."""
    test_prompts: Path | None = None
    """File of prompts for the evaluation at the end.
    None: the validation prompts. Without validation prompts: the training prompts."""
    validation_share: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """Share of the prompts that are held out as validation prompts. A checksum of each prompt decides."""
    preset: Preset = None
    """Language model to tune. A folder: a KerasHub preset, such as that of `tfppo pretrain`, or a Hugging Face model.
    A name of a KerasHub preset, such as gpt2_base_en: the preset is downloaded.
    A handle, hf://USER/MODEL or kaggle://USER/MODEL/keras/VARIATION: the model is downloaded.
    None: the language model that is shipped with tfppo."""
    init_from: Path | None = None
    """Folder of another text run. This run starts from its tuned policy.
    Its value head is used, too. The optimizer is new. None: the run starts from the preset."""
    init_checkpoint: Annotated[str, Must(_is_checkpoint, "latest, best or the number of an iteration")] = "latest"
    """Checkpoint of init_from: latest, best or the number of an iteration."""
    init_reference: Literal["start", "run"] = "start"
    """Reference policy of a run with init_from. start: the policy that the run starts from.
    run: the reference policy of the other run, usually its model before tuning.
    With lora_rank the other run must have the same rank, and its adapters are trained further."""
    reward: Annotated[str | None, Must(is_printable, "package.module:function")] = None
    """Python reward function, as package.module:function, or several with commas between them, whose sum is the reward.
    None: the reward of the task."""
    reward_model: Path | None = None
    """Folder of a reward model, or of the run of `tfppo reward-model` that trained it. With reward the scores of both
    are added. None: there is none."""
    reward_weights: tuple[float, ...] = ()
    """Weights of several rewards, one for each; that of reward_model is the last one. Empty: all are 1."""
    reward_timeout: PositiveOrNone = None
    """Largest number of seconds that a reward may take for a batch; then the run stops. None: it may take any time."""
    chat_template: Annotated[str, Must(is_printable, "auto, none or the path of a file")] = "auto"
    """Chat template that renders the prompts. auto: that of the language model, if it has one.
    none: prompts are not rendered. Any other value: the path of a file with a Jinja template."""
    system: str | None = None
    """Text of a system message before each prompt; needs a chat template. None: no message is added."""
    iterations: Count = 80
    """Number of iterations; each is a rollout and an update."""
    batch_size: Count = 64
    """Responses in a rollout; it is a multiple of responses_per_prompt."""
    responses_per_prompt: Count = 1
    """Responses to each prompt of a rollout, which are drawn independently; batch_size / responses_per_prompt is then
    the number of prompts."""
    advantages: Literal["gae", "group", "rloo"] = "gae"
    """Advantages of the tokens. gae: of PPO, with a value function (Schulman et al. 2016).
    group: of GRPO, relative to the other responses to the prompt (Shao et al. 2024).
    rloo: over the mean of the other responses to the prompt (Ahmadian et al. 2024). group and rloo have no value
    function and need responses_per_prompt above 1."""
    group_std: bool = True
    """Divides the advantages of group by the standard deviation of the group. False: Dr. GRPO (Liu et al. 2025)."""
    pretraining_data: Path | None = None
    """File of texts whose log-likelihood is maximized, too, so that the policy does not forget them (PPO-ptx, Ouyang et
    al. 2022): .txt with a text in each line, or .jsonl or .csv with the column `text`. None: there are none."""
    pretraining_coeff: NotNegative = PRETRAINING_COEFF
    """Coefficient of the mean negative log-likelihood of the pretraining data, in nats per token, in the loss."""
    mask_truncated: bool = False
    """Leaves responses that do not end within response_length out of the loss (DAPO, Yu et al. 2025)."""
    prompt_length: CountOrNone = None
    """Largest number of tokens of a training prompt; longer prompts are left out.
    None: 12 for the shipped model with the prompts of a task, otherwise the length of the longest training prompt."""
    response_length: Count = 40
    """Largest number of tokens of a response, including the end token."""
    stop_token: str | None = None
    """Text of a token that also ends a response, such as "." (Ziegler et al. 2019). None: only the end token does."""
    stop_after: int = 0
    """First index in a response at which stop_token ends it, from 0 to response_length - 1."""
    temperature: Positive = 1.0
    """Divides the logits, both in sampling and in all log-probabilities."""
    separate_critic: bool = False
    """Computes values with a second language model. All its weights are trained, also with lora_rank.
    False: with a value head on the hidden states of the policy."""
    lora_rank: AtLeastZero = 0
    """Rank of low-rank adapters; then no other weights of the policy's language model are trained (Hu et al. 2021).
    0: no adapters.
    """
    lora_alpha: PositiveOrNone = None
    """The output of an adapter is multiplied by lora_alpha / lora_rank. None: by 1."""
    lora_targets: Annotated[str, Must(is_printable, "attention, all or names of layers")] = "attention"
    """Layers that get adapters. attention: the queries and values. all: all dense layers.
    Any other value: the names of layers, with commas between them. Needs lora_rank."""
    normalize_scores: bool = True
    """Normalizes scores by their mean and standard deviation on reference responses (Ziegler et al. 2019).
    The standard deviation is at least 1 % of the largest absolute score of these responses."""
    score_clip: PositiveOrNone = 10.0
    """Largest absolute value of a normalized score, by default that of trlX and of OpenAI Baselines' VecNormalize.
    Scores that are not normalized are not clipped. None: no clipping."""
    score_position: Literal["last", "after_end"] = "last"
    """Position that gets the score: last is the last token of the response, after_end is the position after it."""
    missing_end_penalty: NotNegative = 0.0
    """Penalty that is subtracted from the score of a response that does not end within response_length tokens."""
    whiten_rewards: bool = False
    """Scales the rewards of a rollout to standard deviation 1 without changing their mean (Ziegler et al. 2019)."""
    dtype: Literal["float32", "mixed_bfloat16"] = "float32"
    """Precision: float32, or mixed_bfloat16 (layers compute in bfloat16, weights are float32)."""
    rematerialize: bool = False
    """Computes each layer again in the backward pass and does not keep its activations (Chen et al. 2016).
    It needs less memory and more time."""
    stop_kl: PositiveOrNone = None
    """Stops the run after an iteration with a mean KL to the reference policy above this value.
    The KL is `text/kl`, in nats per response. None: the KL does not stop the run."""
    target_score: float | None = None
    """Stops the run once the mean score (`text/score_mean`) of the last 5 iterations reaches this value.
    None: the score does not stop the run."""
    validation_interval: AtLeastZero = 0
    """Number of iterations between two validations on prompts that are not trained on. 0: no validation.
    With validation, the best checkpoint is the one with the highest mean score of a validation."""
    num_validation_prompts: Count = 64
    """Largest number of prompts of a validation."""
    sample_interval: Count = 10
    """Number of iterations between two tables of sample responses."""
    save_rollouts: AtLeastZero = 100
    """Largest size in megabytes of rollouts/responses.jsonl.gz, which keeps every response of training with its score.
    When the file has this size, later responses are not kept. 0: keeps none."""
    eval_prompts: AtLeastZero = 200
    """Number of held-out prompts of the evaluation at the end. 0: no evaluation."""

    def __post_init__(self) -> None:
        check_fields(self)
        wanted = f"between 0 and response_length - 1 = {self.response_length - 1}"
        check_value("stop_after", self.stop_after, wanted, lambda v: 0 <= v < self.response_length)
        if self.validation_prompts is not None and self.validation_share:
            raise UsageError(
                f"validation_prompts is {self.validation_prompts} and validation_share is {self.validation_share:g}, "
                "but both give the validation prompts: leave one out"
            )
        if self.init_from is not None and self.preset is not None:
            raise UsageError(
                f"init_from is {self.init_from} and preset is {self.preset}, but a run has one start: leave one out"
            )
        if self.pretraining_data is None and self.pretraining_coeff != PRETRAINING_COEFF:
            raise UsageError(
                f"pretraining_coeff is {self.pretraining_coeff:g} and pretraining_data is None; it needs texts: give "
                "pretraining_data, or leave pretraining_coeff out"
            )
        exact_div(self.batch_size, self.responses_per_prompt, "batch_size", "responses_per_prompt")
        self._check_advantages()
        if self.lora_rank == 0:
            check_unused(self, ADAPTERS, *NO_ADAPTERS)
        for name, default in (("init_checkpoint", "latest"), ("init_reference", "start")):
            given = getattr(self, name)
            if self.init_from is None and given != default:
                raise UsageError(f"{name} is {given} and init_from is None; it needs another run: give init_from")

    def _check_advantages(self) -> None:
        if self.advantages != "group" and not self.group_std:
            raise UsageError(
                f"group_std is False and advantages is {self.advantages}; only group divides by a standard deviation: "
                "set advantages to group, or leave group_std out"
            )
        if self.has_values:
            return
        if self.responses_per_prompt == 1:
            raise UsageError(
                f"advantages is {self.advantages} and responses_per_prompt is 1; a response is compared with others to "
                "the same prompt: set responses_per_prompt to 2 or more, for example 4"
            )
        for name, reason in (
            ("separate_critic", "there is no value function"),
            ("whiten_rewards", "a response has one advantage, and its tokens have no rewards of their own"),
        ):
            if getattr(self, name):
                raise UsageError(
                    f"{name} is True and advantages is {self.advantages}; {reason}: leave {name} out, or set "
                    "advantages to gae"
                )

    @property
    def has_values(self) -> bool:
        """True if the run trains a value function."""
        return self.advantages == "gae"


@dataclass(frozen=True, slots=True)
class TextParts:
    """The parts that a text run was made of, as the run itself records them in its `config.yaml`.

    A resumed run is refused if its parts are others. They are no settings: a new run replaces them.
    """

    model_sha256: str | None = None
    """Checksum of the weights of the language model before tuning, which is the reference policy.
    None: unknown, because an older version of tfppo wrote the run."""
    tokenizer_sha256: str | None = None
    """Checksum of the vocabulary, and of how the tokenizer splits a text."""
    prompts_sha256: str | None = None
    """Checksum of the training prompts as tokens."""
    pretraining_sha256: str | None = None
    """Checksum of the pretraining data as tokens. None: there are none."""
    reward_model_sha256: str | None = None
    """Checksum of the reward model. None: there is none, or it is unknown."""
    frozen: tuple[str, ...] = ()
    """Paths of the weights that are not trained, because they were frozen in the model that was given."""
    domain: Domain | None = None
    """Domain of the control token before each prompt. None: no control token."""

    def __post_init__(self) -> None:
        check_fields(self)


TEXT_PPO = PPOConfig(
    learning_rate=2e-4,
    value_clip=0.2,
    value_coeff=0.1,
    entropy_coeff=0.022,
    kl_in="reward",
    kl_controller="ziegler",
    kl_coeff=0.1,
    adaptive_kl_target=11.0,
    kl_horizon=200,
    max_grad_norm=1.0,
    gamma=1.0,
    gae_lambda=0.95,
    num_epochs=2,
    minibatch_size=16,
)
"""Defaults of `PPOConfig` for text: mostly those of Ziegler et al. 2019, adapted to the size of the shipped model."""


@dataclass(frozen=True, slots=True)
class TextRunConfig:
    """All settings of a text run, as in its `config.yaml`."""

    run: RunConfig = field(default_factory=RunConfig)
    text: TextConfig = field(default_factory=TextConfig)
    ppo: PPOConfig = field(default_factory=lambda: TEXT_PPO)
    parts: TextParts = field(default_factory=TextParts)

    def __post_init__(self) -> None:
        check_fields(self)
        exact_div(self.text.batch_size, self.ppo.minibatch_size, "batch_size", "minibatch_size")
        if self.ppo.recompute_advantages:
            raise UsageError("recompute_advantages is True; text runs do not support it: leave it out")
        if self.ppo.kl_estimator != "k2" and self.ppo.kl_in != "loss":
            raise UsageError(
                f"kl_estimator is {self.ppo.kl_estimator} and kl_in is {self.ppo.kl_in}; only the KL in the loss has "
                "an estimator to choose: set kl_in to loss, or kl_estimator to k2"
            )
        if self.ppo.value_coeff and not self.text.has_values:
            raise UsageError(
                f"value_coeff is {self.ppo.value_coeff:g} and advantages is {self.text.advantages}, which has no value "
                "function: set value_coeff to 0, or advantages to gae"
            )
