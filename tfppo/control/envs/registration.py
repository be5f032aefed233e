"""The IDs of environments: those of Gymnasium and tfppo, and those of functions that make an environment."""

import inspect
import re
import weakref
from collections.abc import Callable
from typing import Any, TypeAlias

import gymnasium

from tfppo.control.envs.environment import IN_GRAPH_ENVIRONMENTS
from tfppo.errors import UsageError, one_line, shown
from tfppo.training.user_modules import import_named, name_of, same_name

MakeEnvironment: TypeAlias = Callable[..., gymnasium.Env]
"""A function, or a class, that returns a new environment in each call. It may take arguments, which `env_kwargs` gives,
and `render_mode`."""

ATARI = "ALE/"  # beginning of the IDs of ale-py, which registers them when it is imported
_IDS: dict[str, str] = {}  # ID in Gymnasium's registry by the name of the function


class EnvironmentFunction:
    """A user's function as Gymnasium's registry calls it.

    Args:
      make: The function.
      name: Its name, for error messages.
    """

    def __init__(self, make: MakeEnvironment, name: str):
        self.make = make
        self._name = name
        self._latest: Callable[[], object] = lambda: None
        if hasattr(make, "metadata"):  # a class
            self.metadata = make.metadata

    def __reduce__(self) -> tuple[object, ...]:
        return EnvironmentFunction, (self.make, self._name)  # a weak reference cannot go to another process

    def __call__(self, **options: Any) -> gymnasium.Env:
        """Makes an environment.

        Raises:
          UsageError: If the function returns something else, or an environment that it has returned before.
        """
        if not _takes(self.make, "render_mode"):
            options.pop("render_mode", None)
        env = self.make(**options)
        if not isinstance(env, gymnasium.Env):
            raise UsageError(
                f"env {self._name} returned {shown(env)}; it must return a gymnasium.Env: return a single environment, "
                "of which tfppo makes as many copies as it needs"
            )
        if env.unwrapped is self._latest():
            raise UsageError(
                f"env {self._name} returned the same environment twice; each copy must be an environment of its own: "
                "make the environment inside of the function"
            )
        self._latest = weakref.ref(env.unwrapped)
        return env


def register_function(make: MakeEnvironment) -> str:
    """Registers a function that makes an environment, so that the setting `env` can name it.

    Args:
      make: The function.

    Returns:
      Its name, "module:function", or "module:<environment>" for a function that no other process can import.

    Raises:
      UsageError: If it cannot be called.
    """
    if not callable(make):
        raise UsageError(
            f"env is {shown(make)}; it must be the ID of an environment, or a function that makes one: give the "
            "function itself, for example env=make_maze, or env=lambda: Maze(size=5)"
        )
    name = name_of(make, "environment")
    _register(name, make)
    return name


def check_same_function(make: MakeEnvironment, env: str) -> None:
    """Registers the function of an existing run under the run's own name for it.

    Args:
      make: The function that the user gave.
      env: The setting `env` of the run.

    Raises:
      UsageError: If the run was made with another environment.
    """
    name = register_function(make)
    if not same_name(name, env):
        raise UsageError(f"env is {name}, but the run was made with {env}: give the environment of the run")
    _register(env, make)


def registered_id(env: str) -> str:
    """Returns the ID under which an environment is registered.

    For `module:ID` it imports the module, as Gymnasium does, and returns the ID. The module can register the
    environment with Gymnasium or with `register_environment`, or define a function of this name that makes one.

    Raises:
      UsageError: If the module cannot be imported, or an environment of Atari is named and ale-py is not installed.
    """
    if env in _IDS:
        return _IDS[env]
    module, _, name = env.rpartition(":")
    if not module:
        if name.startswith(ATARI) and name not in gymnasium.registry:
            _register_atari(name)
        return name
    found = import_named(module, f"env {env!r}")
    if name not in gymnasium.registry and name not in IN_GRAPH_ENVIRONMENTS:
        make: object = found
        for part in name.split("."):
            make = getattr(make, part, None)
        if callable(make):
            return _register(env, make)
    return name


def _register(name: str, make: MakeEnvironment) -> str:
    """Registers a function with Gymnasium, in the place of an older one of this name, and returns the ID."""
    identity = _IDS[name] = re.sub(r"[^\w.-]", "-", name)
    gymnasium.registry.pop(identity, None)  # Gymnasium would warn
    gymnasium.register(identity, EnvironmentFunction(make, name))
    return identity


def _register_atari(env: str) -> None:
    try:
        import ale_py  # noqa: F401 (registers its environments)
    except ImportError as error:
        raise UsageError(
            f"env is {env!r}, and ale-py cannot be imported ({one_line(error)}): run make setup EXTRAS=atari, or pip "
            "install ale-py"
        ) from None


def _takes(make: MakeEnvironment, argument: str) -> bool:
    try:
        parameters = inspect.signature(make).parameters
    except (TypeError, ValueError):  # not a Python function
        return True
    return argument in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
