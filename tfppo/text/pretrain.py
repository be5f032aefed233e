"""Pretraining of a language model on the corpus, by maximum likelihood with Keras' `fit`."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
import tensorflow as tf

from tfppo.errors import UsageError, one_line
from tfppo.text.config import PretrainConfig
from tfppo.text.data.corpus import sentences
from tfppo.text.data.likelihood import IGNORED, best_temperature, encode, make_dataset, nats_per_character
from tfppo.text.data.tokenizer import check_control_tokens, train_tokenizer
from tfppo.text.models.copying import ModelsDiffer, copy_weights, rebuilt
from tfppo.text.models.language_model import context_length, final_normalization
from tfppo.text.models.lstm import make_lstm
from tfppo.text.models.transformer import make_transformer
from tfppo.text.presets.fetching import label_of
from tfppo.text.presets.folder import load_preset, save_preset
from tfppo.training import files, new_folder, run_folder
from tfppo.training.config import RunConfig
from tfppo.training.file_errors import FILE_ERRORS, is_file_error

BEST = "best.weights.h5"
PRESET = "preset"


def pretrain_run(config: PretrainConfig, name: str | None, runs_dir: Path) -> Path:
    """Pretrains a language model in a new run.

    The folder of the run gets `config.yaml`, `metrics.csv`, TensorBoard event files, the model as `preset/`, and
    `evaluation.json` with the losses of the preset on the movie sentences of the validation and the test split.
    Ctrl-C ends the training early and keeps the best model, if at least one epoch is done.

    Args:
      config: Settings of the model and of its training.
      name: Name of the run's folder; None makes one from the model and the seed.
      runs_dir: Folder of all runs.

    Returns:
      The folder of the run.

    Raises:
      UsageError: If the preset cannot be used, training diverges, or the folder cannot be used.
    """
    began = time.perf_counter()
    kind = config.model if config.preset is None else label_of(config.preset)
    model, tokenizer = initial_model(config)  # may raise UsageError, so before anything is written
    run = RunConfig(seed=config.seed, name=name, runs_dir=runs_dir)
    with new_folder.new_run_folder(run, f"pretrain-{kind}", config, print) as folder:
        limit = f"at most {config.epochs} epoch{'s' * (config.epochs != 1)}"
        print(f"{kind}, seed {config.seed}, {limit} -> {folder}", flush=True)
        preset = folder / PRESET
        with fitting(folder, 8 * model.count_params()):
            pretrain(config, model, tokenizer, folder, verbose=1 if sys.stdout.isatty() else 2)
            save_preset(preset, model, tokenizer)
            (folder / BEST).unlink()  # only needed if the process dies during training
        trained = time.perf_counter()
        evaluation = {
            "seed": config.seed,
            "epochs": len(model.history.epoch),
            "parameters": model.count_params(),
            **_evaluate(*load_preset(preset)),  # the saved model, because a preset rounds the weights
        }
        ended = time.perf_counter()
        seconds = {"train": trained - began, "evaluate": ended - trained, "total": ended - began}
        evaluation["seconds"] = {key: round(value, 3) for key, value in seconds.items()}
        run_folder.write_evaluation(folder, evaluation)
    print(f"{describe(evaluation)}; tune it with: tfppo train text --preset {run_folder.quoted(preset)}")
    return folder


def describe(evaluation: dict[str, Any]) -> str:
    """Formats the evaluation of a pretrained model as one line.

    Args:
      evaluation: Content of `evaluation.json`.
    """
    test, epochs = evaluation["test"], evaluation["epochs"]
    return (
        f"{evaluation['parameters']:,} parameters, {epochs} epoch{'s' * (epochs != 1)}: loss on the test split "
        f"{test['nats_per_character']:.3f} nats per character, {test['nats_per_token']:.3f} nats per token"
    )


def initial_model(config: PretrainConfig) -> tuple[keras.Model, keras_hub.models.GPT2Tokenizer]:
    """Makes the language model that training starts from, and its tokenizer. Sets the seed of Keras.

    Args:
      config: Settings of the model. With a preset, model and tokenizer are loaded from it; else they are new, and the
        tokenizer is trained on the corpus.

    Returns:
      The model and its tokenizer.

    Raises:
      UsageError: If the preset cannot be loaded, or its tokenizer lacks the control tokens of the corpus.
    """
    keras.utils.set_random_seed(config.seed)
    if config.preset is not None:
        return _load_to_go_on(config.preset, config.dropout)
    tokenizer = train_tokenizer([sentence.text for sentence in sentences("train")], config.vocabulary_size)
    make = make_lstm if config.model == "lstm" else make_transformer
    return make(tokenizer.vocabulary_size(), config), tokenizer


def pretrain(
    config: PretrainConfig,
    model: keras.Model,
    tokenizer: keras_hub.models.GPT2Tokenizer,
    folder: Path,
    verbose: int = 1,
) -> None:
    """Trains a language model on the corpus, restores the weights of its best epoch, and calibrates its logits.

    The best epoch is the one with the lowest validation loss. Ctrl-C ends the training early if an epoch is done.

    Args:
      config: Settings of the training.
      model: A model of `initial_model`.
      tokenizer: Tokenizer of the model.
      folder: An existing folder; gets `metrics.csv`, TensorBoard event files and the best weights.
      verbose: As in Keras: 0 is silent, 1 shows a progress bar, 2 prints a line per epoch.

    Raises:
      UsageError: If training diverges.
      KeyboardInterrupt: If Ctrl-C is pressed in the first epoch.
    """
    length = min(config.context_length, context_length(model) or config.context_length)
    train, validation = (encode(tokenizer, sentences(split), length) for split in ("train", "validation"))
    batches = make_dataset(train, config.batch_size, config.seed)
    held_out = make_dataset(validation, config.batch_size)
    _compile(model, config, config.epochs * int(batches.cardinality()))
    _fit(model, config, batches, held_out, folder, verbose)
    _calibrate(model, held_out)


def _load_to_go_on(preset: Path | str, dropout: float) -> tuple[keras.Model, keras_hub.models.GPT2Tokenizer]:
    """Loads the model of a preset, with another dropout rate, and its tokenizer."""
    model, tokenizer = load_preset(preset)
    check_control_tokens(tokenizer, preset)
    if not model.trainable_weights:
        raise UsageError(
            f"all weights of preset {preset} are frozen; pretraining needs weights to train: load it, set "
            "model.trainable = True and save it again"
        )
    try:
        twin = rebuilt(model, dropout=dropout)
        copy_weights(model, twin)
    except (ModelsDiffer, TypeError) as error:  # TypeError: the model has no setting for dropout
        raise UsageError(
            f"preset {preset} holds a {type(model).__name__} that cannot be built with dropout {dropout} "
            f"({one_line(error)}): give a preset that tfppo pretrain made"
        ) from error
    return twin, tokenizer


def _compile(model: keras.Model, config: PretrainConfig, steps: int) -> None:
    """Compiles the model with AdamW.

    The learning rate rises linearly over the first 5 % of the steps, and then falls to 0 as a cosine.
    """
    warmup_steps = steps // 20
    learning_rate = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warmup_steps), warmup_target=config.learning_rate, warmup_steps=warmup_steps
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(learning_rate, weight_decay=config.weight_decay, global_clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=IGNORED),
        weighted_metrics=[],  # without it KerasHub adds an accuracy that includes padding
        jit_compile=False,  # batches differ in length, and XLA would compile for each length
    )


def _fit(
    model: keras.Model,
    config: PretrainConfig,
    batches: tf.data.Dataset,
    held_out: tf.data.Dataset,
    folder: Path,
    verbose: int,
) -> None:
    """Trains a compiled model, and restores the weights of the epoch with the lowest validation loss."""
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=config.patience, restore_best_weights=True)
    callbacks = [
        keras.callbacks.TensorBoard(str(folder)),
        keras.callbacks.CSVLogger(str(folder / run_folder.METRICS)),
        keras.callbacks.ModelCheckpoint(str(folder / BEST), "val_loss", save_best_only=True, save_weights_only=True),
        keras.callbacks.TerminateOnNaN(),
        stopping,
    ]
    try:
        model.fit(
            batches,
            validation_data=held_out,
            epochs=config.epochs,
            verbose=verbose,
            callbacks=callbacks,
            shuffle=False,  # the dataset shuffles; Keras warns if this is left at True
        )
    except KeyboardInterrupt:
        if stopping.best_weights is None:
            raise
        for callback in callbacks:  # `fit` does this at its end
            callback.on_train_end()
    refuse_divergence([stopping.best], config.learning_rate)


def _calibrate(model: keras.Model, held_out: tf.data.Dataset) -> None:
    """Divides the logits by the temperature with the lowest loss on held-out text (Guo et al. 2017).

    A model that was trained for many epochs is overconfident. The temperature goes into the weights of the final
    layer normalization, which scale the logits. An LSTM has no such layer and is not changed.
    """
    normalization = final_normalization(model)
    if normalization is not None:
        temperature = best_temperature(model, held_out)
        normalization.set_weights([weight / temperature for weight in normalization.get_weights()])


def _evaluate(model: keras.Model, tokenizer: keras_hub.models.GPT2Tokenizer) -> dict[str, dict[str, float]]:
    """Computes the losses on the movie sentences of the validation and the test split."""
    evaluation = {}
    for split in ("validation", "test"):
        losses = nats_per_character(model, tokenizer, sentences(split, "movie"))
        evaluation[split] = dict(zip(("nats_per_character", "nats_per_token"), losses, strict=True))
    return evaluation


def refuse_divergence(results: np.ndarray | Sequence[float], learning_rate: float) -> None:
    """Checks that training has not diverged.

    Args:
      results: Losses or weights after training.
      learning_rate: Learning rate of the training, for the error.

    Raises:
      UsageError: If a result is not finite.
    """
    if not np.isfinite(results).all():
        raise UsageError(f"training diverged with learning_rate = {learning_rate}: lower learning_rate")


@contextmanager
def fitting(folder: Path, size: int) -> Iterator[None]:
    """Shows Keras' progress on the console, and turns write errors into a UsageError, within a `with` block.

    The command line sends Keras' messages to the log, where its progress would not be visible.

    Args:
      folder: Folder of the run, which the block writes to.
      size: Number of bytes that the block writes at least.

    Yields:
      None.

    Raises:
      UsageError: If the disk has less than `size` bytes free, before the block begins; or if the block cannot write.
    """
    files.check_room(folder, folder, size)
    was_on = keras.config.is_interactive_logging_enabled()
    keras.config.enable_interactive_logging()
    try:
        yield
    except FILE_ERRORS as error:
        if not is_file_error(error):
            raise
        raise UsageError(
            f"cannot write to {folder} ({files.why_not_written(error)}): check that the folder exists and that its "
            "disk has free space, then start again, under another --name if this one is taken"
        ) from None
    finally:
        if not was_on:
            keras.config.disable_interactive_logging()
