"""Errors in environments of the user: one message that names the call, the environment, the copy and the step."""

import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces, wrappers

from tfppo.control.envs.episode_replay import Replayable
from tfppo.control.envs.wrappers import FlattenNested, flatten_nested
from tfppo.errors import UsageError, kind_and_text, one_line, shown

GIVEN = (wrappers.PassiveEnvChecker, wrappers.OrderEnforcing, wrappers.TimeLimit, FlattenNested)  # not the user's
CORRECT = "correct the environment"
NUMBERS = (int, float, np.number, np.bool_)
LIBRARIES = ("site-packages", "dist-packages", sysconfig.get_paths()["stdlib"], str(Path(__file__).parents[2]))


class EnvironmentFailure(UsageError):
    """An environment raised an exception, or returned something else than it must.

    Its notes are the lines of the user's own code that the exception passed through.

    Args:
      text: The message, or an error of this type, whose message and notes are copied.
    """

    def __init__(self, text: object) -> None:
        super().__init__(str(text))
        for note in getattr(text, "__notes__", ()):  # gymnasium makes a new exception from that of a process
            self.add_note(note)


@contextmanager
def explained(call: str, env: str, where: str = "") -> Iterator[None]:
    """Turns every exception of the user's environment into an `EnvironmentFailure` during the `with` block.

    Args:
      call: What is called, for example "step".
      env: The environment ID.
      where: The copy and the step in brackets, with a space in front.
    """
    try:
        yield
    except EnvironmentFailure:
        raise
    except (Exception, SystemExit) as error:
        raise failure(call, env, where, error) from error


def failure(call: str, env: str, where: str, error: BaseException, advice: str = CORRECT) -> EnvironmentFailure:
    """Returns the error for an exception of the user's environment, see `explained`."""
    made = EnvironmentFailure(f"{call} of {env} raised {kind_and_text(error)}{where}: {advice}")
    frames = own_frames(error)
    if frames:
        made.add_note(frames)
    return made


@contextmanager
def explaining_constructor(env: str, arguments: Iterable[str] = ()) -> Iterator[None]:
    """Explains the exceptions of a constructor, except those of Gymnasium, of imports and of wrappers.

    Args:
      env: The environment ID.
      arguments: Names of the arguments that the constructor gets.
    """
    try:
        yield
    except (gymnasium.error.Error, ImportError, UsageError):
        raise
    except Exception as error:
        given = ", ".join(arguments)
        advice = f"correct its arguments ({given}; see --env-kwargs), or the environment" if given else CORRECT
        raise failure("the constructor", env, "", error, advice) from error


def own_frames(error: BaseException) -> str:
    """Returns the part of an exception's traceback that is in no library; if there is none, its last entry."""
    entries = traceback.extract_tb(error.__traceback__)
    own = [entry for entry in entries if not any(library in entry.filename for library in LIBRARIES)]
    return "".join(traceback.format_list(own or entries[-1:])).rstrip()


def prepared(env: gymnasium.Env, name: str, copy: int) -> Replayable:
    """Returns a copy of an environment as vector environments step it: flat, checked, and with a record of its episode.

    Args:
      env: One copy of the environment.
      name: Its ID.
      copy: Number of the copy.
    """
    return Replayable(check_environment(flatten_nested(env), name, copy))


def check_environment(env: gymnasium.Env, name: str, copy: int) -> gymnasium.Env:
    """Wraps an environment so that its errors name the call, the environment, the copy and the step.

    The environment inside Gymnasium's own wrappers is wrapped too: they would report a wrong result in other words. It
    is not if the user has added a wrapper, which may repair what the environment returns.

    Args:
      env: One copy of the environment.
      name: Its ID.
      copy: Number of the copy.

    Returns:
      The wrapped environment.
    """
    layers = [env]
    while isinstance(layers[-1], gymnasium.Wrapper):
        layers.append(layers[-1].env)
    if len(layers) > 1 and all(type(layer) in GIVEN for layer in layers[:-1]):
        layers[-2].env = Checked(layers[-1], name, copy)  # type: ignore[attr-defined]
    return Checked(env, name, copy)


