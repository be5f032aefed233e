"""Pretraining: a language model learns the corpus by maximum likelihood, with Keras' own `fit`."""

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

from tfppo.errors import UsageError
from tfppo.text.config import PretrainConfig
from tfppo.text.data.corpus import DOMAINS, sentences
from tfppo.text.data.likelihood import best_temperature, encode, make_dataset, nats_per_character
from tfppo.text.data.tokenizer import control_token, train_tokenizer
from tfppo.text.models.backbones import context_length, final_normalization
from tfppo.text.models.lstm import LSTMLanguageModel, make_lstm
from tfppo.text.models.presets import load_preset, save_preset
from tfppo.text.models.transformer import make_transformer
from tfppo.training import files, run_folder
from tfppo.training.config import RunConfig

BEST = "best.weights.h5"
PRESET = "preset"


def pretrain_run(config: PretrainConfig, name: str | None, runs_dir: Path) -> Path:
    """Pretrains a language model in a run's folder of its own, and returns the folder.

    It holds config.yaml, metrics.csv, TensorBoard's events, the model as preset/, and evaluation.json: the losses of
    that preset on the movie sentences of the validation and the test split. Ctrl-C ends the training early, once an
    epoch is done.

    Raises:
      UsageError: on settings that do not fit together, training that diverges, or a folder that cannot be used.
    """
    began = time.perf_counter()
    kind = config.model if config.preset is None else config.preset.resolve().name
    model, tokenizer = initial_model(config)  # may refuse, so before anything is written
    run = RunConfig(seed=config.seed, name=name, runs_dir=runs_dir)
    folder = run_folder.create_run_folder(run, f"pretrain-{kind}")
    run_folder.write_config(folder, config)
    limit = f"at most {config.epochs} epoch{'s' * (config.epochs != 1)}"
    print(f"{kind}, seed {config.seed}, {limit} -> {folder}", flush=True)
    preset = folder / PRESET
    with fitting(folder, 8 * model.count_params()):
        pretrain(config, model, tokenizer, folder, verbose=1 if sys.stdout.isatty() else 2)
        save_preset(preset, model, tokenizer)
        (folder / BEST).unlink()  # it was there in case the process died
    trained = time.perf_counter()
    evaluation = {
        "seed": config.seed,
        "epochs": len(model.history.epoch),
        "parameters": model.count_params(),
        **_evaluate(*load_preset(preset)),  # as it will be used: the weights of a preset are rounded
    }
    ended = time.perf_counter()
    seconds = {"train": trained - began, "evaluate": ended - trained, "total": ended - began}
    evaluation["seconds"] = {key: round(value, 3) for key, value in seconds.items()}
    run_folder.write_evaluation(folder, evaluation)
    print(f"{describe(evaluation)}; tune it with: tfppo train text --preset {run_folder.quoted(preset)}")
    return folder


def describe(evaluation: dict[str, Any]) -> str:
    """The evaluation of a pretrained model in a line."""
    test, epochs = evaluation["test"], evaluation["epochs"]
    return (
        f"{evaluation['parameters']:,} parameters, {epochs} epoch{'s' * (epochs != 1)}: "
        f"{test['nats_per_character']:.3f} nats a character, {test['nats_per_token']:.3f} a token on movie sentences "
        "that it has not seen"
    )


