"""Environments in processes of their own, which fail in one line and always end."""

import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
from gymnasium import logger
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ClosedEnvironmentError
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from tfppo.control.envs.episode_replay import Replayable
from tfppo.errors import UsageError


class WorkerVectorEnv(AsyncVectorEnv):
    """gymnasium's AsyncVectorEnv of `num_envs` copies of `env`, each replayable.

    An exception in a process becomes a UsageError (gymnasium would log its trace), an interrupt at the keyboard is left
    to the parent, which finishes its iteration, and closing ends the processes whatever state they are in.
    """

    def __init__(self, env: str, num_envs: int, autoreset: AutoresetMode = AutoresetMode.NEXT_STEP):
        spec = gymnasium.registry.get(env, env)  # a process that is not forked has no registry of its own
        super().__init__([lambda: _make(spec)] * num_envs, autoreset_mode=autoreset)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        with _failing_in_one_line():
            return super().reset(seed=seed, options=options)

    def step_async(self, actions: Any) -> None:
        with _failing_in_one_line():
            super().step_async(actions)

    def step_wait(self, timeout: float | None = None) -> tuple[Any, ...]:
        with _failing_in_one_line():
            return super().step_wait(timeout)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        with _failing_in_one_line():
            return super().call(name, *args, **kwargs)

    def set_attr(self, name: str, values: Any) -> None:
        with _failing_in_one_line():
            super().set_attr(name, values)

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        try:
            with _failing_in_one_line():
                super().close_extras(timeout, terminate)
        except UsageError:  # of a step that nobody waits for
            for process in self.processes:
                process.terminate()
                process.join()


def _make(env: str | EnvSpec) -> gymnasium.Env:
    if multiprocessing.parent_process() is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return Replayable(gymnasium.make(env))


@contextmanager
def _failing_in_one_line() -> Iterator[None]:
    level = logger.min_level
    logger.min_level = logger.ERROR + 1
    try:
        yield
    except (ClosedEnvironmentError, UsageError):
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(":")
        raise UsageError(
            f"an environment failed in its process ({reason}): use --vectorization sync to see where"
        ) from None
    finally:
        logger.min_level = level
