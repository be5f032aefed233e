"""EnvPool's environments (Weng et al. 2022), which C++ threads step without Python."""

import importlib
import warnings
from types import ModuleType
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from tfppo.control.envs.checked import explaining_constructor
from tfppo.errors import UsageError, kind_and_text


class EnvPoolVectorEnv(VectorEnv):
    """A Gymnasium vector environment of EnvPool's environment `env`.

    EnvPool seeds a pool only when it makes the pool, and ignores the seed of a reset. Here, a reset with a seed makes a
    new pool, so that seeding works as in Gymnasium.

    Args:
      env: EnvPool's ID of the environment.
      num_envs: Number of copies.
      **options: EnvPool's own options of the environment, such as max_episode_steps.

    Raises:
      UsageError: If EnvPool is not installed, does not have the environment, or does not take an option.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(self, env: str, num_envs: int, **options: Any):
        self._envpool = _import_envpool()
        if env not in self._envpool.list_all_envs():
            raise UsageError(
                f"env is {env!r} and vectorization is envpool; EnvPool does not have this environment: choose one of "
                "envpool.list_all_envs(), or use --vectorization sync"
            )
        self.env = env
        self._options = options
        self.num_envs = num_envs
        with _without_warnings_of_precision(), explaining_constructor(env, options):
            spec = self._envpool.make_spec(env, **options)
            self.single_observation_space = spec.gymnasium_observation_space
            self.single_action_space = spec.gymnasium_action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._pool: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts new episodes; a new pool is made for the first reset and for every reset with a seed."""
        super().reset(seed=seed)
        with _without_warnings_of_precision():
            if self._pool is None or seed is not None:
                self.close_extras()
                seed = int(self.np_random.integers(2**31)) if seed is None else seed
                self._pool = self._envpool.make_gymnasium(self.env, num_envs=self.num_envs, seed=seed, **self._options)
            return self._pool.reset()[0], {}

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps all copies; EnvPool's infos are dropped."""
        *result, _ = self._pool.step(actions)
        return *result, {}

    def close_extras(self, **kwargs: Any) -> None:
        """Closes the pool."""
        if self._pool is not None:
            self._pool.close()


def _import_envpool() -> ModuleType:
    try:
        return importlib.import_module("envpool")
    except Exception as error:  # a wheel without its files raises a FileNotFoundError
        raise UsageError(
            f"vectorization is envpool and EnvPool cannot be imported ({kind_and_text(error)}): install the "
            "envpool extra, or use --vectorization sync"
        ) from None


def _without_warnings_of_precision() -> warnings.catch_warnings:
    """Ignores Gymnasium's warning that EnvPool gives the bounds of float32 spaces as float64."""
    return warnings.catch_warnings(action="ignore", category=UserWarning)