def initial_model(config: PretrainConfig) -> tuple[keras.Model, keras_hub.models.GPT2Tokenizer]:
    """The language model that training begins with, and its tokenizer: new ones, the tokenizer learnt from the corpus,
    or those of a preset. Sets the seed of Keras.

    Raises:
      UsageError: if the preset is none, or its tokenizer does not know the corpus' control tokens.
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
    """Trains a language model on the corpus, leaves it as it was when its validation loss was least, and calibrates its
    logits. Into `folder` go metrics.csv, TensorBoard's events, and weights.

    Ctrl-C ends the training early, once an epoch is done; before that it is a KeyboardInterrupt as ever.

    Args:
      config: how the model learns.
      model: as `initial_model` makes it.
      tokenizer: the model's.
      folder: exists.
      verbose: as in Keras: 0 silent, 1 a progress bar, 2 a line an epoch.

    Raises:
      UsageError: if training diverges.
    """
    length = min(config.context_length, context_length(model) or config.context_length)
    train, validation = (encode(tokenizer, sentences(split), length) for split in ("train", "validation"))
    batches = make_dataset(train, config.batch_size, config.seed)
    held_out = make_dataset(validation, config.batch_size)
    _compile(model, config, config.epochs * int(batches.cardinality()))
    _fit(model, config, batches, held_out, folder, verbose)
    _calibrate(model, held_out)


def _load_to_go_on(preset: Path, dropout: float) -> tuple[keras.Model, keras_hub.models.GPT2Tokenizer]:
    """The model of a preset, with another dropout, and its tokenizer."""
    model, tokenizer = load_preset(preset)
    missing = {control_token(domain) for domain in DOMAINS} - set(tokenizer.get_vocabulary())
    if missing:
        raise UsageError(
            f"the tokenizer of preset {preset} has no {', '.join(sorted(missing))}, which begin the sentences of the "
            "corpus: give a preset that tfppo pretrain made"
        )
    if isinstance(model, LSTMLanguageModel):
        twin = LSTMLanguageModel.from_config(model.get_config() | {"dropout": dropout})
    else:
        twin = type(model)(type(model.backbone).from_config(model.backbone.get_config() | {"dropout": dropout}))
    twin.set_weights(model.get_weights())
    return twin, tokenizer


def _compile(model: keras.Model, config: PretrainConfig, steps: int) -> None:
    """AdamW over so many steps: its rate rises over the first 5 %, and falls to 0 as a cosine."""
    warmup_steps = steps // 20
    learning_rate = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warmup_steps), warmup_target=config.learning_rate, warmup_steps=warmup_steps
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(learning_rate, weight_decay=config.weight_decay, global_clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0),
        weighted_metrics=[],  # KerasHub would add an accuracy that counts padding
        jit_compile=False,  # batches differ in length, and XLA would compile each anew
    )


def _fit(
    model: keras.Model,
    config: PretrainConfig,
    batches: tf.data.Dataset,
    held_out: tf.data.Dataset,
    folder: Path,
    verbose: int,
) -> None:
    """Trains a compiled model, and leaves it as it was when its validation loss was least."""
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
            shuffle=False,  # the dataset does it; with True, which is Keras' default, Keras would warn of that
        )
    except KeyboardInterrupt:
        if stopping.best_weights is None:
            raise
        for callback in callbacks:  # what `fit` would have done
            callback.on_train_end()
    refuse_divergence([stopping.best], config.learning_rate)


def _calibrate(model: keras.Model, held_out: tf.data.Dataset) -> None:
    """Divides the logits by the temperature that suits held-out text best (Guo et al. 2017): a model that has read its
    corpus many times is too sure. What scales logits here is the last normalisation; an LSTM has none, and stays."""
    normalization = final_normalization(model)
    if normalization is not None:
        temperature = best_temperature(model, held_out)
        normalization.set_weights([weight / temperature for weight in normalization.get_weights()])


def _evaluate(model: keras.Model, tokenizer: keras_hub.models.GPT2Tokenizer) -> dict[str, dict[str, float]]:
    """The losses on the movie sentences of the two splits that were not trained on."""
    evaluation = {}
    for split in ("validation", "test"):
        losses = nats_per_character(model, tokenizer, sentences(split, "movie"))
        evaluation[split] = dict(zip(("nats_per_character", "nats_per_token"), losses, strict=True))
    return evaluation


def refuse_divergence(results: np.ndarray | Sequence[float], learning_rate: float) -> None:
    """Raises UsageError unless what training has led to is finite."""
    if not np.isfinite(results).all():
        raise UsageError(f"training diverged with learning_rate = {learning_rate}: choose a smaller one")


@contextmanager
def fitting(folder: Path, size: int) -> Iterator[None]:
    """Inside, Keras shows its progress to a person (the command line has sent its messages to the log, where they get
    lost), and what cannot be written to a run's folder is a UsageError of one line.

    Raises:
      UsageError: also where the disk has no room for so many bytes, before anything begins.
    """
    files.check_room(folder, folder, size)
    was_on = keras.config.is_interactive_logging_enabled()
    keras.config.enable_interactive_logging()
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        raise UsageError(
            f"cannot write to {folder} ({files.why_not_written(error)}): see that it is there and that its disk "
            "has room, and start again"
        ) from None
    finally:
        if not was_on:
            keras.config.disable_interactive_logging()
