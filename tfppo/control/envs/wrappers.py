"""Wrappers that turn the observations of an environment into those that a policy takes.

`FlattenNested` makes one dictionary of Tuples and nested Dicts. `MaskFromInfo` adds the action masks of infos. This
module does not import TensorFlow: workers of parallel environments import it.
"""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from tfppo.errors import UsageError, one_line

ACTION_MASK = "action_mask"  # the key of a Dict observation whose entry tells which actions are allowed
OBSERVATION = "observation"


def is_nested(space: gymnasium.Space) -> bool:
    """Returns whether a space is a Tuple, or a Dict with a Tuple, a Dict or a key that Keras cannot have."""
    if isinstance(space, spaces.Dict):
        return any(isinstance(part, spaces.Dict | spaces.Tuple) or "/" in key for key, part in space.items())
    return isinstance(space, spaces.Tuple)


def flat_space(space: gymnasium.Space) -> spaces.Dict:
    """Returns the Dict of the parts of a nested space, for example with the keys "arm.0", "arm.1" and "camera".

    Raises:
      UsageError: If two parts would have the same key.
    """
    parts = _space_parts(space, "")
    keys = [key for key, _ in parts]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise UsageError(
            f"observation space {one_line(space)} has two parts with the name {twice[0]} when it is flattened: rename "
            "one (gymnasium.wrappers.TransformObservation)"
        )
    return spaces.Dict(dict(parts))


def flat_observation(observation: Any, prefix: str = "") -> dict[str, Any]:
    """Returns a nested observation as a dictionary with the keys of `flat_space`.

    Args:
      observation: A dictionary or a tuple, which may be nested.
      prefix: The start of all keys.
    """
    items = observation.items() if isinstance(observation, dict) else enumerate(observation)
    flat: dict[str, Any] = {}
    for key, part in items:
        name = f"{prefix}{key}".replace("/", ".")
        flat |= flat_observation(part, f"{name}.") if isinstance(part, dict | tuple) else {name: part}
    return flat


def flatten_nested(env: gymnasium.Env) -> gymnasium.Env:
    """Returns an environment with flat observations: the same one if its observations are not nested."""
    return FlattenNested(env) if is_nested(env.observation_space) else env


class FlattenNested(gymnasium.ObservationWrapper):
    """Gives nested observations as one dictionary.

    Args:
      env: An environment with a nested observation space.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self.observation_space = flat_space(env.observation_space)

    def observation(self, observation: Any) -> dict[str, Any]:
        """Returns the observation as a dictionary."""
        return flat_observation(observation)


class MaskFromInfo(gymnasium.Wrapper):
    """Adds the mask of an environment's infos to its observations, so that the policy takes allowed actions only.

    If the observations are not a Dict, they become one with the keys "observation" and "action_mask".

    Args:
      env: An environment with Discrete or MultiDiscrete actions.
      key: The key of the mask in the infos. The mask has one number for each action; for a MultiDiscrete, one for each
        value of the first action, then of the second, and so on. 0 forbids, any other number allows.

    Raises:
      UsageError: If the actions are not Discrete or MultiDiscrete, the observations already have an action mask, an
        info has none, or a mask has another size.
    """

    def __init__(self, env: gymnasium.Env, key: str = ACTION_MASK):
        super().__init__(env)
        if not isinstance(env.action_space, spaces.Discrete | spaces.MultiDiscrete):
            raise UsageError(
                f"MaskFromInfo needs Discrete or MultiDiscrete actions, but they are {one_line(env.action_space)}: "
                "leave it out"
            )
        space = env.observation_space
        self._is_dict = isinstance(space, spaces.Dict)
        parts = dict(space) if isinstance(space, spaces.Dict) else {OBSERVATION: space}
        if ACTION_MASK in parts:
            raise UsageError(f"the observations have an {ACTION_MASK} already: leave MaskFromInfo out")
        self._key = key
        self._size = spaces.flatdim(env.action_space)
        self.observation_space = spaces.Dict({**parts, ACTION_MASK: spaces.MultiBinary(self._size)})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._with_mask(observation, info, "reset"), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Takes a step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._with_mask(observation, info, "step"), reward, terminated, truncated, info

    def _with_mask(self, observation: Any, info: Mapping[str, Any], call: str) -> dict[str, Any]:
        if self._key not in info:
            raise UsageError(
                f"the info of {call} has no {self._key}; it has {', '.join(info) or 'nothing'}: name the key of the "
                "mask, as in MaskFromInfo(key='legal'), or leave the wrapper out"
            )
        mask = np.ravel(info[self._key]) != 0
        if len(mask) != self._size:
            raise UsageError(
                f"{self._key} in the info of {call} has {len(mask)} numbers; {one_line(self.action_space)} needs "
                f"{self._size}"
            )
        parts = observation if self._is_dict else {OBSERVATION: observation}
        return {**parts, ACTION_MASK: mask.astype(np.int8)}


def _space_parts(space: gymnasium.Space, prefix: str) -> list[tuple[str, gymnasium.Space]]:
    if isinstance(space, spaces.Dict):
        named = [(str(key), part) for key, part in space.items()]
    elif isinstance(space, spaces.Tuple):
        named = [(str(number), part) for number, part in enumerate(space.spaces)]
    else:
        return [(prefix.removesuffix("."), space)]
    return [each for key, part in named for each in _space_parts(part, f"{prefix}{key}.".replace("/", "."))]
