"""Text runs for Python: train one, and let it write."""

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
    """Tunes a language model in a new run, evaluates it, and returns the run's folder; None in a worker that is not
    the chief.

    Args:
      config: the settings.
      import_seconds: seconds that went by before, for evaluation.json.
      task: in place of the registered task that the config names.
      reward: in place of the task's.
      model: a Keras language model with its tokenizer, in place of the config's preset.

    Raises:
      UsageError: on settings that do not fit together, a reward that fails, or a folder that cannot be used.
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
    """Returns the responses of a run's checkpoint to prompts, `samples` a prompt, one after the other.

    Raises:
      UsageError: if the folder is no run, or a prompt is empty or too long.
    """
    with driver.restored(without_reward(folder), folder, checkpoint) as trainer:
        encoded = trainer.encode([prompt for prompt in prompts for _ in range(samples)])
        model, text = trainer.policy.model, trainer.config.text
        responder = Responder(model, trainer.codec, text, temperature=temperature, top_k=top_k, top_p=top_p)
        return responder.respond(encoded, seed).texts


def export(folder: Path, checkpoint: str = "latest") -> Path:
    """Writes the language model of a run's checkpoint as a preset (see `text.export`), and returns its folder.

    Raises:
      UsageError: if the folder is no run, has no checkpoint that can be read, or cannot be written to.
    """
    return driver.export(without_reward(folder), folder, checkpoint)


def without_reward(folder: Path) -> TextTrainer:
    """Makes the trainer of a run where nothing is scored: no reward is loaded."""
    config = run_folder.read_config(folder, TextRunConfig)
    return TextTrainer(driver.for_inference(config), reward=_unscored)


def _unscored(prompts: list[str], responses: list[str]) -> list[float]:
    raise AssertionError("something was scored")
