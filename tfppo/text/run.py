"""Text runs from Python: train a run, generate responses with it, and export its language model."""

from pathlib import Path

import keras
import keras_hub

from tfppo.text.config import TextRunConfig
from tfppo.text.evaluate import Responder
from tfppo.text.rewards.callables import Reward
from tfppo.text.tasks import Task
from tfppo.text.trainer import TextTrainer
from tfppo.training import driver, run_folder


def train_text(
    config: TextRunConfig,
    import_seconds: float = 0.0,
    *,
    task: Task | None = None,
    reward: Reward | keras.Model | None = None,
    model: tuple[keras.Model, keras_hub.models.Tokenizer] | None = None,
) -> Path | None:
    """Tunes a language model in a new run, then evaluates it.

    Args:
      config: Settings of the run.
      import_seconds: Seconds that imports took before this call, for `evaluation.json`.
      task: Replaces the registered task that the config names.
      reward: Replaces the reward of the config and of the task.
      model: A Keras language model and its tokenizer, which replace the config's preset.

    Returns:
      The folder of the run, or None in a worker process that is not the chief.

    Raises:
      UsageError: If settings do not fit together, the reward fails, or the folder cannot be used.
    """

    def make_trainer(config: TextRunConfig) -> TextTrainer:
        return TextTrainer(config, task=task, reward=reward, model=model)

    return driver.train(make_trainer, config, import_seconds)


def generate(
    folder: Path,
    prompts: list[str],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    samples: int = 1,
    checkpoint: str = "latest",
) -> list[str]:
    """Generates responses to prompts with the policy of a run.

    Args:
      folder: Folder of the run.
      prompts: Texts to respond to.
      temperature: Divides the logits; 0 always takes the most probable token.
      top_k: Samples from the k most probable tokens; None samples from all.
      top_p: Samples from the most probable tokens whose probabilities sum to p; None samples from all.
      seed: Seed of the sampling noise.
      samples: Number of responses to each prompt.
      checkpoint: "latest", "best" or the number of an iteration.

    Returns:
      The responses without their prompts, `samples` of them in a row for each prompt.

    Raises:
      UsageError: If the folder is not a run, its checkpoint cannot be read, or a prompt is empty or too long.
    """
    with driver.restored(without_reward(folder), folder, checkpoint) as trainer:
        encoded = trainer.encode([prompt for prompt in prompts for _ in range(samples)])
        model, text = trainer.policy.model, trainer.config.text
        responder = Responder(model, trainer.codec, text, temperature=temperature, top_k=top_k, top_p=top_p)
        return responder.respond(encoded, seed).texts


def export(folder: Path, checkpoint: str = "latest") -> Path:
    """Writes the language model of a run as a preset into its folder `export` (see `export_preset`).

    Args:
      folder: Folder of the run.
      checkpoint: "latest", "best" or the number of an iteration.

    Returns:
      The folder of the preset.

    Raises:
      UsageError: If the folder is not a run, its checkpoint cannot be read, or the folder cannot be written to.
    """
    return driver.export(without_reward(folder), folder, checkpoint)


def without_reward(folder: Path) -> TextTrainer:
    """Makes the trainer of a run for uses that score nothing, and does not import the run's reward.

    Args:
      folder: Folder of the run.

    Returns:
      The trainer; its reward raises an AssertionError when it is called.

    Raises:
      UsageError: If the folder is not a run, or its preset cannot be read.
    """
    config = run_folder.read_config(folder, TextRunConfig)
    return TextTrainer(driver.for_inference(config), reward=_unscored, folder=folder)


def _unscored(prompts: list[str], responses: list[str]) -> list[float]:
    raise AssertionError("this trainer has no reward, but responses were scored")
