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

from tfppo import runs
from tfppo.config import RunConfig
from tfppo.errors import UsageError
from tfppo.text.config import PretrainConfig
from tfppo.text.corpus import Sentence, sentences
from tfppo.text.lstm import make_lstm
from tfppo.text.presets import load_preset, save_preset
from tfppo.text.tokenizer import END, control_token, train_tokenizer
from tfppo.text.transformer import make_transformer

LENGTHS = (16, 24, 32, 40, 48, 64)  # tokens: sentences of about one length share a batch, so little is padding
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
    run = RunConfig(seed=config.seed, name=name, runs_dir=runs_dir)
    folder = runs.create_run_folder(run, f"pretrain-{config.model}")
    runs.write_config(folder, config)
    print(f"{config.model}, seed {config.seed}, at most {config.epochs} epochs -> {folder}", flush=True)
    with progress_on_stdout():
        model, tokenizer = pretrain(config, folder, verbose=1 if sys.stdout.isatty() else 2)
    preset = folder / PRESET
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
    runs.write_evaluation(folder, evaluation)
    print(f"{describe(evaluation)}; tune it with: tfppo train text --preset {preset}")
    return folder


def describe(evaluation: dict[str, Any]) -> str:
    """The evaluation of a pretrained model in a line."""
    test, epochs = evaluation["test"], evaluation["epochs"]
    return (
        f"{evaluation['parameters']:,} parameters, {epochs} epoch{'s' * (epochs != 1)}: "
        f"{test['nats_per_character']:.3f} nats a character, {test['nats_per_token']:.3f} a token on movie sentences "
        "that it has not seen"
    )


def pretrain(
    config: PretrainConfig, folder: Path, verbose: int = 1
) -> tuple[keras.Model, keras_hub.models.GPT2Tokenizer]:
    """Trains a tokenizer and a language model on the corpus. Returns (model, tokenizer), the model as it was when its
    validation loss was least. Into `folder` go metrics.csv, TensorBoard's events, and those weights.

    Ctrl-C ends the training early, once an epoch is done; before that it is a KeyboardInterrupt as ever.

    Args:
      config: the model and how it learns.
      folder: exists.
      verbose: as in Keras: 0 silent, 1 a progress bar, 2 a line an epoch.

    Raises:
      UsageError: on settings that do not fit together, or training that diverges.
    """
    keras.utils.set_random_seed(config.seed)
    train, validation = sentences("train"), sentences("validation")
    tokenizer = train_tokenizer([sentence.text for sentence in train], config.vocabulary_size)
    make = make_lstm if config.model == "lstm" else make_transformer
    model = make(tokenizer.vocabulary_size(), config)
    batches = make_dataset(encode(tokenizer, train, config.context_length), config.batch_size, config.seed)
    held_out = make_dataset(encode(tokenizer, validation, config.context_length), config.batch_size)
    _compile(model, config, config.epochs * int(batches.cardinality()))
    _fit(model, config, batches, held_out, folder, verbose)
    return model, tokenizer


def encode(
    tokenizer: keras_hub.models.GPT2Tokenizer, corpus: Sequence[Sentence], length: int | None = None
) -> list[np.ndarray]:
    """Each sentence as int32 [at most length + 1]: its domain's control token, its tokens, the end.

    Args:
      tokenizer: has the control tokens.
      corpus: the sentences.
      length: tokens that a model can look at; it predicts one more. None: any.
    """
    end = tokenizer.token_to_id(END)
    limit = None if length is None else length + 1
    tokens = tokenizer([sentence.text for sentence in corpus])
    return [
        np.array([tokenizer.token_to_id(control_token(sentence.domain)), *ids, end], np.int32)[:limit]
        for sentence, ids in zip(corpus, tokens, strict=True)
    ]


