"""How long the phases of a control run take in each mode of compilation.

The rule of execution/compilation.py decides how a run is compiled; these measurements inform, and change nothing.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import tensorflow as tf

from tfppo.control.assembly import make_collector
from tfppo.control.config import ControlRunConfig
from tfppo.control.rollouts.fused import fuse
from tfppo.control.trainer import ControlTrainer
from tfppo.execution.compilation import compiled
from tfppo.execution.variables import named_variables
from tfppo.ppo.types import Rollout
from tfppo.training.pipeline import rollout_dataset


class Measurement(NamedTuple):
    """A phase in a mode."""

    phase: str  # "rollout", "update", or "fused": both in one program
    mode: str  # "xla", "graph" or "eager"
    first_seconds: float  # of the first call, an iteration that is traced and compiled before
    seconds: tuple[float, ...]  # of an iteration in each call after it

    @property
    def spread(self) -> tuple[float, float, float]:
        """Least, median and most seconds of an iteration."""
        return min(self.seconds), statistics.median(self.seconds), max(self.seconds)

    @property
    def compile_seconds(self) -> float:
        """What the first call took longer than the median of the others."""
        return max(0.0, self.first_seconds - self.spread[1])

    def run_seconds(self, iterations: int) -> float:
        """Seconds that the phase would take in a run of so many iterations."""
        return self.compile_seconds + iterations * self.spread[1]


class Comparison(NamedTuple):
    """All phases in all modes. A choice is a mode for "rollout" and one for "update", or one for "fused"."""

    measurements: tuple[Measurement, ...]
    iterations: int  # of the run
    device: str  # where the rule has it run
    auto: dict[str, str]  # the choice that the rule makes, with `fused` as it is set

    def run_seconds(self, choice: dict[str, str]) -> float:
        """Seconds of compiling, rollouts and updates that the run would take."""
        wanted = (m for m in self.measurements if choice.get(m.phase) == m.mode)
        return sum(m.run_seconds(self.iterations) for m in wanted)

    @property
    def fastest(self) -> dict[str, str]:
        """The choice under which the run would have taken the fewest seconds."""
        best: dict[str, str] = {}
        for m in sorted(self.measurements, key=lambda m: m.run_seconds(self.iterations)):
            best.setdefault(m.phase, m.mode)
        fused = {"fused": best.pop("fused")} if "fused" in best else best
        return min(best, fused, key=self.run_seconds)


def compare_modes(
    config: ControlRunConfig,
    modes: tuple[str, ...] = ("xla", "graph"),
    repetitions: int = 10,
    progress: Callable[[float], None] = lambda share: None,
) -> Comparison:
    """Measures the phases of a run, each compiled anew in each mode, and leaves nothing on the disk.

    All modes do the same work: rollouts, as tf.data yields them, are those of the iterations from 0 on, after a reset;
    updates are all of the same rollout; and before every call the weights and all other state are what they were.

    Args:
      config: the settings of the run; its `compile_rollout` and `compile_update` do not matter.
      modes: those that are measured; the rule of "auto" chooses among "xla" and "graph".
      repetitions: calls behind the first one, at least 1.
      progress: is told the share that is done, up to 1.

    Raises:
      UsageError: as `ControlTrainer` does.
    """
    run = dataclasses.replace(config.run, compile_rollout="auto", compile_update="auto", distribute="none")
    trainer = ControlTrainer(dataclasses.replace(config, run=run))
    phases = {"rollout": _rollouts, "update": _updates} | ({"fused": _fused_iterations} if trainer.in_graph else {})
    calls = len(phases) * len(modes) * (1 + repetitions)
    measurements: list[Measurement] = []
    rollout = None
    try:
        restore = _remember(trainer)
        for phase, start in phases.items():
            for mode in modes:
                seconds: list[float] = []
                iterations = start(trainer, mode, rollout)
                while len(seconds) < 1 + repetitions:
                    restore()
                    began = time.perf_counter()
                    result, count = next(iterations)
                    tf.test.experimental.sync_devices()
                    seconds.append((time.perf_counter() - began) / count)
                    rollout = result if rollout is None else rollout  # the first one, for all updates
                    progress((len(measurements) * (1 + repetitions) + len(seconds)) / calls)
                measurements.append(Measurement(phase, mode, seconds[0], tuple(seconds[1:])))
    finally:
        trainer.close()
    return Comparison(tuple(measurements), config.control.num_iterations, trainer.device, dict(trainer.modes))


def describe(comparison: Comparison) -> str:
    """What the rule chooses, and what would have been fastest, in a sentence."""
    auto, fastest = comparison.auto, comparison.fastest
    chosen = f"auto chooses {_named(auto)}, {comparison.run_seconds(auto):.1f} s for the run's iterations"
    if fastest == auto:
        return f"{chosen}: nothing that was measured is faster"
    fused = [f"--fused {'fused' in fastest}"] if ("fused" in fastest) != ("fused" in auto) else []
    phases = [f"--compile-{'update' if phase == 'fused' else phase} {mode}" for phase, mode in fastest.items()]
    return f"{chosen}; fastest would have been {_named(fastest)}, {comparison.run_seconds(fastest):.1f} s: " + " ".join(
        fused + phases
    )


def _named(choice: dict[str, str]) -> str:
    return " and ".join(f"{mode} ({phase})" for phase, mode in choice.items())


def _remember(trainer: ControlTrainer) -> Callable[[], None]:
    """Returns a function that gives all variables that training changes the values that they have now."""
    variables = list(named_variables(trainer.state).values())
    values = [tf.identity(variable) for variable in variables]

    def restore() -> None:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    return restore


# Each of these yields results of calls, and how many iterations each did; its first call compiles.


def _rollouts(trainer: ControlTrainer, mode: str, _: Any) -> Iterator[tuple[Rollout, int]]:
    config = trainer.config
    with tf.device(trainer.device):  # a gymnasium collector compiles when it is made
        collector = make_collector(
            trainer.policy, trainer.environment, trainer.normalization, config.control, config.run.seed, mode
        )
    with collector.raising_own_errors():
        for rollout in rollout_dataset(collector.collect, 0, trainer.device):
            yield rollout, 1


def _updates(trainer: ControlTrainer, mode: str, rollout: Rollout) -> Iterator[tuple[dict[str, float], int]]:
    update = compiled(trainer.learner.update_function, mode)
    while True:
        with tf.device(trainer.device):
            metrics = update(rollout)
        yield {name: float(value) for name, value in metrics.items()}, 1


def _fused_iterations(trainer: ControlTrainer, mode: str, _: Any) -> Iterator[tuple[dict[str, float], int]]:
    """As many iterations a call as in a run, but one in the first call."""
    run, program = trainer.config.run, fuse(trainer.collector, trainer.learner, mode)
    count = 1
    while True:
        with tf.device(trainer.device):
            metrics = program(tf.constant(0, tf.int64), tf.constant(count, tf.int64))
        yield {name: float(value) for name, value in metrics.items()}, count
        count = min(run.log_interval, run.checkpoint_interval, trainer.config.control.num_iterations)
