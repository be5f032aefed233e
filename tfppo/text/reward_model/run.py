"""Runs that train a reward model."""

from pathlib import Path

import keras
import keras_hub

from tfppo.text.reward_model.config import RewardModelRunConfig
from tfppo.text.reward_model.parts import load_parts
from tfppo.text.reward_model.records import FORM, load
from tfppo.text.supervised import run
from tfppo.text.supervised.records import kept_records

METHOD = run.Method(
    "reward_model",
    RewardModelRunConfig,
    lambda config, data, validation: load(config.reward_model, data, validation),
    lambda folder: kept_records(folder, FORM),
    load_parts,
)


def reward_model(
    data: object = None,
    *,
    preset: Path | str | None = None,
    validation_data: object = None,
    model: tuple[keras.Model, keras_hub.models.Tokenizer | keras_hub.models.Preprocessor] | keras.Model | None = None,
    config: RewardModelRunConfig | None = None,
    **settings: object,
) -> Path:
    """Trains a reward model in a new run, on comparisons or on ratings.

    Args:
      data: Training examples: the path of a file, or a list of dictionaries with `prompt`, `chosen` and `rejected` (and
        `margin`), with `text` and `rating`, or with `prompt`, `response` and `rating`; or a tf.data.Dataset or a pandas
        DataFrame of these. None: the shipped ratings of movie sentences.
      preset: Language model to start from: a folder, a name or a handle. None: that of the config or, without one, the
        shipped language model.
      validation_data: Validation examples, in the same forms. None: a share of the training examples.
      model: A language model that replaces the preset: a KerasHub CausalLM and its tokenizer or preprocessor, or a
        CausalLM alone that has a preprocessor. Its weights are trained in place.
      config: All settings. None: the defaults.
      **settings: Settings that replace those of the config, by field name, such as `epochs=5`.

    Returns:
      The folder of the run. Its folder `reward-model` holds the reward model, for `reward=` of `train_text`.

    Raises:
      UsageError: If settings do not fit together, examples are invalid, the model cannot be trained, or the folder
        cannot be used.
    """
    chosen, train, validation = run.with_data(config or RewardModelRunConfig(), data, validation_data, preset, settings)
    return run.start(METHOD, chosen, train, validation, model)


def reward_model_run(config: RewardModelRunConfig) -> Path:
    """Trains a reward model in a new run whose data are a file or the shipped ratings, as `reward_model`.

    Args:
      config: Settings of the run.

    Returns:
      The folder of the run.

    Raises:
      UsageError: As `reward_model`.
    """
    return run.start(METHOD, config, None, None, None)
