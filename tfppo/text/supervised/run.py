"""Runs of supervised fine-tuning: their folder, their evaluation, and how they are resumed."""

import math
import time
from pathlib import Path
from typing import Any

import keras
import keras_hub
import tensorflow as tf

from tfppo.errors import UsageError
from tfppo.execution.devices import apply_execution_settings, choose_device
from tfppo.execution.variables import weights_hash
from tfppo.reporting.curves import plot_curve
from tfppo.settings import with_settings
from tfppo.text.models.adapters import add_adapters
from tfppo.text.presets.configs import TOKENIZER_FILE
from tfppo.text.presets.fetching import label_of
from tfppo.text.presets.folder import save_preset
from tfppo.text.supervised.config import SFTRunConfig
from tfppo.text.supervised.parts import Parts, kept_records, load_parts, load_records
from tfppo.text.supervised.training import LOSS, VALIDATION, Interval, Training
from tfppo.text.supervised.tuner import perplexity
from tfppo.training import files, new_folder, run_folder
from tfppo.training.lock import locked
from tfppo.training.loop import go_back, writing

SLOTS = 3  # AdamW keeps two numbers for each weight, besides the weight
BYTES = 4  # of a float32


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
      **settings: Settings that replace those of the config, by field name, such as `epochs=5`.

    Returns:
      The folder of the run. Its folder `preset` holds the tuned model.

    Raises:
      UsageError: If settings do not fit together, examples are invalid, the model cannot be tuned, or the folder cannot
        be used.
    """
    given: dict[str, object] = {"data": data, "validation_data": validation_data}
    paths = {name: Path(value) for name, value in given.items() if isinstance(value, (str, Path))}
    objects = [None if name in paths else value for name, value in given.items()]
    chosen = settings | paths | ({} if preset is None else {"preset": preset})
    config = with_settings(SFTRunConfig() if config is None else config, chosen)
    return sft_run(config, *objects, model=model)


def sft_run(config: SFTRunConfig, data: object = None, validation: object = None, *, model: object = None) -> Path:
    """Trains a new run, as `sft`.

    Args:
      config: Settings of the run.
      data: Training examples that are given in Python. None: those of the settings.
      validation: Validation examples that are given in Python. None: those of the settings.
      model: A language model that is given in Python. None: that of the settings.

    Returns:
      The folder of the run.

    Raises:
      UsageError: As `sft`.
    """
    began = time.perf_counter()
    new_folder.refuse_taken_name(config.run.of_folder())
    if model is not None and config.sft.preset is not None:
        raise UsageError(f"preset is {config.sft.preset} and a model is given, but a run has one start: leave one out")
    config, device = _executed(config)
    with tf.device(device):
        records = load_records(config.sft, data, validation)
        parts = load_parts(config, records, model)
        name = run_folder.folder_name("-".join(["sft", *_labels(parts.config)]))
        with new_folder.new_run_folder(config.run.of_folder(), name, parts.config, print, parts.write) as folder:
            _train_and_finish(folder, parts, began)
    return folder


def resume(folder: Path) -> Path:
    """Resumes a run from its latest checkpoint, or from its beginning if there is none.

    It ends with the same weights, bit for bit, as a run that was not interrupted. A finished run is only evaluated
    again.

    Args:
      folder: Folder of the run.

    Returns:
      The folder.

    Raises:
      UsageError: If the folder is not such a run or is in use, its parts are not those that it was made of, or its
        latest checkpoint is damaged.
    """
    began = time.perf_counter()
    config, device = _executed(run_folder.read_config(folder, SFTRunConfig))
    with tf.device(device), locked(folder):
        parts = load_parts(config, kept_records(folder), None, folder)
        _train_and_finish(folder, parts, began, resumes=True)
    return folder


def _executed(config: SFTRunConfig) -> tuple[SFTRunConfig, str | None]:
    """Applies threads and determinism to TensorFlow, and returns the settings with the number of threads, and a device.

    The device is "/CPU:0", or None on a GPU, where TensorFlow itself places the operations.
    """
    threads = apply_execution_settings(config.run.threads, config.run.deterministic)
    device, reason = choose_device(config.run.device, None)
    print(f"device {device[1:4]}: {reason}", flush=True)
    return with_settings(config, {"threads": threads}), device if "CPU" in device else None


def _labels(config: SFTRunConfig) -> list[str]:
    """Returns the parts of the default name of a run: those of its data or of its preset."""
    if config.sft.data is not None:
        return [config.sft.data.stem]
    return [] if config.sft.preset is None else [label_of(config.sft.preset)]


def _train_and_finish(folder: Path, parts: Parts, began: float, resumes: bool = False) -> None:
    config, model = parts.config, parts.model
    for line in notices(parts):
        print(line, flush=True)
    base = model.count_params()
    if config.sft.lora_rank:
        add_adapters(model, config.sft.lora_rank, config.run.seed, config.sft.lora_alpha, config.sft.lora_targets)
    training = Training(model, parts.train.examples, parts.validation.examples, config.sft, config.run.seed)
    checkpoints = training.checkpoints(folder, config.run.keep_checkpoints)
    if resumes:
        path = go_back(folder, checkpoints)
        found = "there is no checkpoint yet: the run starts from the beginning"
        print(found if path is None else f"resumed from checkpoint {path.name}")
    trained = sum(math.prod(variable.shape) for variable in training.tuner.network.trainable_weights)
    files.check_room(folder, folder, BYTES * (base + SLOTS * trained * (config.run.keep_checkpoints + 1)))
    print(
        f"{type(model).__name__} of {base / 1e6:.2f}M parameters ({trained / 1e6:.2f}M trained), "
        f"{len(parts.train.examples)} examples of {parts.train.tokens:,} tokens, {training.total} steps of at most "
        f"{config.sft.batch_size} examples, seed {config.run.seed} -> {folder}",
        flush=True,
    )
    is_done = training.run(folder, Interval(config.run.checkpoint_interval, config.run.keep_checkpoints))
    if not is_done:
        print(
            f"stopped after step {int(training.progress.steps)} of {training.total}; resume with: "
            f"{run_folder.resume_command(folder)}"
        )
        return
    _finish(folder, parts, training, began)


def _finish(folder: Path, parts: Parts, training: Training, began: float) -> None:
    """Saves the weights with the lowest validation loss as a preset, and writes the evaluation and the picture."""
    steps, progress = int(training.progress.steps), training.progress
    skipped = int(training.tuner.guard.skipped.numpy())
    if progress.is_stopped and steps < training.total:
        print(f"stopped after step {steps} of {training.total}: {progress.patience} validations without a lower loss")
    checkpoints = training.checkpoints(folder, parts.config.run.keep_checkpoints)
    best = int(progress.best_row)
    if best:
        checkpoints.restore_for_use("best")
    preset = folder / run_folder.PRESET
    with files.replacing(preset, (TOKENIZER_FILE,), BYTES * parts.model.count_params()) as new:
        save_preset(new, parts.model, parts.tokenizer, "float32", parts.special)
    evaluation = _evaluation(parts, training, steps)
    evaluation["skipped_updates"] = skipped
    evaluation["weights"] = weights_hash(parts.model.weights)
    evaluation["seconds"] = {"total": round(time.perf_counter() - began, 3)}
    with writing(folder):
        run_folder.write_evaluation(folder, evaluation)
        columns = [LOSS, VALIDATION] if training.held_out is not None else [LOSS]
        plot_curve(folder / run_folder.METRICS, folder / run_folder.CURVE, "iteration", columns, "fine-tuning")
    print(f"{describe(evaluation)}; tune it with: tfppo train text --preset {run_folder.quoted(preset)}")


def _evaluation(parts: Parts, training: Training, steps: int) -> dict[str, Any]:
    """Evaluates the saved weights on the validation examples."""
    found, first = training.validate(), training.progress.first_loss
    validation = None
    if found:
        loss = found["loss"]
        validation = {
            "loss": loss,
            "perplexity": perplexity(loss),
            "accuracy": found["accuracy"],
            "loss_before": first,
            "perplexity_before": perplexity(first),
            **_sizes(parts.validation),
            "in_training_data": parts.records.overlap,
        }
    return {
        "seed": parts.config.run.seed,
        "epochs": steps / len(training.batches),
        "steps": steps,
        "parameters": parts.model.count_params(),
        "validation": validation,
        "train": _sizes(parts.train),
        "packed": training.packs,
        "padding": round(training.batches.padding(), 4),
    }


def _sizes(examples: Any) -> dict[str, int]:
    return {
        "examples": len(examples.examples),
        "tokens": examples.tokens,
        "truncated": examples.truncated,
        "left_out": examples.left_out,
    }


def notices(parts: Parts) -> list[str]:
    """Returns lines about examples that are cut, left out, or in both parts of the data."""
    lines = []
    for what, examples in (("training", parts.train), ("validation", parts.validation)):
        total = len(examples.examples) + examples.left_out
        if examples.truncated:
            lines.append(
                f"note: {examples.truncated} of {total} {what} examples are longer than {parts.length} tokens and are "
                "cut"
            )
        if examples.left_out:
            lines.append(
                f"note: {examples.left_out} of {total} {what} examples are left out, because their prompt alone fills "
                f"{parts.length} tokens"
            )
    if parts.records.overlap:
        lines.append(
            f"warning: {parts.records.overlap} of {len(parts.records.validation)} validation examples are also "
            "training examples, so that the validation loss is too low"
        )
    if not parts.validation.examples:
        lines.append("note: there are no validation examples, so that the training does not stop early")
    return lines


def describe(evaluation: dict[str, Any]) -> str:
    """Formats an evaluation as one line."""
    steps, found = evaluation["steps"], evaluation["validation"]
    done = f"{evaluation['parameters']:,} parameters, {steps} step{'s' * (steps != 1)}"
    if found is None:
        return done
    return (
        f"{done}: validation loss {found['loss']:.3f} nats per token (before: {found['loss_before']:.3f}), perplexity "
        f"{found['perplexity']:.3g} (before: {found['perplexity_before']:.3g})"
    )
