"""The interface of policies for control, as collectors, evaluation and export use it."""

from collections.abc import Sequence
from typing import Protocol, TypeAlias, TypeVar

import keras
import tensorflow as tf

from tfppo.control.envs.environment import Observations
from tfppo.control.envs.episodes import where_rows
from tfppo.control.policies.heads import ActionHead, Outputs
from tfppo.ops.distributions import Distribution
from tfppo.ops.nest import Nest
from tfppo.ppo.types import Policy

Memory: TypeAlias = tuple[tf.Tensor, ...]
"""The memory of a policy: tensors [B, ...]; empty for a policy without a memory."""
Structure = TypeVar("Structure")


class ControlPolicy(Policy, Protocol):
    """A policy that acts in B environments in parallel.

    A policy may have a memory of the episode (recurrent policies do). The memory decides what one item of the learner's
    batch is: a transition for a policy without a memory, all steps of one environment in a rollout for a recurrent
    policy.
    """

    actor: keras.Model
    critic: keras.Model
    head: ActionHead

    @property
    def is_recurrent(self) -> bool:
        """True if the policy has a memory of the episode."""
        return bool(self.actor_memory_specs)

    @property
    def actor_memory_specs(self) -> tuple[tf.TensorSpec, ...]:
        """Specs [None, ...] of the part of the memory that the actor uses; empty for a policy without a memory."""

    def initial_memory(self, num_envs: int) -> Memory:
        """Returns the memory [B, ...] at the start of B episodes."""

    def noise(self, rows: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
        """Draws the random numbers for `step`.

        One draw for all steps of a rollout is faster than one draw a step.

        Args:
          rows: The leading axes: (T, B) for T steps, or (B,) for one step.
          seed: Integer tensor [2].

        Returns:
          Random numbers, with `rows` as the leading axes.
        """
        return self.head.noise(rows, seed)

    def step(
        self, observations: Observations, noise: tf.Tensor, memory: Memory
    ) -> tuple[tf.Tensor, Distribution, Memory]:
        """Samples actions.

        Args:
          observations: [B, ...], normalized.
          noise: [B, ...], one step of the result of `noise`.
          memory: [B, ...], the memory before the step.

        Returns:
          Actions [B, ...], their distribution, and the memory after the step.
        """

    def greedy_step(self, observations: Observations, memory: Memory) -> tuple[tf.Tensor, Memory]:
        """Returns the most probable actions [B, ...] and the memory after the step."""

    def run_actor(self, observations: Observations, memory: Memory) -> tuple[Outputs, Memory]:
        """Runs only the actor.

        Args:
          observations: [B, ...], normalized.
          memory: [B, ...], the actor's part of the memory.

        Returns:
          The actor's outputs, from which the head makes a distribution, and the actor's part of the memory after the
          step.
        """

    def to_environment(self, actions: tf.Tensor) -> tf.Tensor:
        """Converts actions [B, ...] to the form that the environment takes."""
        return self.head.to_environment(actions)

    def evaluate_trajectory(
        self, observations: Observations, mask: tf.Tensor, memory: Memory
    ) -> tuple[Distribution, tf.Tensor]:
        """Evaluates all observations of a trajectory in one pass.

        Args:
          observations: [T, B, ...], normalized.
          mask: bool [T, B] or [T - 1, B], False where a step only started a new episode.
          memory: [B, ...], the memory before the first step.

        Returns:
          Distributions [T, B, ...] and values [T, B].
        """

    def item_size(self, rollout_length: int) -> int:
        """Returns the number of transitions in one item of a batch."""

    def to_items(self, nest: Structure) -> Structure:
        """Rearranges the tensors [T, B, ...] of a rollout into items [N, ...]."""

    def item_inputs(self, observations: Observations, mask: tf.Tensor, memory: Memory) -> Nest:
        """Makes the inputs of `evaluate_actions`.

        Args:
          observations: [N, ...], as items.
          mask: bool [N, ...], as items.
          memory: [B, ...], the memory before the rollout.

        Returns:
          The inputs [N, ...].
        """


def forget(memory: Memory, starts: tf.Tensor) -> Memory:
    """Sets the memory [B, ...] to zero where `starts` (bool [B]) is True: the step only started a new episode."""
    return tf.nest.map_structure(lambda x: where_rows(starts, tf.zeros_like(x), x), memory)
