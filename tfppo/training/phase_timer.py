"""The seconds of a run, by phase."""

import time


class PhaseTimer:
    """Measures how a run's time divides into phases, from when its process began.

    Args:
      import_seconds: that went by before.
    """

    def __init__(self, import_seconds: float):
        self._import_seconds = import_seconds
        self._began = time.perf_counter() - import_seconds
        self._trained = self._began

    def end_training(self) -> None:
        """Ends the phase of training; what follows is evaluation."""
        self._trained = time.perf_counter()

    def phases(self, compile_seconds: float) -> dict[str, float]:
        """The seconds of evaluation.json up to now, of which so many before the end of training went into compiling."""
        now = time.perf_counter()
        phases = {
            "import": self._import_seconds,
            "compile": compile_seconds,
            "train": self._trained - self._began - self._import_seconds - compile_seconds,
            "evaluate": now - self._trained,
            "total": now - self._began,
        }
        return {name: round(seconds, 3) for name, seconds in phases.items()}
