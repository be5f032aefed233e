"""Training as Keras users know it: `fit` with callbacks, which returns a History. An epoch is an iteration."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeAlias

import keras

from tfppo.errors import UsageError, refusing_exits, shown
from tfppo.settings import with_settings
from tfppo.training import driver
from tfppo.training.loop import write_iterations
from tfppo.training.trainer import C, Metrics, Trainer

Callbacks: TypeAlias = Sequence[keras.callbacks.Callback] | keras.callbacks.Callback | None
REFUSED = {
    "BackupAndRestore": "tfppo saves checkpoints itself and resumes from them exactly: give run_dir, and resume with "
    "tfppo.resume(run_dir)",
    "LearningRateScheduler": "tfppo sets the learning rate of each iteration: use the setting learning_rate_schedule",
    "ReduceLROnPlateau": "tfppo sets the learning rate of each iteration: use the setting learning_rate_schedule",
}


class Fittable(Trainer, Protocol[C]):
    """A trainer whose settings can be replaced before it trains, or before it trains further."""

    @property
    def config(self) -> C:
        """Settings of the run."""

    def adopt(self, config: C) -> None:
        """Replaces the settings that `fit` may replace: the length of the run, its folder and its validation."""


class Epochs:
    """Calls Keras callbacks for the iterations of a training.

    Args:
      callbacks: The callbacks.
      model: The policy's Keras model, their `model`.
      trainer: Its iterations are the epochs.
    """

    def __init__(self, callbacks: Sequence[keras.callbacks.Callback], model: keras.Model, trainer: Trainer):
        params = {"epochs": trainer.num_iterations, "steps": 1, "verbose": 0}
        self._model = model
        self._start = trainer.iteration
        self._names: dict[str, None] = {}  # names of all metrics so far, in their order
        self._is_open = True
        model.stop_training = False
        self._callbacks = keras.callbacks.CallbackList(list(callbacks), add_history=True, model=model, **params)
        self.history: keras.callbacks.History = self._callbacks._history

    def begin(self) -> None:
        """Calls the callbacks before the first epoch."""
        self._callbacks.on_train_begin()
        self._begin_epoch(self._start)

    def after(self, epoch: int, row: Metrics, is_last: bool) -> bool:
        """Calls the callbacks after an epoch, see `loop.write_iterations`.

        Returns:
          True if a callback has set `model.stop_training`.
        """
        self._names |= dict.fromkeys(row)
        logs = {name: row.get(name, math.nan) for name in self._names}
        self._callbacks.on_train_batch_end(0, {"loss": row["loss/total"], **logs})  # TerminateOnNaN looks here
        self._callbacks.on_epoch_end(epoch, logs)
        is_last = is_last or self._model.stop_training
        if is_last:
            self.end()  # EarlyStopping may restore weights, which the last checkpoint must hold
        else:
            self._begin_epoch(epoch + 1)
        return is_last

    def end(self) -> None:
        """Calls the callbacks after the last epoch, once."""
        if self._is_open:
            self._is_open = False
            self._callbacks.on_train_end()
            for values in self.history.history.values():  # of metrics that came later
                values[:0] = [math.nan] * (len(self.history.epoch) - len(values))

    def _begin_epoch(self, epoch: int) -> None:
        self._callbacks.on_epoch_begin(epoch)
        self._callbacks.on_train_batch_begin(0)


@refusing_exits()
def fit(
    trainer: Fittable[C],
    model: keras.Model,
    callbacks: Callbacks = None,
    run_dir: Path | str | None = None,
    extend: bool = False,
    verbose: int | str = "auto",
    **settings: object,
) -> keras.callbacks.History:
    """Trains to the end of a trainer's run, through the same loop as the command line.

    Args:
      trainer: The trainer.
      model: The policy's Keras model, which is the `model` of the callbacks.
      callbacks: Keras callbacks.
      run_dir: Folder of the run, which gets all results and the evaluation at the end. None: there is none.
      extend: True allows a trainer that has trained before.
      verbose: 0 prints no progress, unless there is a folder.
      **settings: Settings that replace those of the trainer, by name; None: not given.

    Returns:
      The History: `history` has a list of values for every metric, one for each epoch.

    Raises:
      UsageError: If the trainer has trained before and `extend` is False, a setting is invalid, a callback cannot be
        used, there is nothing left to train, or training fails.
    """
    given = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks] if callbacks is not None else []
    _check(given)
    _check_fresh(trainer, extend)
    replaced = {name: value for name, value in settings.items() if value is not None}
    if run_dir is not None:
        replaced |= {"name": Path(run_dir).name, "runs_dir": Path(run_dir).parent}
    trainer.adopt(with_settings(trainer.config, replaced))
    if trainer.iteration >= trainer.num_iterations:
        raise UsageError(
            f"extend is True, and all {trainer.num_iterations} iterations of the training are done: say how much more "
            "to train, as in fit(..., extend=True)"
        )
    with _without_optimizer(model):
        epochs = Epochs(given, model, trainer)
        epochs.begin()
        if run_dir is not None:
            with driver.start_run(trainer, trainer.name) as folder:
                driver.run(trainer, folder, driver.PhaseTimer(0.0), epochs.after)
        else:
            writers = driver.console_writers(trainer) if verbose else []
            with driver.training(trainer, "no folder" if verbose else None, None):
                write_iterations(trainer, trainer.iterations(), None, writers, after=epochs.after)
        epochs.end()  # Ctrl-C has ended the training
        return epochs.history


@contextmanager
def _without_optimizer(model: keras.Model) -> Iterator[None]:
    """Hides an optimizer of the model's own during the `with` block.

    Callbacks would take its learning rate for that of the training. They also need the attribute, which a model lacks
    that was never compiled.
    """
    own = {name: value for name, value in vars(model).items() if name == "optimizer"}
    object.__setattr__(model, "optimizer", None)
    try:
        yield
    finally:
        object.__delattr__(model, "optimizer")
        vars(model).update(own)


def _check_fresh(trainer: Trainer, extend: bool) -> None:
    if trainer.iteration and not extend:
        raise UsageError(
            f"the trainer has trained {trainer.iteration} iterations; fit begins only a new training: make a new "
            "trainer, or give extend=True, which trains for more iterations. The schedules are then those of the "
            "longer run: a learning rate that has fallen to 0 rises again, to its value at this share of the whole"
        )


def _check(callbacks: Sequence[object]) -> None:
    for callback in callbacks:
        if not isinstance(callback, keras.callbacks.Callback):
            raise UsageError(f"callbacks has {shown(callback)}; it must hold keras.callbacks.Callback objects")
        for kind in type(callback).__mro__:
            if kind.__name__ in REFUSED and kind.__module__.startswith("keras"):
                raise UsageError(f"callbacks has a {kind.__name__}; {REFUSED[kind.__name__]}")
