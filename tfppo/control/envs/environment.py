"""The interface of in-graph environments, and their registry.

An in-graph environment is written in TensorFlow operations, so that whole rollouts are compiled into one program.
"""

from collections.abc import Callable
from typing import Protocol, TypeAlias

import gymnasium
import tensorflow as tf

from tfppo.errors import UsageError
from tfppo.ops.nest import Nest

Observations: TypeAlias = tf.Tensor | dict[str, tf.Tensor]  # a dictionary for a Dict space


class Environment(Protocol):
    """An in-graph environment: functions of tensors without side effects, for a batch of B copies, on any device."""

    @property
    def observation_space(self) -> gymnasium.Space:
        """The space of a single environment's observations."""

    @property
    def action_space(self) -> gymnasium.Space:
        """The space of a single environment's actions."""

    @property
    def max_episode_steps(self) -> int:
        """The time limit of an episode, in steps."""

    def reset(self, num_envs: int, seed: tf.Tensor) -> Nest:
        """Draws initial states.

        Args:
          num_envs: B.
          seed: Integer tensor [2].

        Returns:
          A nest of tensors [B, ...].
        """

    def observe(self, state: Nest) -> Observations:
        """Computes the observations [B, ...] of states."""

    def step(self, state: Nest, actions: tf.Tensor, seed: tf.Tensor) -> tuple[Nest, tf.Tensor, tf.Tensor]:
        """Steps all copies.

        Args:
          state: The states, a nest of [B, ...].
          actions: [B, ...], as the action space has them.
          seed: Integer tensor [2], for stochastic dynamics.

        Returns:
          The next states, the rewards [B], and bool [B], True where an episode terminated.
        """


IN_GRAPH_ENVIRONMENTS: dict[str, Callable[[], Environment]] = {}
"""The functions that make the registered in-graph environments, by ID."""


def register_environment(env: str, make: Callable[[], Environment]) -> None:
    """Registers an in-graph environment under an ID.

    Args:
      env: The ID.
      make: A function without arguments that returns the environment.

    Raises:
      UsageError: If another environment has this ID.
    """
    if IN_GRAPH_ENVIRONMENTS.setdefault(env, make) is not make:
        raise UsageError(
            f"environment ID {env} is already registered by {IN_GRAPH_ENVIRONMENTS[env]}; an ID must be unique: choose "
            "another one"
        )
