"""The interface of policies for control: what collectors, evaluation and export ask of one."""

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
"""What a policy remembers of the episodes, [B, ...] each; empty for a policy that remembers nothing."""
Structure = TypeVar("Structure")


class ControlPolicy(Policy, Protocol):
    """A policy that acts in B environments side by side, with a head for its actions.

    Its memory is all that tells one kind of policy from another. What the learner takes as one item of a batch depends
    on it: a transition, or an environment with the whole time of a rollout.
    """

    actor: keras.Model
    critic: keras.Model
    head: ActionHead

    @property
    def is_recurrent(self) -> bool:
        """Whether the policy remembers the episode."""
        return bool(self.actor_memory_specs)

    @property
    def actor_memory_specs(self) -> tuple[tf.TensorSpec, ...]:
        """The part of the memory [None, ...] that the actor alone needs."""

    def initial_memory(self, num_envs: int) -> Memory:
        """Makes the memory of B episodes that have just begun."""

    def noise(self, rows: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
        """Draws random numbers for `step`, [*rows, ...], rows = (T, B) or (B,): many steps' worth in one draw."""
        return self.head.noise(rows, seed)

    def step(
        self, observations: Observations, noise: tf.Tensor, memory: Memory
    ) -> tuple[tf.Tensor, Distribution, Memory]:
        """Returns actions [B, ...] sampled with noise [B, ...], their distribution, and the memory afterwards."""

    def greedy_step(self, observations: Observations, memory: Memory) -> tuple[tf.Tensor, Memory]:
        """Returns the most probable actions [B, ...], and the memory afterwards."""

    def run_actor(self, observations: Observations, memory: Memory) -> tuple[Outputs, Memory]:
        """Runs the actor alone, on its part of the memory.

        Returns: what the head makes a distribution of, and this part of the memory afterwards.
        """

    def to_environment(self, actions: tf.Tensor) -> tf.Tensor:
        """Returns what the environment gets for actions [B, ...]."""
        return self.head.to_environment(actions)

    def evaluate_trajectory(
        self, observations: Observations, mask: tf.Tensor, memory: Memory
    ) -> tuple[Distribution, tf.Tensor]:
        """Evaluates observations [T, B, ...] in one pass, from a memory on; mask [T, B] or one step shorter.

        Returns: distributions [T, B, ...] and values [T, B].
        """

    def item_size(self, rollout_length: int) -> int:
        """Returns the number of transitions in an item of a batch."""

    def to_items(self, nest: Structure) -> Structure:
        """Lays tensors [T, B, ...] of a rollout out as items [N, ...]."""

    def item_inputs(self, observations: Observations, mask: tf.Tensor, memory: Memory) -> Nest:
        """Makes the inputs of `evaluate_actions` from observations and mask as items, and the memory before them."""


def forget(memory: Memory, starts: tf.Tensor) -> Memory:
    """Clears a memory [B, ...] behind a step that only started a new episode (`starts` [B] bool)."""
    return tf.nest.map_structure(lambda x: where_rows(starts, tf.zeros_like(x), x), memory)
