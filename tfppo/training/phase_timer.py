"""Measures the seconds that a run spends in each phase."""

import time


class PhaseTimer:
    """Measures the duration of importing, compiling, training and evaluating.

    Create it when the imports are done. The training phase begins then.

    Args:
      import_seconds: Seconds that the process has already spent on imports.
    """

    def __init__(self, import_seconds: float):
        self._import_seconds = import_seconds
        self._began = time.perf_counter() - import_seconds
        self._trained = self._began

    def end_training(self) -> None:
        """Ends the training phase and begins the evaluation phase."""
        self._trained = time.perf_counter()

    def phases(self, compile_seconds: float) -> dict[str, float]:
        """Returns the seconds of each phase up to now, for `evaluation.json`.

        Args:
          compile_seconds: Seconds of the training phase that went into compilation. They are reported separately.

        Returns:
          Seconds by phase: "import", "compile", "train", "evaluate" and "total".
        """
        now = time.perf_counter()
        phases = {
            "import": self._import_seconds,
            "compile": compile_seconds,
            "train": self._trained - self._began - self._import_seconds - compile_seconds,
            "evaluate": now - self._trained,
            "total": now - self._began,
        }
        return {name: round(seconds, 3) for name, seconds in phases.items()}
