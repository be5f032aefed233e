"""Trains text runs from Python."""

import dataclasses
from pathlib import Path

import keras
import keras_hub

from tfppo.text.config import TextParts, TextRunConfig
from tfppo.text.start.task import GivenReward
from tfppo.text.tasks import Task
from tfppo.text.trainer import TextTrainer
from tfppo.training import driver


def train_text(
    config: TextRunConfig,
    import_seconds: float = 0.0,
    *,
    task: Task | str | None = None,
    reward: GivenReward = None,
    model: tuple[keras.Model, keras_hub.models.Tokenizer | keras_hub.models.Preprocessor] | keras.Model | None = None,
    prompts: object = None,
    validation_prompts: object = None,
    test_prompts: object = None,
) -> Path | None:
    """Tunes a language model in a new run, then evaluates it.

    Args:
      config: Settings of the run.
      import_seconds: Seconds that imports took before this call, for `evaluation.json`.
      task: A task, or its name; replaces the task of the config.
      reward: A function of (prompts, responses) and of labels of the prompts, its name as "package.module:function", a
        Keras model, a `RewardModel` or its folder, or a list of these, whose weighted sum is the reward. Replaces the
        reward of the config and of the task.
      model: A language model that replaces the config's preset: a KerasHub CausalLM and its tokenizer or preprocessor,
        or a CausalLM alone that has a preprocessor.
      prompts: Training prompts, which replace those of the task: a list of texts, of conversations (lists of messages)
        or of dictionaries with the key `prompt`, whose other keys are labels; or a tf.data.Dataset or a pandas
        DataFrame of these.
      validation_prompts: Prompts for samples and validation, in the same forms.
      test_prompts: Prompts for the evaluation at the end, in the same forms.

    Returns:
      The folder of the run, or None in a worker process that is not the chief.

    Raises:
      UsageError: If settings do not fit together, the model cannot be tuned, the reward fails, or the folder cannot be
        used.
    """
    config = dataclasses.replace(config, parts=TextParts())  # those of an earlier run do not count

    def make_trainer(config: TextRunConfig) -> TextTrainer:
        return TextTrainer(
            config,
            task=task,
            reward=reward,
            model=model,
            prompts=prompts,
            validation_prompts=validation_prompts,
            test_prompts=test_prompts,
        )

    return driver.train(make_trainer, config, import_seconds)
