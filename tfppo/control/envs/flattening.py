"""Tuples and nested dictionaries of observations as one dictionary, which is what a policy takes."""

from typing import Any

import gymnasium
from gymnasium import spaces

from tfppo.errors import UsageError, one_line


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


def _space_parts(space: gymnasium.Space, prefix: str) -> list[tuple[str, gymnasium.Space]]:
    if isinstance(space, spaces.Dict):
        named = [(str(key), part) for key, part in space.items()]
    elif isinstance(space, spaces.Tuple):
        named = [(str(number), part) for number, part in enumerate(space.spaces)]
    else:
        return [(prefix.removesuffix("."), space)]
    return [each for key, part in named for each in _space_parts(part, f"{prefix}{key}.".replace("/", "."))]
