"""Snapshots of vector environments: plain data from which equal environments continue in the same state.

Environments in Python play the actions of their current episode again (`episode_replay.Replayable`). An environment
that is one NumPy program gets its attributes back. No snapshot is possible for others, such as EnvPool's.
"""

import itertools
import types
from enum import Enum
from typing import Any, TypeGuard

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import create_empty_array

from tfppo.control.envs.archive import expect_like, is_plain
from tfppo.control.envs.episode_replay import Replayable, generator_state, set_generator_state
from tfppo.control.envs.workers import WorkerVectorEnv

# Attributes of these types do not change while an environment is stepped.
CONSTANT = (gymnasium.Space, EnvSpec, Enum, type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)


def take_snapshot(environment: VectorEnv, observations: Any) -> Any:
    """Takes a snapshot of a vector environment.

    Args:
      environment: The vector environment.
      observations: [B, ...], its latest observations.

    Returns:
      The snapshot as plain data; None if it is not possible.
    """
    if _is_replayable(environment):
        return list(environment.call("snapshot"))
    attributes = _attributes(environment)
    if attributes is None or not is_plain(observations):
        return None
    return {"attributes": attributes, "observations": observations}


def restore_snapshot(environment: VectorEnv, snapshot: Any, observations: Any) -> tuple[np.ndarray, Any]:
    """Restores a snapshot in a vector environment of the same kind that has just been reset.

    Args:
      environment: The vector environment.
      snapshot: The result of `take_snapshot`.
      observations: [B, ...], the observations of the reset.

    Returns:
      Bool [B], True where the environment is in exactly the same state as before (the others are at the start of an
      episode), and the current observations [B, ...].

    Raises:
      ValueError: If the snapshot does not fit; TypeError and KeyError are possible, too.
    """
    none = np.zeros(environment.num_envs, bool)
    if snapshot is None:
        return none, observations
    if _is_replayable(environment):
        return _replay(environment, snapshot)
    observed = expect_like(snapshot["observations"], observations)
    return (~none, observed) if _set_attributes(environment, snapshot["attributes"]) else (none, observations)


def steps_to_replay(snapshot: Any) -> int:
    """Returns the number of steps that `restore_snapshot` has to play again, over all environments."""
    episodes = [x["episode"] for x in snapshot] if isinstance(snapshot, list) else []
    return sum(len(episode["actions"]) for episode in episodes if episode is not None)


def _is_replayable(environment: VectorEnv) -> TypeGuard[SyncVectorEnv | WorkerVectorEnv]:
    if isinstance(environment, SyncVectorEnv):
        return all(isinstance(env, Replayable) for env in environment.envs)
    return isinstance(environment, WorkerVectorEnv)


def _replay(environment: SyncVectorEnv | WorkerVectorEnv, snapshots: list[dict[str, Any]]) -> tuple[np.ndarray, Any]:
    pending = [{"generator": x["generator"], "episode": x["episode"]} for x in snapshots]
    if len(pending) != environment.num_envs:
        raise ValueError(f"the snapshot has {len(pending)} environments, expected {environment.num_envs}")
    environment.set_attr("pending", pending)
    exact = np.array(environment.call("replay"))
    # In this step, each environment only repeats its last result. The vector environment gets from it which episodes
    # have ended and must be reset in the next step.
    observations, *_ = environment.step(create_empty_array(environment.single_action_space, environment.num_envs))
    return exact, observations


def _attributes(environment: VectorEnv) -> dict[str, Any] | None:
    """Returns all attributes of an environment that may change, or None if one of them cannot be saved."""
    changing: dict[str, Any] = {}
    for name, value in vars(environment).items():
        data = generator_state(value) if isinstance(value, np.random.Generator) else value
        if is_plain(data):
            changing[name] = data
        elif not isinstance(value, CONSTANT):
            return None
    arrays = [x for x in changing.values() if isinstance(x, np.ndarray)]
    is_tied = any(np.may_share_memory(x, y) for x, y in itertools.combinations(arrays, 2))
    return None if is_tied else changing


def _set_attributes(environment: VectorEnv, attributes: dict[str, Any]) -> bool:
    """Sets the attributes of an environment, and returns whether they fit."""
    now = _attributes(environment)
    if now is None or now.keys() != set(attributes):
        return False
    generators = {name: x for name, x in vars(environment).items() if isinstance(x, np.random.Generator)}
    others = [name for name in now if name not in generators]
    try:
        for name in others:
            if now[name] is not None:
                expect_like(attributes[name], now[name])
    except ValueError:  # an attribute has another type or shape than at the start of an episode
        return False
    if not all(set_generator_state(x, attributes[name]) for name, x in generators.items()):
        return False
    for name in others:
        setattr(environment, name, attributes[name])
    return True
