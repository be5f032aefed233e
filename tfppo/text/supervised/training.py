"""Trains a language model on examples with Keras' `fit`, and can be stopped and resumed after any gradient step."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import keras

from tfppo.errors import UsageError
from tfppo.reporting.console import ConsoleWriter
from tfppo.reporting.csv_writer import CsvWriter
from tfppo.reporting.tensorboard import TensorBoardWriter
from tfppo.reporting.writer import Writer
from tfppo.text.models.weights import fixed_weights
from tfppo.text.supervised.batches import Batches
from tfppo.text.supervised.config import SFTConfig
from tfppo.text.supervised.examples import Example
from tfppo.text.supervised.network import can_pack, training_network
from tfppo.text.supervised.progress import Progress, state_of
from tfppo.text.supervised.tuner import Tuner, perplexity
from tfppo.training import run_folder
from tfppo.training.checkpoints import Checkpoints
from tfppo.training.files import sizes_of
from tfppo.training.loop import APPENDED, closing_writers, stop_signals, writing

LOSS, VALIDATION = "sft/loss", "validation/loss"
COLUMNS = {LOSS: "loss", VALIDATION: "validation loss"}  # of the console
WARMUP = 20  # the learning rate rises during 1/20 of the steps


class Interval(NamedTuple):
    """Settings of the checkpoints of a run."""

    steps: int  # gradient steps between two checkpoints
    keep: int  # number of latest checkpoints to keep


class Training:
    """A language model with the examples and the optimizer of its training.

    Args:
      model: A KerasHub CausalLM or an `LSTMLanguageModel`, with weights to train.
      train: The training examples.
      validation: The validation examples; empty: there is no validation.
      config: Settings of the training; it must have a learning rate.
      seed: Seed of the order of the examples.
    """

    def __init__(
        self,
        model: keras.Model,
        train: Sequence[Example],
        validation: Sequence[Example],
        config: SFTConfig,
        seed: int,
    ):
        self.model, self.config = model, config
        self.packs = config.packing and can_pack(model)
        self.batches = Batches(train, config.batch_size, self.packs, seed)
        by_length = sorted(validation, key=lambda example: len(example.tokens))
        self.held_out = Batches(by_length, config.batch_size, self.packs) if validation else None
        self.total = config.epochs * len(self.batches)
        self.interval = config.validation_interval or len(self.batches)
        self.progress = Progress(config.patience)
        self.tuner = Tuner(training_network(model, self.packs, config.rematerialize))
        self.tuner.compile(optimizer=_optimizer(config, self.total), jit_compile=False)  # batches differ in length
        self.tuner.optimizer.build(self.tuner.network.trainable_weights)
        self._validations = None if self.held_out is None else self.held_out.dataset(0, len(self.held_out)).cache()

    @property
    def is_done(self) -> bool:
        """True if the training is finished, or has stopped early."""
        return int(self.progress.steps) >= self.total or self.progress.is_stopped

    def checkpoints(self, folder: Path, keep: int) -> Checkpoints:
        """Returns the checkpoints of the training in the folder of a run. Weights that are not trained are left out."""
        state = state_of(self.tuner, self.model, self.progress)
        return Checkpoints(folder / run_folder.CHECKPOINTS, keep, fixed_weights(self.model), **state)

    def validate(self) -> dict[str, float]:
        """Computes the mean loss and the accuracy over the counted validation tokens; empty without validation."""
        if self._validations is None:
            return {}
        return self.tuner.evaluate(self._validations, verbose=0, return_dict=True)

    def run(self, folder: Path, interval: Interval) -> bool:
        """Trains until the end, until the validation loss no longer falls, or until a signal.

        SIGINT and SIGTERM stop the training after a gradient step, with a checkpoint.

        Args:
          folder: Folder of the run. Gets rows of metrics, an event file and checkpoints.
          interval: Settings of the checkpoints.

        Returns:
          True if the training is done, and False if a signal has stopped it.

        Raises:
          UsageError: If something cannot be written, or all or too many steps in a row were skipped because the loss
            or the gradient was not finite.
        """
        if self.is_done:
            return True
        start = int(self.progress.steps)
        if start == 0:
            self.progress.begin(self.validate().get("loss", math.nan))
        writers: list[Writer] = [
            CsvWriter(folder / run_folder.METRICS, start),
            TensorBoardWriter(folder, None, start or None),
            ConsoleWriter(self.total, COLUMNS, None, start),
        ]
        with stop_signals() as is_stopped, closing_writers(writers):
            recorder = _Recorder(self, folder, interval, writers, is_stopped)
            while not (self.is_done or recorder.is_interrupted):
                first = int(self.progress.steps)
                last = min(self.total, first - first % self.interval + self.interval)
                self.tuner.fit(
                    self.batches.dataset(first, last),
                    steps_per_epoch=last - first,
                    verbose=0,
                    shuffle=False,  # the batches are shuffled; Keras warns if this is left at True
                    callbacks=[recorder],
                )
        skipped = int(self.tuner.guard.skipped)
        if skipped == int(self.progress.steps):
            raise UsageError(
                f"all {skipped} gradient steps were skipped, because {self.tuner.guard.culprit} was not finite: lower "
                "learning_rate, or check the weights of the model"
            )
        return self.is_done


def _optimizer(config: SFTConfig, steps: int) -> keras.optimizers.Optimizer:
    """Makes AdamW (Loshchilov and Hutter 2019) with a linear warm-up and a cosine decay of the learning rate."""
    assert config.learning_rate is not None
    warmup = steps // WARMUP
    schedule = keras.optimizers.schedules.CosineDecay(
        config.learning_rate if warmup == 0 else 0.0,
        max(1, steps - warmup),
        warmup_target=config.learning_rate if warmup else None,
        warmup_steps=warmup,
    )
    return keras.optimizers.AdamW(schedule, weight_decay=config.weight_decay, global_clipnorm=config.max_grad_norm)


class _Recorder(keras.callbacks.Callback):
    """Counts gradient steps, and writes rows of metrics and checkpoints. An epoch of Keras is an interval here.

    Args:
      training: The training.
      folder: Folder of the run.
      interval: Settings of the checkpoints.
      writers: Writers of the metrics. The last one shows them after each step.
      is_stopped: Returns True once the training shall stop.
    """

    def __init__(
        self,
        training: Training,
        folder: Path,
        interval: Interval,
        writers: Sequence[Writer],
        is_stopped: Callable[[], bool],
    ):
        super().__init__()
        self.training, self.folder, self.interval, self.writers = training, folder, interval, writers
        self.is_interrupted = False
        self._is_stopped = is_stopped
        self._checkpoints = training.checkpoints(folder, interval.keep)
        self._metrics = [variable for metric in training.tuner.metrics for variable in metric.variables]
        self._restored = [variable.numpy() for variable in self._metrics]  # of an interval that began before
        self._validation = training.progress.first_loss

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Continues the means of an interval that was interrupted; Keras has just reset them."""
        if int(self.training.progress.steps) % self.training.interval:
            for variable, value in zip(self._metrics, self._restored, strict=True):
                variable.assign(value)
        self._began = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Counts a step, and writes a checkpoint if it is time for one."""
        training, progress = self.training, self.training.progress
        progress.steps.assign_add(1)
        done = int(progress.steps)
        training.tuner.guard.check(done - 1)
        self.writers[-1].write(done - 1, {LOSS: training.tuner.mean_loss(), VALIDATION: self._validation})
        if done % training.interval == 0 or done == training.total:
            return  # on_epoch_end saves
        self.is_interrupted = self._is_stopped()
        if self.is_interrupted or done % self.interval.steps == 0:
            self._save(None)
        if self.is_interrupted:
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Validates the model at the end of an interval, and writes a row of metrics and a checkpoint."""
        training, progress = self.training, self.training.progress
        done = int(progress.steps)
        if self.is_interrupted:
            return
        row = {LOSS: training.tuner.mean_loss(), "sft/accuracy": float(training.tuner.accuracy.result())}
        row["sft/epoch"] = done / len(training.batches)
        found = training.validate()
        loss = found.get("loss")
        if loss is not None:
            self._validation = loss
            row |= {VALIDATION: loss, "validation/perplexity": perplexity(loss)}
            row["validation/accuracy"] = found["accuracy"]
        row["schedule/learning_rate"] = float(training.tuner.optimizer.learning_rate)
        row["guard/skipped_updates"] = float(training.tuner.guard.skipped.numpy())
        progress.record(loss)
        with writing(self.folder):
            for writer in self.writers[:-1]:
                writer.write(done - 1, row)
        self._save(None if loss is None else -loss)
        self.is_interrupted = self._is_stopped() and not training.is_done

    def _save(self, score: float | None) -> None:
        with writing(self.folder):
            for writer in self.writers:
                writer.flush()
            sizes = sizes_of(self.folder, APPENDED)
            self._checkpoints.save(int(self.training.progress.steps), score, sizes)
