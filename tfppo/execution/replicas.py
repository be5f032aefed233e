"""Replicas: several GPUs, or several processes, that train one policy together (tf.distribute).

A run's settings are those of all replicas together. Each replica acts for its share of the environments or prompts and
takes the gradient of its share of a minibatch; random numbers are drawn for the whole and then cut. So the run is that
of one replica, up to the order in which floats are added.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import keras
import tensorflow as tf

from tfppo.execution.variables import StatePart, Variable
from tfppo.ops.nest import map_tensors
from tfppo.settings import exact_div

Structure = TypeVar("Structure")  # a nest of tensors
Maxima = TypeVar("Maxima")  # a nest of scalars
Nests = TypeVar("Nests", bound=tuple[object, ...])


class Replicas:
    """One replica, which does everything itself; the base class of several replicas.

    Args:
      count: R, how many replicas there are.
      process: which of the processes this is.
      processes: how many there are; each has environments of its own where Python steps them.
    """

    def __init__(self, count: int = 1, process: int = 0, processes: int = 1):
        self.count = count
        self.process = process
        self.processes = processes

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the run's folder."""
        return self.process == 0

    @property
    def description(self) -> str:
        """The end of a sentence that tells what shares the run; empty for one replica."""
        return ""

    def modes(self, mode: str) -> tuple[str, str]:
        """Returns the modes of a program and of a replica's share within it.

        XLA has no collectives, so that with several replicas it compiles the shares only.
        """
        if self.count == 1:
            return mode, "eager"  # as part of the program
        return ("graph", "xla") if mode == "xla" else (mode, "eager")

    def cut(self, nest: Structure, index: int, axis: int = 0) -> Structure:
        """Cuts the share of replica `index` out of a nest of tensors, along an axis; what is None stays None."""
        if self.count == 1:
            return nest

        def part(x: tf.Tensor) -> tf.Tensor:
            size = x.shape[axis] // self.count
            return x[(*[slice(None)] * axis, slice(index * size, (index + 1) * size))]

        return map_tensors(part, nest)

    def divide(self, total: int, name: str, pieces: int = 1) -> int:
        """Divides a total by the number of replicas and by `pieces`; a remainder is a UsageError with its name."""
        suffix = f" x {pieces}" if pieces > 1 else ""
        return exact_div(total, self.count * pieces, name, f"the number of replicas{suffix}")

    def scope(self) -> contextlib.AbstractContextManager[None]:
        """Inside, new variables have a copy on every replica."""
        return contextlib.nullcontext()

    def reduce(self, function: Callable[[int], tuple[Structure, Maxima]]) -> tuple[Structure, Maxima]:
        """Calls `function(index)` in every replica; returns the sums of its first nest and the maxima of its second
        one, which holds scalars."""
        return function(0)

    def gather(self, function: Callable[[int], Nests], axes: Sequence[int]) -> Nests:
        """Calls `function(index)` in every replica; concatenates the n-th of its nests along axis `axes[n]`."""
        del axes
        return function(0)

    def cut_processes(self, nest: Structure, axis: int = 0) -> Structure:
        """Cuts the share of this process out of a nest of tensors, along an axis."""
        del axis
        return nest

    def gather_processes(self, nests: Nests, axes: Sequence[int]) -> Nests:
        """Concatenates nests of tensors of which every process has its share, the n-th along axis `axes[n]`."""
        del axes
        return nests

    def apply(
        self, optimizer: keras.optimizers.Optimizer, gradients: Sequence[tf.Tensor], variables: Sequence[Variable]
    ) -> None:
        """Takes a step of the optimizer, with the gradients of all replicas together."""
        optimizer.apply(gradients, variables)

    def any(self, flag: bool) -> bool:
        """Returns whether the flag is true in any process; all processes must call it."""
        return flag

    def start(self, settings: str, state: Mapping[str, StatePart]) -> None:
        """Gives all processes the chief's values of the state's variables.

        Raises:
          UsageError: if they were not given the same settings.
        """

    def watched(self, command: str) -> contextlib.AbstractContextManager[None]:
        """Inside, the loss of another process is a UsageError of one line, which names `command` to resume the run."""
        del command
        return contextlib.nullcontext()


ALONE = Replicas()
