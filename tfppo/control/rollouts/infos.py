"""Means of the numbers that environments report in their infos, such as `is_success`."""

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfppo.control.envs.checked import NUMBERS
from tfppo.control.rollouts.statistics import WINDOW

MAX_NUMBERS = 64  # names; an environment that makes new names without end must not fill the memory
NOT_MEASURED = ("action_mask", "env_id", "players")  # env_id and players: EnvPool's numbering of its copies


class InfoStatistics:
    """Keeps the numbers in the infos of the last steps of the latest finished episodes, by name."""

    def __init__(self) -> None:
        self._latest: dict[str, deque[float]] = {}

    def add(self, infos: Mapping[str, Any], done: np.ndarray) -> None:
        """Adds the infos of a step.

        Args:
          infos: Infos of a vector environment with B copies: arrays [B] by name, and under `_name` bool [B], True for
            the copies that have the number. Everything else is ignored.
          done: Bool [B], True where an episode has ended in this step.
        """
        for name, values in infos.items():
            if name.startswith("_") or name in NOT_MEASURED or np.shape(values) != done.shape:
                continue
            # Gymnasium puts numpy.bool into arrays of objects, as it does with what is no number.
            ended = [float(x) for x in values[done & infos.get(f"_{name}", True)] if isinstance(x, NUMBERS)]
            if ended and (name in self._latest or len(self._latest) < MAX_NUMBERS):
                self._latest.setdefault(name, deque(maxlen=WINDOW)).extend(ended)

    def metrics(self) -> dict[str, float]:
        """Returns the mean of each number over the latest episodes that have it, as `info/<name>`."""
        return {f"info/{name}": float(np.mean(values)) for name, values in self._latest.items()}

    @property
    def state(self) -> dict[str, list[float]]:
        """The latest numbers by name, oldest first."""
        return {name: list(values) for name, values in self._latest.items()}

    @state.setter
    def state(self, saved: Mapping[str, list[float]]) -> None:
        self._latest = {name: deque(map(float, values), maxlen=WINDOW) for name, values in saved.items()}
