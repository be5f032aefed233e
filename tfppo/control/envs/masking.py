"""Action masks that an environment gives in its infos, as observations, where a policy sees them.

This module does not import TensorFlow: workers of parallel environments import it.
"""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from tfppo.errors import UsageError, one_line

ACTION_MASK = "action_mask"  # the key of a Dict observation whose entry tells which actions are allowed
OBSERVATION = "observation"


class MaskFromInfo(gymnasium.Wrapper):
    """Adds the mask of an environment's infos to its observations, so that the policy takes allowed actions only.

    Observations that are no dictionary become one with the keys "observation" and "action_mask".

    Args:
      env: An environment with Discrete or MultiDiscrete actions.
      key: The key of the mask in the infos. The mask has a number for each action, or for each value of each action of
        a MultiDiscrete; it is 0 where an action is forbidden.

    Raises:
      UsageError: If the actions are of another kind, the observations have an action mask already, or an info has no
        such mask.
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
