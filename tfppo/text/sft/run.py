"""Runs of supervised fine-tuning."""

from pathlib import Path

import keras
import keras_hub

from tfppo.errors import UsageError
from tfppo.text.sft.config import SFTRunConfig
from tfppo.text.sft.parts import load_parts
from tfppo.text.sft.records import FORM, Record
from tfppo.text.supervised import run
from tfppo.text.supervised.records import Records, kept_records, load_records
from tfppo.text.tasks import get_task


def _load_records(config: SFTRunConfig, data: object, validation: object) -> Records[Record]:
    """Loads the records of a new run from its data or from its task."""
    name = config.sft.task
    if name is None:
        return load_records(config.sft, data, validation, FORM)
    for option, given in (("data", data), ("validation_data", validation)):
        if given is not None or getattr(config.sft, option) is not None:
            raise UsageError(f"task is {name}, and {option} is given; a task has examples of its own: leave one out")
    task = get_task(name)
    return load_records(config.sft, task.checked_examples("train"), task.checked_examples("validation"), FORM)


METHOD = run.Method(
    "sft",
    SFTRunConfig,
    _load_records,
    lambda folder: kept_records(folder, FORM),
    load_parts,
)


def sft(
    data: object = None,
    *,
    preset: Path | str | None = None,
    validation_data: object = None,
    model: tuple[keras.Model, keras_hub.models.Tokenizer | keras_hub.models.Preprocessor] | keras.Model | None = None,
    config: SFTRunConfig | None = None,
    **settings: object,
) -> Path:
    """Tunes a language model on examples, by supervised fine-tuning in a new run.

    Args:
      data: Training examples: the path of a file, or a list of texts or of dictionaries with `text`, with `prompt` and
        `response`, or with `messages`; or a tf.data.Dataset or a pandas DataFrame of these.
      preset: Language model to tune: a folder, a name or a handle. None: that of the config or, without one, a small
        GPT-2 with new weights, whose tokenizer is learned from the data.
      validation_data: Validation examples, in the same forms. None: a share of the training examples.
      model: A language model that replaces the preset: a KerasHub CausalLM and its tokenizer or preprocessor, or a
        CausalLM alone that has a preprocessor. Its weights are tuned in place.
      config: All settings. None: the defaults.
      **settings: Settings that replace those of the config, by field name, such as `epochs=5`. With `task` and
        without a config, all others are those of the task.

    Returns:
      The folder of the run. Its folder `preset` holds the tuned model.

    Raises:
      UsageError: If settings do not fit together, examples are invalid, the model cannot be tuned, or the folder cannot
        be used.
    """
    if config is None and isinstance(settings.get("task"), str):
        settings = {**get_task(str(settings["task"])).sft_defaults, **settings}
    chosen, train, validation = run.with_data(config or SFTRunConfig(), data, validation_data, preset, settings)
    return run.start(METHOD, chosen, train, validation, model)


def sft_run(config: SFTRunConfig) -> Path:
    """Trains a new run whose data are files, as `sft`.

    Args:
      config: Settings of the run.

    Returns:
      The folder of the run.

    Raises:
      UsageError: As `sft`.
    """
    return run.start(METHOD, config, None, None, None)
