"""A text run from its folder's first file to its last: writers, samples, checkpoints, evaluation, resume."""

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfppo.errors import UsageError
from tfppo.execution.variables import weights_hash
from tfppo.reporting.console import ConsoleWriter, progress_bar
from tfppo.reporting.csv_writer import CsvWriter
from tfppo.reporting.curves import plot_curve, plot_frontier
from tfppo.reporting.diagnoses import DiagnosisWriter
from tfppo.reporting.tensorboard import TensorBoardWriter
from tfppo.reporting.writer import Writer
from tfppo.text.config import TextRunConfig
from tfppo.text.evaluate import Responder, compare, describe
from tfppo.text.models.presets import LSTM_FILE, TOKENIZER_FILE, save_preset
from tfppo.text.rewards.callables import Reward
from tfppo.text.samples import with_samples
from tfppo.text.tasks import Task
from tfppo.text.trainer import TextTrainer
from tfppo.training import driver, run_folder
from tfppo.training.loop import write_iterations, writing

SCORE, KL = "text/score_mean", "text/kl"


def train_text(
    config: TextRunConfig,
    import_seconds: float = 0.0,
    *,
    task: Task | None = None,
    reward: Reward | keras.Model | None = None,
    model: tuple[keras.Model, Any] | None = None,
) -> Path | None:
    """Tunes a language model in a new run, evaluates it, and returns the run's folder; None: this process trains along
    with another, whose the folder is.

    Args:
      config: the settings.
      import_seconds: that went by before, for evaluation.json.
      task: in place of the registered task that the config names.
      reward: in place of the task's.
      model: a Keras language model with its tokenizer, in place of the config's preset.

    Raises:
      UsageError: on settings that do not fit together, a reward that fails, or a folder that cannot be used.
    """
    clock = driver.Clock(import_seconds)
    if config.text.preset is not None:  # the run is to be found again from any folder
        text = dataclasses.replace(config.text, preset=config.text.preset.resolve())
        config = dataclasses.replace(config, text=text)
    trainer = TextTrainer(driver.settled(config), task=task, reward=reward, model=model)
    with driver.begin(trainer, trainer.task.name) as folder:
        return _run(trainer, folder, clock)


def resume(folder: Path, import_seconds: float = 0.0, reward: str | None = None) -> Path | None:
    """Goes on with a run from its latest checkpoint (without one: from its beginning), and returns what `train_text`
    does; `reward` as in `run_folder.read_confirmed`.

    Raises:
      UsageError: if the folder is no run or in use, or its latest checkpoint is damaged.
    """
    clock = driver.Clock(import_seconds)
    trainer = TextTrainer(driver.settled(run_folder.read_confirmed(folder, TextRunConfig, "reward", reward)))
    with driver.go_on(trainer, folder) as (own, _):
        return _run(trainer, own, clock)


def evaluate(
    folder: Path, prompts: int, seed: int | None = None, checkpoint: str = "latest", reward: str | None = None
) -> dict[str, Any]:
    """A checkpoint of a run beside its reference, on held-out prompts; `reward` as in `run_folder.read_confirmed`.

    Raises:
      UsageError: if the folder is no run, or has no checkpoint that can be read.
    """
    trainer = _restored(folder, run_folder.read_confirmed(folder, TextRunConfig, "reward", reward), checkpoint)
    return _evaluate(trainer, prompts, trainer.config.run.seed if seed is None else seed)[0]


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
    """The responses of a run's checkpoint to prompts, `samples` a prompt, one after the other.

    Raises:
      UsageError: if the folder is no run, or a prompt is empty or too long.
    """
    trainer = _restored(folder, run_folder.read_config(folder, TextRunConfig), checkpoint, _unscored)
    encoded = trainer.encode([prompt for prompt in prompts for _ in range(samples)])
    model, text = trainer.policy.model, trainer.config.text
    responder = Responder(model, trainer.codec, text, temperature=temperature, top_k=top_k, top_p=top_p)
    return responder.respond(encoded, seed).texts


def export(folder: Path, checkpoint: str = "latest") -> Path:
    """Writes the language model of a run's checkpoint into its folder as a preset, its weights in full precision
    and adapters merged into them, in place of an earlier one; says how to load it, and returns the preset's folder.

    KerasHub's own `generate` puts the end token before a prompt, which the model has never seen there, whatever the
    preset's add_start_token says (release 0.32): load it with preprocessor=None, and give it tokens.

    Raises:
      UsageError: if the folder is no run, has no checkpoint that can be read, or cannot be written to.
    """
    trainer = _restored(folder, run_folder.read_config(folder, TextRunConfig), checkpoint, _unscored)
    path, tokenizer = folder / run_folder.EXPORT, trainer.codec.tokenizer
    model = trainer.policy.model.model
    with run_folder.replacing(path, TOKENIZER_FILE, 4 * model.count_params()) as new:
        save_preset(new, model, tokenizer, "float32")
    text = trainer.config.text
    load = "tfppo.load_preset" if (path / LSTM_FILE).exists() else "keras_hub.models.CausalLM.from_preset"
    notes = [f"outside of tfppo begin prompts with {tokenizer.id_to_token(token)}" for token in trainer.codec.before]
    notes += [f"it was tuned at temperature {text.temperature}"] if text.temperature != 1.0 else []
    print(
        f'{path} holds a preset; load it with {load}("{path}"), or go on with it: '
        + "; ".join([f"tfppo train text --preset {run_folder.quoted(path)}", *notes])
    )
    return path