def make_dataset(encoded: Sequence[np.ndarray], batch_size: int, seed: int | None = None) -> tf.data.Dataset:
    """Batches of ({"token_ids", "padding_mask"}, next tokens), int32 [B, S] each, of sentences of about one length.

    Args:
      encoded: N sentences, int32 [at least 2], without 0, which is what they are padded with on the right.
      batch_size: B; the last batch of each length may be smaller.
      seed: of an order that is another one in every epoch; None: as they come.
    """
    lengths = [len(ids) for ids in encoded]
    padded = keras.utils.pad_sequences(encoded, padding="post")  # [N, longest]
    dataset = tf.data.Dataset.from_tensor_slices((padded, lengths)).map(lambda ids, length: ids[:length])
    if seed is not None:
        dataset = dataset.shuffle(len(encoded), seed=seed, reshuffle_each_iteration=True)
    dataset = dataset.bucket_by_sequence_length(
        tf.size, LENGTHS, [batch_size] * (len(LENGTHS) + 1), padded_shapes=[None]
    )  # [B, S + 1]

    def split(ids):
        inputs = ids[:, :-1]
        return {"token_ids": inputs, "padding_mask": tf.cast(inputs != 0, tf.int32)}, ids[:, 1:]

    buckets = np.bincount(np.searchsorted(LENGTHS, lengths, side="right"))
    batches = int(np.sum(-(-buckets // batch_size)))  # Keras wants to know, and tf.data cannot
    return dataset.map(split).apply(tf.data.experimental.assert_cardinality(batches)).prefetch(2)


def nats_per_character(
    model: keras.Model, tokenizer: keras_hub.models.GPT2Tokenizer, corpus: Sequence[Sentence], batch_size: int = 64
) -> tuple[float, float]:
    """Held-out loss: (nats per character, nats per token).

    The negative log-likelihood of all tokens, the end of the text included, given the domain's control token; over the
    characters of the texts, or over the tokens. Sentences longer than the context are judged on what fits, and count
    the characters of that share.
    """
    whole = encode(tokenizer, corpus)
    limit = model.backbone.max_sequence_length + 1 if hasattr(model, "backbone") else None  # the LSTM reads on and on
    kept = [ids[:limit] for ids in whole]
    dataset = make_dataset(kept, batch_size)

    @tf.function(input_signature=dataset.element_spec, autograph=False)
    def nats(inputs, targets):
        losses = keras.losses.sparse_categorical_crossentropy(targets, model(inputs, training=False), from_logits=True)
        return tf.reduce_sum(losses * tf.cast(targets != 0, losses.dtype))

    total = sum(float(nats(*batch)) for batch in dataset)
    tokens = sum(len(ids) - 1 for ids in kept)
    characters = sum(
        len(sentence.text) * (len(part) - 1) / (len(ids) - 1)
        for sentence, part, ids in zip(corpus, kept, whole, strict=True)
    )
    return total / characters, total / tokens


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
        keras.callbacks.CSVLogger(str(folder / runs.METRICS)),
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
    if not np.isfinite(stopping.best):
        raise UsageError(f"training diverged with learning_rate = {config.learning_rate}: choose a smaller one")


def _evaluate(model: keras.Model, tokenizer: keras_hub.models.GPT2Tokenizer) -> dict[str, dict[str, float]]:
    """The losses on the movie sentences of the two splits that were not trained on."""
    evaluation = {}
    for split in ("validation", "test"):
        losses = nats_per_character(model, tokenizer, sentences(split, "movie"))
        evaluation[split] = dict(zip(("nats_per_character", "nats_per_token"), losses, strict=True))
    return evaluation


@contextmanager
def progress_on_stdout() -> Iterator[None]:
    """Keras shows its progress to a person; the command line has sent its messages to the log, where they get lost."""
    was_on = keras.config.is_interactive_logging_enabled()
    keras.config.enable_interactive_logging()
    try:
        yield
    finally:
        if not was_on:
            keras.config.disable_interactive_logging()
