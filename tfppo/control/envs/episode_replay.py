"""Environments that can be put back where they were, by playing their running episode again."""

import random
from collections import deque
from typing import Any

import gymnasium
import numpy as np

from tfppo.control.envs.archive import fingerprint, is_plain

MAX_STEPS = 1_000_000  # of an episode that is remembered
# The generators that gymnasium uses; the states of others hold places in buffers, which a file must not choose.
SAFE_GENERATORS = ("PCG64", "PCG64DXSM")


class Replayable(gymnasium.Wrapper):
    """Remembers how its environment came to where it is: the state of the generator of random numbers before the last
    reset, what the reset was given, and the actions since then.

    An environment may keep what this does not see: a generator of its own, or something else that outlasts a reset. It
    is found out where the episode, played again, ends in another observation, reward, return or state of the
    generator, or where it draws from the generators that all Python shares.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self.pending: dict[str, Any] = {}  # the snapshot that `replay` goes to
        self._repeats = False  # the next step only returns what the last one did
        self._start: tuple[Any, ...] | None = None  # seed, options and state of the generator, before the last reset
        self._actions: deque[Any] = deque(maxlen=MAX_STEPS + 1)
        self._last: tuple[Any, Any, bool, bool, dict[str, Any]] = (None, 0.0, False, False, {})
        self._return: Any = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._start = seed, options, generator_state(_generator(self.env))
        self._actions.clear()
        observation, info = self.env.reset(seed=seed, options=options)
        self._last = observation, 0.0, False, False, info
        self._return = 0.0
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if self._repeats:
            self._repeats = False
            return self._last
        self._actions.append(action)
        self._last = result = self.env.step(action)
        self._return += result[1]
        return result

    def snapshot(self) -> dict[str, Any]:
        """Where the environment is, as plain data: the state of its generator now, and its episode; None where one
        cannot be written down."""
        generator = generator_state(_generator(self.env))
        episode = self._episode() if len(self._actions) <= MAX_STEPS else None
        return {"generator": generator if is_plain(generator) else None, "episode": episode}

    def replay(self) -> bool:
        """Goes to where the snapshot in `pending` was taken; where that fails, starts a new episode. The step that
        follows changes nothing, but returns once more what the last one returned: so a vector environment comes by
        its observations and flags.

        Returns whether the environment is exactly where it was.
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
        except (TypeError, ValueError):  # what is no plain data, be it the generator; actions of several shapes
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
        except Exception:  # whatever an environment raises that is given actions of another episode
            return False

    def _end(self) -> str:
        return fingerprint((self._last[:4], self._return, generator_state(_generator(self.env))))


def generator_state(generator: Any) -> Any:
    """The state of a np.random.Generator as plain data; None where there is no generator. One of a kind that is not
    safe comes back itself, which is no plain data."""
    if isinstance(generator, np.random.Generator) and type(generator.bit_generator).__name__ in SAFE_GENERATORS:
        return generator.bit_generator.state
    return generator


def set_generator_state(generator: Any, state: Any) -> bool:
    """Sets it in place, for others may hold the generator too. Returns whether it is such a state, and of such a
    generator."""
    if state is None or not is_plain(generator_state(generator)):
        return False
    try:
        generator.bit_generator.state = state
    except (AttributeError, TypeError, ValueError, KeyError, OverflowError):
        return False
    return True


def _generator(env: gymnasium.Env) -> Any:
    """The environment's generator; `np_random` would make one where there is none."""
    return env.unwrapped._np_random


def _shared_generators() -> str:
    return fingerprint((random.getstate(), np.random.get_state()))
