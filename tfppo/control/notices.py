"""Lines that a control run prints before its first iteration: what it makes of the spaces, and what has no effect."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces, wrappers
from gymnasium.spaces import flatdim
from gymnasium.vector import SyncVectorEnv, VectorEnv

from tfppo.control.config import ControlConfig
from tfppo.control.envs.wrappers import ACTION_MASK
from tfppo.control.policies.empty_masks import has_mask
from tfppo.control.policies.encoders import is_image
from tfppo.control.rollouts.normalization import WHOLE, Normalization
from tfppo.errors import one_line

WIDE = 20.0  # numbers that are larger than this saturate the first layer
WIDE_ACTION = 5.0  # actions beyond it are rarely drawn from a normal distribution of standard deviation 1
NORMALIZERS = (wrappers.NormalizeObservation, wrappers.NormalizeReward)


def describe_spaces(
    observation_space: gymnasium.Space, action_space: gymnasium.Space, normalization: Normalization
) -> str:
    """Describes in one line what the policy sees and does.

    Args:
      observation_space: The space of a single environment's observations.
      action_space: The space of a single environment's actions.
      normalization: Normalization of observations.

    Returns:
      The line, for example "observations: Box(147,) of integers, normalized; actions: Discrete(7)".
    """
    if isinstance(observation_space, spaces.Dict):
        parts = [f"{key} {_seen(part, normalization.has(key), key)}" for key, part in observation_space.items()]
        seen = ", ".join(parts)
    else:
        seen = _seen(observation_space, normalization.has(WHOLE))
    return f"observations: {seen}; actions: {_short(action_space)}"


def notices(
    control: ControlConfig,
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    environment: object,
    infos: Sequence[Mapping[str, Any]],
    normalization: Normalization,
) -> list[str]:
    """Lists settings that have no effect, and parts of the environment that the policy does not see.

    Args:
      control: The settings.
      observation_space: The space of a single environment's observations.
      action_space: The space of a single environment's actions.
      environment: An in-graph environment, or a list of vector environments.
      infos: The infos of the first resets of the vector environments.
      normalization: Normalization of observations.

    Returns:
      One line for each.
    """
    lines = []
    if control.normalize_observations and not normalization.is_active:
        lines.append(
            "normalize_observations has no effect here: only Boxes that are not images are normalized; images are "
            "divided by 255, and discrete observations become one-hot vectors"
        )
    parts = dict(observation_space) if isinstance(observation_space, spaces.Dict) else {WHOLE: observation_space}
    for key, part in parts.items():
        if isinstance(part, spaces.Box) and not is_image(part) and not normalization.has(key) and _is_wide(part):
            lines.append(
                f"{key} reach from {part.low.min():g} to {part.high.max():g} and are not normalized; networks learn "
                "slowly from large numbers: consider --normalize-observations True"
            )
        if _is_image_of_floats(part):
            lines.append(
                f"{key} have the shape of an image, {part.shape}, and are {part.dtype}: they are {flatdim(part):,} "
                "numbers for the network; return uint8 from 0 to 255, and they go through NatureCNN"
            )
    if (
        isinstance(action_space, spaces.Box)
        and control.box_policy != "squashed"
        and _is_wide(action_space, WIDE_ACTION)
    ):
        lines.append(
            f"actions reach from {action_space.low.min():g} to {action_space.high.max():g}, and the policy begins with "
            f"a standard deviation of {math.exp(control.log_std_init):.3g}: consider --wrappers "
            '"RescaleAction(-1.0, 1.0)", or --box-policy squashed'
        )
    if control.box_policy != "normal" and not isinstance(action_space, spaces.Box):
        lines.append(f"box_policy {control.box_policy} has no effect here: the actions are {_short(action_space)}")
    if any(ACTION_MASK in info for info in infos) and not has_mask(observation_space):
        lines.append(
            f"{control.env} gives an {ACTION_MASK} in its infos, which the policy does not see; to take allowed "
            "actions only: --wrappers tfppo:MaskFromInfo"
        )
    for name in _normalizers(environment if isinstance(environment, list) else []):
        lines.append(
            f"{control.env} contains Gymnasium's wrapper {name}, whose statistics change in training and start again "
            "in the evaluation; the returns of the two do not compare: use --normalize-observations or "
            "--normalize-rewards instead"
        )
    return lines


def _is_image_of_floats(space: gymnasium.Space) -> bool:
    """Returns whether a Box would be an image if it had the dtype uint8."""
    is_box = isinstance(space, spaces.Box) and len(space.shape) == 3 and space.dtype != np.uint8
    return is_box and is_image(spaces.Box(0, 255, space.shape, np.uint8))


def _is_wide(space: spaces.Box, limit: float = WIDE) -> bool:
    """Returns whether a Box has finite bounds, some of which are far from 0."""
    is_bounded = bool(np.isfinite(space.low).all() and np.isfinite(space.high).all())
    return is_bounded and float(np.maximum(np.abs(space.low), np.abs(space.high)).max()) > limit


def _seen(space: gymnasium.Space, is_normalized: bool, key: str = "") -> str:
    if key == ACTION_MASK:
        return f"{_short(space)}, the mask of actions"
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return f"{_short(space)} as one-hot"
    if is_image(space):
        return f"image {' x '.join(map(str, space.shape))}"
    kind = " of integers" if isinstance(space, spaces.Box) and not np.issubdtype(space.dtype, np.floating) else ""
    return f"{_short(space)}{kind}{', normalized' if is_normalized else ''}"


def _short(space: gymnasium.Space) -> str:
    """Returns a space without its bounds."""
    return f"Box{space.shape}" if isinstance(space, spaces.Box) else one_line(space)


def _normalizers(environments: Sequence[VectorEnv]) -> list[str]:
    """Returns the names of Gymnasium's wrappers in an environment that normalize with statistics of their own."""
    found = []
    for environment in environments[:1]:
        while isinstance(environment, gymnasium.vector.VectorWrapper):
            environment = environment.env
        layer: Any = environment.envs[0] if isinstance(environment, SyncVectorEnv) else None
        while isinstance(layer, gymnasium.Wrapper):
            if isinstance(layer, NORMALIZERS):
                found.append(type(layer).__name__)
            layer = layer.env
    return found
