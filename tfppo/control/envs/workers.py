"""Vector environments whose copies run in their own processes."""

import functools
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gymnasium
from gymnasium import logger
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ClosedEnvironmentError
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from tfppo.control.envs.checked import explaining_constructor, prepared
from tfppo.control.envs.options import Wrapper
from tfppo.control.envs.registration import registered_id
from tfppo.errors import UsageError


class WorkerVectorEnv(AsyncVectorEnv):
    """Gymnasium's AsyncVectorEnv, with copies whose state can be restored.

    It differs from AsyncVectorEnv in three points. An exception in a process becomes a UsageError of one line
    (Gymnasium logs a traceback). Ctrl-C does not interrupt the processes, so that the parent can finish its iteration.
    Closing always ends the processes.

    Args:
      env: The environment ID.
      num_envs: Number of copies, each in its own process.
      autoreset: How new episodes start.
      first_copy: Number of the first copy, for error messages.
      wrappers: Functions that wrap each copy, the innermost first.
      **options: Options of each copy, such as max_episode_steps.
    """

    def __init__(
        self,
        env: str,
        num_envs: int,
        autoreset: AutoresetMode = AutoresetMode.NEXT_STEP,
        first_copy: int = 0,
        wrappers: Sequence[Wrapper] = (),
        **options: Any,
    ):
        name = registered_id(env)
        spec = gymnasium.registry.get(name, name)  # a spawned process has not registered the environment
        makers = [
            functools.partial(_make, spec, options, wrappers, env, copy)
            for copy in range(first_copy, first_copy + num_envs)
        ]
        with _failing_in_one_line():
            super().__init__(makers, autoreset_mode=autoreset)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Resets all copies.

        Raises:
          UsageError: If a copy raised an exception.
        """
        with _failing_in_one_line():
            return super().reset(seed=seed, options=options)

    def step_async(self, actions: Any) -> None:
        """Sends the actions of a step to all copies.

        Raises:
          UsageError: If a copy raised an exception.
        """
        with _failing_in_one_line():
            super().step_async(actions)

    def step_wait(self, timeout: float | None = None) -> tuple[Any, ...]:
        """Waits for the results of a step.

        Raises:
          UsageError: If a copy raised an exception.
        """
        with _failing_in_one_line():
            return super().step_wait(timeout)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Calls a method of all copies.

        Raises:
          UsageError: If a copy raised an exception.
        """
        with _failing_in_one_line():
            return super().call(name, *args, **kwargs)

    def set_attr(self, name: str, values: Any) -> None:
        """Sets an attribute of all copies.

        Raises:
          UsageError: If a copy raised an exception.
        """
        with _failing_in_one_line():
            super().set_attr(name, values)

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Ends the processes."""
        try:
            with _failing_in_one_line():
                super().close_extras(timeout, terminate)
        except UsageError:  # a step that was not waited for has failed
            for process in self.processes:
                process.terminate()
                process.join()


def _make(
    spec: str | EnvSpec, options: dict[str, Any], wrappers: Sequence[Wrapper], env: str, copy: int
) -> gymnasium.Env:
    if multiprocessing.parent_process() is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    with explaining_constructor(env, options):
        made = gymnasium.make(spec, **options)
    for wrap in wrappers:
        made = wrap(made)
    return prepared(made, env, copy)


@contextmanager
def _failing_in_one_line() -> Iterator[None]:
    level = logger.min_level
    logger.min_level = logger.ERROR + 1
    try:
        yield
    except (ClosedEnvironmentError, UsageError, gymnasium.error.UnregisteredEnv, ImportError):
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(":")
        raise UsageError(
            f"an environment failed in its process ({reason}): use --vectorization sync to see the traceback"
        ) from None
    finally:
        logger.min_level = level
