"""Environments whose state can be restored: the actions of the current episode are played again."""

import random
from collections import deque
from typing import Any

import gymnasium
import numpy as np

from tfppo.control.envs.archive import fingerprint, is_plain

MAX_STEPS = 1_000_000  # longer episodes are not recorded
# The generators that Gymnasium uses. The state of others contains buffer positions, which a file must not set.
SAFE_GENERATORS = ("PCG64", "PCG64DXSM")


class Replayable(gymnasium.Wrapper):
    """A wrapper that records how the environment came to its current state.

    It records the state of the environment's random number generator before the last reset, the arguments of the reset,
    and all actions since then.

    An environment may have state that the wrapper does not see, such as a generator of its own, or attributes that a
    reset does not change. A replay detects this: it compares the last observation, the last reward, the return of the
    episode and the state of the generator with those of the snapshot. It also detects draws from the global generators
    of `random` and NumPy.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self.pending: dict[str, Any] = {}  # the snapshot that `replay` restores
        self._repeats = False  # True: the next step returns the result of the last step again
        self._start: tuple[Any, ...] | None = None  # last reset: seed, options, the generator's state before it
        self._actions: deque[Any] = deque(maxlen=MAX_STEPS + 1)
        self._last: tuple[Any, Any, bool, bool, dict[str, Any]] = (None, 0.0, False, False, {})
        self._return: Any = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets the environment, and starts a new record."""
        self._start = seed, options, generator_state(_generator(self.env))
        self._actions.clear()
        observation, info = self.env.reset(seed=seed, options=options)
        self._last = observation, 0.0, False, False, info
        self._return = 0.0
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps the environment, and records the action.

        The first step after `replay` returns the last result again instead.
        """
        if self._repeats:
            self._repeats = False
            return self._last
        self._actions.append(action)
        self._last = result = self.env.step(action)
        self._return += result[1]
        return result

    def snapshot(self) -> dict[str, Any]:
        """Returns the state of the environment as plain data.

        Returns:
          The current state of its generator and the record of its episode; each is None if it cannot be saved.
        """
        generator = generator_state(_generator(self.env))
        episode = self._episode() if len(self._actions) <= MAX_STEPS else None
        return {"generator": generator if is_plain(generator) else None, "episode": episode}

    def replay(self) -> bool:
        """Restores the state of the snapshot in `pending`, or starts a new episode if that is not possible.

        The next `step` does not change the environment. It returns the result of the last step again, from which a
        vector environment gets its observations and flags.

        Returns:
          True if the environment is in exactly the same state as before.
        """
        exact = self._play(self.pending["episode"])
        if not exact:
            set_generator_state(_generator(self.env), self.pending["generator"])
            self.reset()
        self.pending = {}
        self._repeats = True
        return exact

    def _episode(self) -> dict[str, Any] | None:
        try:
            episode = {"start": self._start, "actions": np.array(list(self._actions)), "end": self._end()}
        except (TypeError, ValueError):  # the data or the generator is not plain; actions have different shapes
            return None
        return episode if is_plain(episode) else None

    def _play(self, episode: dict[str, Any] | None) -> bool:
        if episode is None:
            return False
        shared = _shared_generators()
        try:
            seed, options, generator = episode["start"]
            set_generator_state(_generator(self.env), generator)
            self.reset(seed=seed, options=options)
            for action in episode["actions"]:
                self.step(action)
            return self._end() == episode["end"] and _shared_generators() == shared
        except Exception:  # an environment may raise anything if the actions do not fit its state
            return False

    def _end(self) -> str:
        return fingerprint((self._last[:4], self._return, generator_state(_generator(self.env))))


def generator_state(generator: Any) -> Any:
    """Returns the state of a `np.random.Generator` as plain data.

    Returns:
      The state; None if there is no generator; the generator itself, which is not plain data, if it is not one of
      `SAFE_GENERATORS`.
    """
    if isinstance(generator, np.random.Generator) and type(generator.bit_generator).__name__ in SAFE_GENERATORS:
        return generator.bit_generator.state
    return generator


def set_generator_state(generator: Any, state: Any) -> bool:
    """Sets the state of a generator in place, because other objects may hold the same generator.

    Returns:
      True if the state fits the generator and was set.
    """
    if state is None or not is_plain(generator_state(generator)):
        return False
    try:
        generator.bit_generator.state = state
    except (AttributeError, TypeError, ValueError, KeyError, OverflowError):
        return False
    return True


def _generator(env: gymnasium.Env) -> Any:
    """Returns the environment's generator, or None; the property `np_random` would make a generator."""
    return env.unwrapped._np_random


def _shared_generators() -> str:
    return fingerprint((random.getstate(), np.random.get_state()))
