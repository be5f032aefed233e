"""Settings that supervised fine-tuning, pretraining and reward models share.

This module does not import TensorFlow, so that the command line starts fast.
"""

from dataclasses import Field, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

from annotated_types import Interval

from tfppo.errors import UsageError
from tfppo.settings import (
    AtLeastZero,
    Count,
    CountOrNone,
    Must,
    NotNegative,
    Positive,
    PositiveOrNone,
    Seed,
    check_fields,
    check_unused,
    check_value,
    is_printable,
)
from tfppo.text.config import ADAPTERS, NO_ADAPTERS, Preset, TextParts
from tfppo.training.config import RunConfig

REFERENCE_PARAMETERS = 124e6  # of GPT-2, the model of the default learning rate
REFERENCE_RATE, NEW_RATE = 1e-4, 1e-3
LORA_FACTOR = 10.0


@dataclass(frozen=True, slots=True)
class TuningConfig:
    """Settings of the data, of the language model and of its training."""

    data: Path | None = None
    """File of training examples."""
    validation_data: Path | None = None
    """File of validation examples. None: validation_share of the training examples."""
    validation_share: Annotated[float, Interval(ge=0, lt=1)] = 0.05
    """Share of the examples that are held out for validation if there is no validation_data. A checksum of the prompt
    or text decides. 0: no validation, and so no early stopping."""
    preset: Preset = None
    """Language model to tune: a folder, name or handle, as for `tfppo train text --preset`."""
    chat_template: Annotated[str, Must(is_printable, "auto, none or the path of a file")] = "auto"
    """Chat template that renders prompts. auto: that of the language model, if it has one. none: prompts are not
    rendered. Else the path of a file with a Jinja template. A column `text` is never rendered."""
    system: str | None = None
    """Text of a system message before each prompt; needs a chat template. None: no message is added."""
    max_length: CountOrNone = None
    """Largest number of tokens of an example; longer examples are cut and counted. None: the context of the model, and
    at most 1024."""
    epochs: Count = 3
    """Largest number of passes over the training examples."""
    batch_size: Count = 32
    """Examples in a gradient step."""
    learning_rate: PositiveOrNone = None
    """Peak learning rate of AdamW: a linear warm-up over the first 5 % of the steps, then a cosine decay to 0.
    None: 1e-3 for new weights; for a preset 1e-4 at the size of GPT-2 (124 million parameters), in inverse proportion
    to the square root of the size, and ten times as much with lora_rank; at most 1e-3."""
    weight_decay: NotNegative = 0.01
    """Weight decay of AdamW."""
    max_grad_norm: Positive = 1.0
    """Largest global norm of the gradient; a larger gradient is scaled down."""
    validation_interval: CountOrNone = None
    """Number of gradient steps between two validations and rows of metrics. None: once an epoch."""
    patience: Count = 3
    """Training stops after this many validations without a lower validation loss."""
    lora_rank: AtLeastZero = 0
    """Rank of low-rank adapters; then no other weights of the language model are trained (Hu et al. 2021). The saved
    model has them merged into its weights. 0: no adapters."""
    lora_alpha: PositiveOrNone = None
    """The output of an adapter is multiplied by lora_alpha / lora_rank. None: by 1."""
    lora_targets: Annotated[str, Must(is_printable, "attention, all or names of layers")] = "attention"
    """Layers that get adapters: attention for the queries and values, all for all dense layers, or the names of layers
    with commas between them. Needs lora_rank."""
    rematerialize: bool = False
    """Computes each layer again in the backward pass and does not keep its activations (Chen et al. 2016).
    It needs less memory and more time."""
    dtype: Literal["float32", "mixed_bfloat16"] = "float32"
    """Precision: float32, or mixed_bfloat16 (layers compute in bfloat16, weights are float32)."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.lora_rank == 0:
            check_unused(self, ADAPTERS, *NO_ADAPTERS)
        if self.max_length is not None:
            check_value("max_length", self.max_length, "at least 2 (a token and the next one)", lambda v: v >= 2)


@dataclass(frozen=True, slots=True)
class TuningRunSettings:
    """Settings of the folder, the seed, the device and the checkpoints of a run."""

    seed: Seed = 1
    """Seed of new weights, of adapters, of the dropout and of the order of the examples."""
    name: Annotated[str | None, Must(is_printable, "a folder name of printable characters")] = None
    """Name of the run's folder. None: sft, reward-model or pretrain, the name of the data or of the model, and
    the seed."""
    runs_dir: Path = Path("runs")
    """Folder that holds the run folders."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Device of the run. auto: a GPU if there is one."""
    deterministic: bool = True
    """Uses only deterministic TensorFlow operations (tf.config.experimental.enable_op_determinism)."""
    threads: Annotated[int, Interval(ge=0, le=1024)] = 0
    """Number of CPU threads within an operation, and of operations that run in parallel. 0: the number of CPU cores.
    Results are bit-identical only with the same number. A resumed run uses the number it started with."""
    onednn: bool | None = None
    """Multiplies matrices on the CPU with oneDNN, or with Eigen. Results are bit-identical only with the same library.
    A resumed run uses the one it started with. None: oneDNN, unless the environment variable
    TF_ENABLE_ONEDNN_OPTS says otherwise or TensorFlow is imported already."""
    checkpoint_interval: Count = 200
    """Number of gradient steps between two checkpoints. Each validation also writes one."""
    keep_checkpoints: Count = 2
    """Number of latest checkpoints to keep. The checkpoint with the lowest validation loss is kept in addition."""

    def __post_init__(self) -> None:
        check_fields(self)
        self.of_folder()

    def of_folder(self) -> RunConfig:
        """Returns the settings that name the run's folder."""
        return RunConfig(seed=self.seed, name=self.name, runs_dir=self.runs_dir)


class TunedRunConfig(Protocol):
    """All settings of a run of supervised training, as in its `config.yaml`; a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def run(self) -> TuningRunSettings:
        """Settings of the folder, the seed, the device and the checkpoints."""

    @property
    def parts(self) -> TextParts:
        """Checksums of what the run was made of."""

    @property
    def tuning(self) -> TuningConfig:
        """Settings of the data, of the language model and of its training."""


def default_learning_rate(parameters: int, is_new: bool, lora_rank: int) -> float:
    """Chooses the learning rate of a run that sets none.

    Args:
      parameters: Number of parameters of the language model, without adapters.
      is_new: True if its weights are new.
      lora_rank: Rank of the adapters; 0: there are none.

    Returns:
      The peak learning rate, with two significant digits.
    """
    if is_new:
        return NEW_RATE
    rate = REFERENCE_RATE * (REFERENCE_PARAMETERS / max(parameters, 1)) ** 0.5
    return float(f"{min(rate * (LORA_FACTOR if lora_rank else 1.0), NEW_RATE):.1e}")


def no_data() -> UsageError:
    """Returns the error for a run that has no training examples."""
    return UsageError("no data is given; a run needs examples to learn: give --data FILE, or --task NAME")
