"""Runs of pretraining."""

from pathlib import Path

from tfppo.text.pretrain.config import PretrainRunConfig
from tfppo.text.pretrain.parts import corpus, load_parts
from tfppo.text.supervised import run

METHOD = run.Method(
    "pretrain",
    PretrainRunConfig,
    lambda config, data, validation: corpus(),
    lambda folder: corpus(),
    load_parts,
)


def pretrain_run(config: PretrainRunConfig) -> Path:
    """Trains a language model on the shipped corpus in a new run.

    The model of the epoch with the lowest validation loss is calibrated and saved in the folder `preset` of the run.
    `evaluation.json` has its losses on the movie sentences of the validation and the test split.

    Args:
      config: Settings of the run.

    Returns:
      The folder of the run.

    Raises:
      UsageError: If settings do not fit together, the preset cannot be trained, or the folder cannot be used.
    """
    return run.start(METHOD, config, None, None, None)