@driver.resumable
def _run(trainer: TextTrainer, folder: Path | None, clock: driver.Clock) -> Path | None:
    text, model = trainer.config.text, trainer.policy.model.model
    trained = sum(variable.shape.num_elements() for variable in trainer.policy.trainable_variables)
    subject = (
        f"task {trainer.task.name} ({trainer.task.description}), {type(model).__name__} of "
        f"{model.count_params() / 1e6:.1f}M parameters ({trained / 1e6:.2f}M trained), {text.batch_size} responses an "
        "iteration"
    )
    with driver.training(trainer, folder, subject):
        finished = _train(trainer, folder)
    clock.end_training()
    if folder and finished:
        _finish(trainer, folder, clock)
    elif folder:
        print(f"stopped; go on with: {run_folder.resume_command(folder)}")
    return folder


def _finish(trainer: TextTrainer, folder: Path, clock: driver.Clock) -> None:
    """What a run leaves behind when it is trained, and the last it says."""
    config = trainer.config
    metrics, title = folder / run_folder.METRICS, f"{trainer.task.name}, {folder.name}"
    with writing(folder):
        plot_curve(metrics, folder / run_folder.CURVE, "iteration", [SCORE, KL], title)
        plot_frontier(metrics, folder / run_folder.FRONTIER, KL, SCORE, title)
        writer = TensorBoardWriter(folder)
        writer.write_image("text/score_against_kl", (folder / run_folder.FRONTIER).read_bytes(), config.text.iterations)
        writer.close()
    if config.text.eval_prompts:
        evaluation, _ = _evaluate(trainer, config.text.eval_prompts, config.run.seed)
        evaluation = {"task": trainer.task.name, "seed": config.run.seed} | evaluation
        print(describe(driver.keep_evaluation(trainer, folder, clock, evaluation)))
    print(
        f"{folder} holds {run_folder.SAMPLES}, {run_folder.CURVE}, {run_folder.METRICS} and the rest; see it with: "
        f"tensorboard --logdir {run_folder.quoted(folder.parent)}\ntalk to it with: tfppo generate "
        f"{run_folder.quoted(folder)} --prompt 'This film'"
    )


def _train(trainer: TextTrainer, folder: Path | None) -> bool:
    """The training loop with what is written on the way, if there is a folder. Returns whether it came to its end."""
    run, text = trainer.config.run, trainer.config.text
    if trainer.iteration == text.iterations:  # a finished run was resumed
        return True
    writers = _writers(trainer, folder) if folder else []
    return write_iterations(
        with_samples(trainer, folder, writers[1]) if folder else trainer.iterations(),
        run,
        folder,
        writers,
        driver.checkpoints_of(trainer, folder) if folder else None,
        "text/reward_mean",
        lambda iteration, row: iteration + 1 == text.iterations,
        replicas=trainer.replicas,
    )


def _unscored(prompts: list[str], responses: list[str]) -> list[float]:
    """The reward where nothing is scored: none is loaded."""
    raise AssertionError("something was scored")


def _restored(folder: Path, config: TextRunConfig, checkpoint: str, reward: Reward | None = None) -> TextTrainer:
    trainer = TextTrainer(driver.anywhere(config), reward=reward)
    driver.checkpoints_of(trainer, folder).restore_for_use(checkpoint)
    return trainer


def _evaluate(trainer: TextTrainer, count: int, seed: int) -> tuple[dict[str, Any], dict[str, list[str]]]:
    prompts = trainer.task.prompts("test")
    if not prompts:
        raise UsageError(f"task {trainer.task.name} has no test prompts: give it some, or train with --eval-prompts 0")
    chosen = np.random.default_rng(0).permutation(len(prompts))[:count]  # the same for every seed
    with progress_bar("evaluating", 2) as advance:
        evaluation, texts = compare(
            [prompts[index] for index in chosen],
            seed,
            policy=trainer.policy.model,
            reference=trainer.reference,
            codec=trainer.codec,
            task=trainer.task,
            reward=trainer.reward,
            text=trainer.config.text,
            progress=advance,
        )
    return evaluation | {"weights": weights_hash(trainer.weights)}, texts


def _writers(trainer: TextTrainer, folder: Path) -> list[Writer]:
    config, start = trainer.config, trainer.iteration
    tensorboard = TensorBoardWriter(folder, None, start if start else None)
    if not start:
        tensorboard.write_hparams(run_folder.flat_settings(config), [SCORE, KL])
    columns = {SCORE: "score", KL: "KL", "text/response_length_mean": "words", "time/tokens_per_s": "tokens/s"}
    console = ConsoleWriter(config.text.iterations, columns, None, start)
    diagnoses = DiagnosisWriter(config.ppo, KL, SCORE, True, trainer.learner.guard)
    return [CsvWriter(folder / run_folder.METRICS, start), tensorboard, diagnoses, console]
