"""EnvPool's environments (Weng et al. 2022): stepped by threads in C++, without Python."""

import importlib
import warnings
from types import ModuleType
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from tfppo.errors import UsageError


class EnvPoolVectorEnv(VectorEnv):
    """`num_envs` copies of EnvPool's environment `env`, seeded as gymnasium's are.

    EnvPool seeds a pool once, when it is made, and ignores the seed of a reset: here such a reset makes another pool.

    Raises:
      UsageError: if EnvPool is not installed, or has no such environment.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(self, env: str, num_envs: int):
        self._envpool = _import_envpool()
        if env not in self._envpool.list_all_envs():
            raise UsageError(
                f"EnvPool has no environment {env!r}: use one that envpool.list_all_envs() names, "
                "or --vectorization sync"
            )
        self.env = env
        self.num_envs = num_envs
        with _without_warnings_of_precision():
            spec = self._envpool.make_spec(env)
            self.single_observation_space = spec.gymnasium_observation_space
            self.single_action_space = spec.gymnasium_action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._pool: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        with _without_warnings_of_precision():
            if self._pool is None or seed is not None:
                self.close_extras()
                seed = int(self.np_random.integers(2**31)) if seed is None else seed
                self._pool = self._envpool.make_gymnasium(self.env, num_envs=self.num_envs, seed=seed)
            return self._pool.reset()[0], {}

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        *result, _ = self._pool.step(actions)
        return *result, {}

    def close_extras(self, **kwargs: Any) -> None:
        if self._pool is not None:
            self._pool.close()


def _import_envpool() -> ModuleType:
    try:
        return importlib.import_module("envpool")
    except ImportError as error:
        raise UsageError(
            f"vectorization is envpool, which cannot be imported ({error}): "
            "install the envpool extra, or use --vectorization sync"
        ) from None


def _without_warnings_of_precision() -> warnings.catch_warnings:
    """EnvPool writes bounds of float32 spaces as float64, which gymnasium remarks upon for each."""
    return warnings.catch_warnings(action="ignore", category=UserWarning)
