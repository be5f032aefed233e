"""The data that flows between the rooms of the house: NamedTuples with a shape comment a field."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import tensorflow as tf

from tfppo.ops.distributions import Categorical, MultiCategorical
from tfppo.ops.masking import finite_outside
from tfppo.ops.nest import Nest, map_tensors
from tfppo.ops.normals import DiagonalNormal, SquashedNormal

Distribution: TypeAlias = Categorical | MultiCategorical | DiagonalNormal | SquashedNormal


class Trajectory(NamedTuple):
    """What acting leaves behind, time-major: T steps of B environments, before any value is computed.

    `observations` are what the policy saw: normalised, where a run normalises them. They have one row more than the
    rest: the last one is where the next trajectory starts. Where an environment starts a new episode in a step of its
    own (gymnasium's NEXT_STEP autoreset, and every in-graph environment), `observations[t + 1]` is the true successor
    of step t and `successors` is empty; where it starts at once, `successors` holds the observations that really
    followed.
    """

    observations: Nest  # [T + 1, B, ...]
    actions: tf.Tensor  # [T, B, ...]
    distribution: Distribution | tuple[()]  # [T, B, ...] raw parameters of the policy that acted, or empty
    rewards: tf.Tensor  # [T, B]
    terminated: tf.Tensor  # [T, B] bool
    truncated: tf.Tensor  # [T, B] bool
    mask: tf.Tensor  # [T, B] bool, False where the step only started a new episode
    episode_returns: tf.Tensor  # [T, B] float32, sum of the rewards of the running episode, up to each step
    episode_lengths: tf.Tensor  # [T, B] int64, steps of the running episode, up to each step
    raw_observations: dict[str, tf.Tensor]  # [T + 1, B, ...] the normalised parts, as the environment shows them
    successors: Nest = ()  # [T, B, ...], or empty


class Rollout(NamedTuple):
    """A trajectory with the values and log-probabilities of the policy that collected it: one element of tf.data."""

    all_observations: Nest  # [T + 1, B, ...], as in a Trajectory
    actions: tf.Tensor  # [T, B, ...]
    distribution: Distribution  # [T, B, ...] raw parameters of the policy that acted
    log_probs: tf.Tensor  # [T, B]
    values: tf.Tensor  # [T, B]
    next_values: tf.Tensor  # [T, B] value of the true successor
    rewards: tf.Tensor  # [T, B]
    terminated: tf.Tensor  # [T, B] bool
    truncated: tf.Tensor  # [T, B] bool
    mask: tf.Tensor  # [T, B] bool
    metrics: dict[str, tf.Tensor]  # scalars, named as in metrics.METRICS
    memory: tuple[tf.Tensor, ...] = ()  # [B, ...] what a recurrent policy remembered before the first step
    successors: Nest = ()  # [T, B, ...], or empty, as in a Trajectory

    @property
    def observations(self) -> Nest:
        """Observations [T, B, ...] that were acted on."""
        return map_tensors(lambda x: x[:-1], self.all_observations)

    @property
    def guarded(self) -> dict[str, tuple[Nest, tf.Tensor]]:
        """What must be finite, with the mask of what counts, by its name in `guards.NAMES`."""
        successors = self.successors
        if not tf.nest.flatten(successors):
            successors = tf.nest.map_structure(lambda x: x[1:], self.all_observations)
        successors = tf.nest.map_structure(lambda x: finite_outside(x, ~self.terminated), successors)
        return {
            "an observation": (
                (self.observations, successors),
                self.mask,
            ),  # whatever ends an episode counts for nothing
            "a reward": (self.rewards, self.mask),
        }


class Batch(NamedTuple):
    """What the learner trains on: N items along the leading axis, each a transition, a sequence or an environment."""

    inputs: Any  # [N, ...] what `Policy.evaluate_actions` takes
    actions: tf.Tensor  # [N, ...]
    old_log_probs: tf.Tensor  # [N] or [N, T]
    old_values: tf.Tensor  # [N] or [N, T]
    advantages: tf.Tensor  # [N] or [N, T]
    returns: tf.Tensor  # [N] or [N, T]
    mask: tf.Tensor  # [N] or [N, T] bool
    old_distribution: Any = None  # raw parameters, [N, ...]: with them KL(old || new) is exact
    reference_log_probs: Any = None  # [N] or [N, T]: with them the KL term is KL(policy || reference)
    value_mask: Any = None  # like mask, where other entries count for the value than for the policy
    reference_kl: Any = None  # [N] KL(policy || reference) of each item as sampled: what an adaptive rule steers


def value_mask_of(batch: Batch) -> tf.Tensor:
    """Which entries of a batch count for the value, bool [N] or [N, T]."""
    return batch.mask if batch.value_mask is None else batch.value_mask


class ActionEvaluation(NamedTuple):
    """A policy's answer about given inputs and actions."""

    log_probs: tf.Tensor  # [N] or [N, T]
    entropies: tf.Tensor  # [N] or [N, T]
    values: tf.Tensor  # [N] or [N, T]
    distribution: Any  # raw parameters, [N, ...], or None


class Policy(Protocol):
    """All that the learner asks of a policy: how it acts is its own affair."""

    @property
    def trainable_variables(self) -> Sequence[Any]: ...

    def evaluate_actions(self, inputs: Any, actions: tf.Tensor) -> ActionEvaluation: ...
