"""Defines the command `tfppo bench`, which measures the compilation modes on this machine."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tyro.conf import UseCounterAction

from tfppo.cli.startup import import_tensorflow
from tfppo.cli.train import ControlSettings
from tfppo.control.config import ControlRunConfig
from tfppo.errors import UsageError

if TYPE_CHECKING:
    from tfppo.control.bench import Comparison


@dataclass(frozen=True)
class Bench(ControlSettings):
    """Measure the duration of each phase of a control run in each compilation mode. No files are written."""

    compile: UseCounterAction[int] = 0
    """Compares the compilation modes. This is the only measurement, so the option can be left out."""
    eager: bool = False
    """Also measures eager execution, which is slow."""
    repetitions: int = 10
    """Number of timed calls, after a first call that compiles. At least 1."""

    def __call__(self) -> None:
        """Measures the modes and prints a table and a summary.

        Raises:
          UsageError: If a setting is invalid.
        """
        if self.repetitions < 1:
            raise UsageError(f"repetitions is {self.repetitions}; it must be at least 1")
        config = ControlRunConfig(self.run, self.control, self.ppo)
        import_tensorflow(self.run.onednn, keep_programs=False)  # cached programs would hide the time of compilation
        from tfppo.control.bench import compare_modes, describe
        from tfppo.reporting.console import progress_bar

        modes = ("xla", "graph", "eager") if self.eager else ("xla", "graph")
        with progress_bar(f"measuring {self.control.env}", 1) as advance:
            comparison = compare_modes(config, modes, self.repetitions, advance)
        _print_table(comparison)
        print(describe(comparison))


def _print_table(comparison: "Comparison") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("phase", "mode", title=f"{comparison.iterations:,} iterations on {comparison.device[1:4]}")
    for heading in ("compile s", "iteration ms", "min - max", "run s"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("auto")
    for m in comparison.measurements:
        low, middle, high = (_milliseconds(seconds) for seconds in m.spread)
        run = f"{m.run_seconds(comparison.iterations):.1f}"
        chosen = "chosen" if comparison.auto.get(m.phase) == m.mode else ""
        table.add_row(m.phase, m.mode, f"{m.compile_seconds:.2f}", middle, f"{low} - {high}", run, chosen)
    Console(highlight=False).print(table)


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}" if seconds < 0.1 else f"{1e3 * seconds:,.0f}"
