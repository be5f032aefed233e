"""Environments as tensors: the contract of an in-graph environment, and the registry of those that are known."""

from collections.abc import Callable
from typing import Protocol, TypeAlias

import gymnasium
import tensorflow as tf

from tfppo.errors import UsageError
from tfppo.ops.nest import Nest
from tfppo.training.user_modules import import_named

Observations: TypeAlias = tf.Tensor | dict[str, tf.Tensor]  # a dictionary for a Dict space


class Environment(Protocol):
    """An in-graph environment: pure functions of tensors, batched over B copies, on any device."""

    @property
    def observation_space(self) -> gymnasium.Space:
        """The space of one environment's observations."""

    @property
    def action_space(self) -> gymnasium.Space:
        """The space of one environment's actions."""

    @property
    def max_episode_steps(self) -> int:
        """The time limit of an episode."""

    def reset(self, num_envs: int, seed: tf.Tensor) -> Nest:
        """Draws fresh states: a nest of tensors [B, ...]."""

    def observe(self, state: Nest) -> Observations:
        """Computes observations [B, ...] of the states."""

    def step(self, state: Nest, actions: tf.Tensor, seed: tf.Tensor) -> tuple[Nest, tf.Tensor, tf.Tensor]:
        """Computes the next states, the rewards [B] and whether the episodes terminated [B] bool."""


IN_GRAPH_ENVIRONMENTS: dict[str, Callable[[], Environment]] = {}
"""What makes each in-graph environment that is known, by its id."""


def register_environment(env: str, make: Callable[[], Environment]) -> None:
    """Makes an in-graph environment known by an id: `make()` gives one.

    Raises:
      UsageError: if another one has this id.
    """
    if IN_GRAPH_ENVIRONMENTS.setdefault(env, make) is not make:
        raise UsageError(f"environment id {env} is taken by {IN_GRAPH_ENVIRONMENTS[env]}: give another one")


def registered_id(env: str) -> str:
    """The id under which an environment is registered: "module:id" without its module, which is imported, as gymnasium
    does it, and registers the environment, here or with gymnasium.

    Raises:
      UsageError: if the module cannot be imported.
    """
    module, _, name = env.rpartition(":")
    if module:
        import_named(module, f"env {env!r}")
    return name
