"""Replicas: several GPUs or several processes that train one policy together (`tf.distribute`).

The settings of a run hold for all replicas together. Each replica acts for its share of the environments or prompts,
and computes the gradient of its share of a minibatch. Random numbers are drawn for the whole batch and then divided. A
distributed run therefore gives the same results as a run with one replica, except for the order of float additions.
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
    """One replica, which does all the work. It is also the base class of several replicas.

    Args:
      count: R, the number of replicas.
      process: Index of this process.
      processes: Number of processes. Each process has its own share of the Python environments.
    """

    def __init__(self, count: int = 1, process: int = 0, processes: int = 1):
        self.count = count
        self.process = process
        self.processes = processes

    @property
    def is_chief(self) -> bool:
        """True in the chief, the process that writes the folder of the run."""
        return self.process == 0

    @property
    def description(self) -> str:
        """The end of a log line that says how the run is distributed. It is empty for one replica."""
        return ""

    def modes(self, mode: str) -> tuple[str, str]:
        """Returns the compilation modes of a program and of the part of it that each replica runs.

        XLA has no collective operations. With several replicas and "xla", only the parts of the replicas are compiled
        by XLA.

        Args:
          mode: "xla", "graph" or "eager".
        """
        if self.count == 1:
            return mode, "eager"  # the program already contains the part
        return ("graph", "xla") if mode == "xla" else (mode, "eager")

    def cut(self, nest: Structure, index: int, axis: int = 0) -> Structure:
        """Returns the share of one replica.

        Args:
          nest: A nest of tensors. Parts that are None stay None.
          index: Index of the replica.
          axis: The axis to divide.

        Returns:
          A nest of the same structure.
        """
        if self.count == 1:
            return nest

        def part(x: tf.Tensor) -> tf.Tensor:
            size = x.shape[axis] // self.count
            return x[(*[slice(None)] * axis, slice(index * size, (index + 1) * size))]

        return map_tensors(part, nest)

    def divide(self, total: int, name: str, pieces: int = 1) -> int:
        """Divides a total by the number of replicas and by `pieces`.

        Args:
          total: The number to divide.
          name: Name of the total in the error message.
          pieces: Number of pieces that each replica divides its share into.

        Returns:
          The quotient.

        Raises:
          UsageError: If there is a remainder.
        """
        suffix = f" x {pieces}" if pieces > 1 else ""
        return exact_div(total, self.count * pieces, name, f"the number of replicas{suffix}")

    def scope(self) -> contextlib.AbstractContextManager[None]:
        """Returns a context in which new variables get a copy on every replica."""
        return contextlib.nullcontext()

    def reduce(self, function: Callable[[int], tuple[Structure, Maxima]]) -> tuple[Structure, Maxima]:
        """Calls `function(index)` in every replica.

        Args:
          function: Takes the index of a replica and returns two nests. The second one holds scalars.

        Returns:
          The sums of the first nests and the maxima of the second nests, over all replicas.
        """
        return function(0)

    def gather(self, function: Callable[[int], Nests], axes: Sequence[int]) -> Nests:
        """Calls `function(index)` in every replica and concatenates the results.

        Args:
          function: Takes the index of a replica and returns a tuple of nests.
          axes: The axis of concatenation of each nest of the tuple.

        Returns:
          The tuple of concatenated nests.
        """
        del axes
        return function(0)

    def cut_processes(self, nest: Structure, axis: int = 0) -> Structure:
        """Returns the share of this process.

        Args:
          nest: A nest of tensors.
          axis: The axis to divide.
        """
        del axis
        return nest

    def gather_processes(self, nests: Nests, axes: Sequence[int]) -> Nests:
        """Concatenates the shares of all processes.

        Args:
          nests: A tuple of nests of tensors, the share of this process.
          axes: The axis of concatenation of each nest of the tuple.
        """
        del axes
        return nests

    def apply(
        self, optimizer: keras.optimizers.Optimizer, gradients: Sequence[tf.Tensor], variables: Sequence[Variable]
    ) -> None:
        """Takes an optimizer step with the gradients that are summed over all replicas."""
        optimizer.apply(gradients, variables)

    def any(self, flag: bool) -> bool:
        """Returns whether the flag is true in any process. All processes must call this method."""
        return flag

    def start(self, settings: str, state: Mapping[str, StatePart]) -> None:
        """Gives all processes the chief's values of the variables of the state.

        Args:
          settings: The settings of the run as text. They must be the same in all processes.
          state: The parts of the state by name.

        Raises:
          UsageError: If the processes have different settings.
        """

    def watched(self, command: str) -> contextlib.AbstractContextManager[None]:
        """Returns a context in which the loss of another process raises a UsageError of one line.

        Args:
          command: The command that resumes the run. The error names it.
        """
        del command
        return contextlib.nullcontext()


ALONE = Replicas()