class Checked(gymnasium.Wrapper):
    """Checks what an environment returns, and explains its exceptions.

    Args:
      env: One copy of the environment.
      name: Its ID.
      copy: Number of the copy.
    """

    def __init__(self, env: gymnasium.Env, name: str, copy: int):
        super().__init__(env)
        self._name = name
        self._copy = copy
        self._steps = 0
        self._unlike = _difference(env.observation_space)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets the environment.

        Raises:
          EnvironmentFailure: If it raises an exception, or returns something else than an observation and infos.
        """
        with explained("reset", self._name, self._where):
            result = self.env.reset(seed=seed, options=options)
        if type(result) is not tuple or len(result) != 2 or not isinstance(result[1], dict):
            self._refuse("reset", f"returned {_kind(result)}", "an observation and a dictionary of infos")
        self._check_observation("reset", result[0])
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps the environment.

        Raises:
          EnvironmentFailure: If it raises an exception, or returns something else than it must.
        """
        self._steps += 1
        try:  # a `with` block would cost a microsecond in every step
            result = self.env.step(action)
        except EnvironmentFailure:
            raise
        except (Exception, SystemExit) as error:
            raise failure("step", self._name, self._where, error) from error
        if type(result) is not tuple or len(result) != 5:
            self._refuse("step", f"returned {_kind(result)}", "observation, reward, terminated, truncated and infos")
        observation: Any
        reward: Any
        observation, reward, terminated, truncated, infos = result
        if type(reward) is not float and not isinstance(reward, NUMBERS) and not _is_number(reward):
            self._refuse("step", f"returned the reward {_kind(reward)}", "one number")
        if type(terminated) is not bool or type(truncated) is not bool:
            for end, name in ((terminated, "terminated"), (truncated, "truncated")):
                if not isinstance(end, NUMBERS) and not _is_number(end):
                    self._refuse("step", f"returned for {name} {_kind(end)}", "True or False")
        if not isinstance(infos, dict):
            self._refuse("step", f"returned infos of type {type(infos).__name__}", "a dictionary")
        self._check_observation("step", observation)
        return result

    def close(self) -> None:
        """Closes the environment. An exception becomes a warning, because everything that the run needs is there."""
        try:
            self.env.close()
        except Exception as error:
            warnings.warn(f"close of {self._name} raised {kind_and_text(error)}; the run goes on", stacklevel=2)

    @property
    def _where(self) -> str:
        return f" (copy {self._copy}, step {self._steps})"

    def _check_observation(self, call: str, observation: Any) -> None:
        difference = self._unlike(observation)
        if difference is not None:
            self._refuse(call, f"returned an observation {difference[0]}", difference[1])

    def _refuse(self, call: str, given: str, wanted: str) -> None:
        raise EnvironmentFailure(f"{call} of {self._name} {given}{self._where}; it must be {wanted}: {CORRECT}")


def _is_number(value: Any) -> bool:
    """Returns True for one number in an array or a tensor without axes."""
    return np.ndim(value) == 0 and np.asarray(value).dtype.kind in "biuf"


def _kind(value: Any) -> str:
    """Describes a value: the number of values of a tuple, or the value, with its shape if it has one."""
    if isinstance(value, tuple):
        return f"{len(value)} values"
    shape = np.shape(value) if isinstance(value, np.ndarray | list) else ()
    return f"{shown(value)} of shape {shape}" if shape else shown(value)


def _difference(space: gymnasium.Space) -> Callable[[Any], tuple[str, str] | None]:
    """Returns a function that says how an observation differs from a space: what it is, and what it must be."""
    if isinstance(space, spaces.Dict):
        parts = {key: _difference(part) for key, part in space.items()}

        def of_dict(observation: Any) -> tuple[str, str] | None:
            if not isinstance(observation, dict) or not parts.keys() <= observation.keys():
                given = f"with the keys {sorted(observation)}" if isinstance(observation, dict) else _kind(observation)
                return given, f"a dictionary with the keys {sorted(parts)}"
            found = ((key, part(observation[key])) for key, part in parts.items())
            return next(((f"whose part {key} is {is_[0]}", is_[1]) for key, is_ in found if is_ is not None), None)

        return of_dict
    if not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return lambda observation: None
    shape, bounds = tuple(space.shape or ()), bounds_of(space)

    def of_array(observation: Any) -> tuple[str, str] | None:
        if getattr(observation, "shape", None) != shape:
            if observation is None:
                return "None", f"of shape {shape}"
            try:
                given = np.shape(observation)
            except ValueError:  # lists of different lengths
                return "of lists of different lengths", f"of shape {shape}"
            if given != shape:
                return f"of shape {given}", f"of shape {shape}"
        if bounds is None or not is_outside(observation, bounds):
            return None
        return shown(observation), f"in {one_line(space)[:100]}"

    return of_array


def bounds_of(space: gymnasium.Space) -> tuple[Any, Any] | None:
    """Returns the smallest and the largest values of a space of integers that become one-hot vectors, else None."""
    if isinstance(space, spaces.Discrete):
        return int(space.start), int(space.start + space.n - 1)
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + space.nvec - 1
    return (0, 1) if isinstance(space, spaces.MultiBinary) else None


def is_outside(observation: Any, bounds: tuple[Any, Any]) -> bool:
    """Returns True if a value of an observation is outside of its bounds; its one-hot vector would be all zeros."""
    low, high = bounds
    if isinstance(observation, int | np.integer):
        return bool(not low <= observation <= high)
    values = np.asarray(observation)
    return bool(((values < low) | (values > high)).any())
