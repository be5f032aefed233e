"""Measures how long the phases of a control run take in each compilation mode.

The rule in execution/compilation.py decides how a run is compiled. These measurements inform the user; they do not
change the rule.
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
from tfppo.errors import refusing_exits
from tfppo.execution.compilation import compiled
from tfppo.execution.variables import named_variables
from tfppo.ppo.types import Rollout
from tfppo.training.pipeline import rollout_dataset


class Measurement(NamedTuple):
    """The times of one phase in one compilation mode."""

    phase: str  # "rollout", "update", or "fused" (both in one program)
    mode: str  # "xla", "graph" or "eager"
    first_seconds: float  # seconds of the first call, with tracing and compilation
    seconds: tuple[float, ...]  # seconds of an iteration in each later call

    @property
    def spread(self) -> tuple[float, float, float]:
        """Minimum, median and maximum of the seconds of an iteration, without the first call."""
        return min(self.seconds), statistics.median(self.seconds), max(self.seconds)

    @property
    def compile_seconds(self) -> float:
        """Seconds by which the first call exceeds the median of the others."""
        return max(0.0, self.first_seconds - self.spread[1])

    def run_seconds(self, iterations: int) -> float:
        """Returns the seconds that the phase would take in a run of this many iterations."""
        return self.compile_seconds + iterations * self.spread[1]


class Comparison(NamedTuple):
    """The measurements of all phases in all compilation modes.

    A choice is a dictionary: a mode for "rollout" and a mode for "update", or a mode for "fused".
    """

    measurements: tuple[Measurement, ...]
    iterations: int  # iterations of the run
    device: str  # the device of the run
    auto: dict[str, str]  # the choice of the rule, for the run's setting of `fused`

    def run_seconds(self, choice: dict[str, str]) -> float:
        """Returns the seconds that compilation, rollouts and updates of the run would take with this choice."""
        wanted = (m for m in self.measurements if choice.get(m.phase) == m.mode)
        return sum(m.run_seconds(self.iterations) for m in wanted)

    @property
    def fastest(self) -> dict[str, str]:
        """The choice with the shortest run."""
        best: dict[str, str] = {}
        for m in sorted(self.measurements, key=lambda m: m.run_seconds(self.iterations)):
            best.setdefault(m.phase, m.mode)
        fused = {"fused": best.pop("fused")} if "fused" in best else best
        return min(best, fused, key=self.run_seconds)


@refusing_exits()
def compare_modes(
    config: ControlRunConfig,
    modes: tuple[str, ...] = ("xla", "graph"),
    repetitions: int = 10,
    progress: Callable[[float], None] = lambda share: None,
) -> Comparison:
    """Measures the phases of a run, compiled again in each mode; it writes no files.

    All modes do the same work. Rollouts come from tf.data, from iteration 0 after a reset. All updates use the same
    rollout. Before every call, the weights and all other state are set to their initial values.

    Args:
      config: The settings of the run; `compile_rollout` and `compile_update` have no effect.
      modes: The modes to measure; the rule of "auto" chooses between "xla" and "graph".
      repetitions: Number of calls after the first one, at least 1.
      progress: Function that gets the finished share of the work, up to 1.

    Returns:
      The comparison.

    Raises:
      UsageError: As `ControlTrainer` does.
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
                    rollout = result if rollout is None else rollout  # all updates use the first rollout
                    progress((len(measurements) * (1 + repetitions) + len(seconds)) / calls)
                measurements.append(Measurement(phase, mode, seconds[0], tuple(seconds[1:])))
    finally:
        trainer.close()
    return Comparison(tuple(measurements), config.control.num_iterations, trainer.device, dict(trainer.modes))


def describe(comparison: Comparison) -> str:
    """Returns a sentence with the choice of the rule and the fastest choice."""
    auto, fastest = comparison.auto, comparison.fastest
    chosen = f"auto chooses {_named(auto)}: {comparison.run_seconds(auto):.1f} s for the iterations of the run"
    if fastest == auto:
        return f"{chosen}; it is the fastest choice measured"
    fused = [f"--fused {'fused' in fastest}"] if ("fused" in fastest) != ("fused" in auto) else []
    phases = [f"--compile-{'update' if phase == 'fused' else phase} {mode}" for phase, mode in fastest.items()]
    return f"{chosen}; the fastest is {_named(fastest)}: {comparison.run_seconds(fastest):.1f} s, with " + " ".join(
        fused + phases
    )


def _named(choice: dict[str, str]) -> str:
    return " and ".join(f"{mode} ({phase})" for phase, mode in choice.items())


def _remember(trainer: ControlTrainer) -> Callable[[], None]:
    """Returns a function that sets all variables of the training to their current values."""
    variables = list(named_variables(trainer.state).values())
    values = [tf.identity(variable) for variable in variables]

    def restore() -> None:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    return restore


# Each of these functions yields the result of a call and its number of iterations; the first call compiles.


def _rollouts(trainer: ControlTrainer, mode: str, _: Any) -> Iterator[tuple[Rollout, int]]:
    config = trainer.config
    with tf.device(trainer.device):  # the constructor of a Gymnasium collector compiles
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
    """Yields as many iterations per call as a run does, except one in the first call."""
    run, program = trainer.config.run, fuse(trainer.collector, trainer.learner, mode)
    count = 1
    while True:
        with tf.device(trainer.device):
            metrics = program(tf.constant(0, tf.int64), tf.constant(count, tf.int64))
        yield {name: float(value) for name, value in metrics.items()}, count
        count = min(run.log_interval, run.checkpoint_interval, trainer.config.control.num_iterations)
