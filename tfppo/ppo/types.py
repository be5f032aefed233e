"""The data that flows between the rooms, with a shape comment a field, and what the learner asks of a policy."""

from collections.abc import Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

import tensorflow as tf

from tfppo.execution.variables import Variable
from tfppo.ops.distributions import Distribution
from tfppo.ops.masking import finite_outside
from tfppo.ops.nest import Nest, map_tensors
from tfppo.ppo.guard import Masked, Quantity

Inputs = TypeVar("Inputs")
Inputs_contra = TypeVar("Inputs_contra", contravariant=True)


class Trajectory(NamedTuple):
    """T steps of B environments, time-major, before any value is computed.

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

    def guarded(self) -> dict[Quantity, Masked]:
        """Returns what must be finite, besides what the batch holds."""
        successors = self.successors
        if not tf.nest.flatten(successors):
            successors = map_tensors(lambda x: x[1:], self.all_observations)
        # What an episode ended in counts for nothing.
        successors = map_tensors(lambda x: finite_outside(x, ~self.terminated), successors)
        return {
            Quantity.OBSERVATION: Masked((self.observations, successors), self.mask),
            Quantity.REWARD: Masked(self.rewards, self.mask),
        }


class Batch(NamedTuple, Generic[Inputs]):
    """What the learner trains on: N items along the leading axis, each a transition, a sequence or an environment."""

    inputs: Inputs  # [N, ...] what `Policy.evaluate_actions` takes
    actions: tf.Tensor  # [N, ...]
    old_log_probs: tf.Tensor  # [N] or [N, T]
    old_values: tf.Tensor  # [N] or [N, T]
    advantages: tf.Tensor  # [N] or [N, T]
    returns: tf.Tensor  # [N] or [N, T]
    mask: tf.Tensor  # [N] or [N, T] bool
    old_distribution: Distribution | None = None  # raw parameters, [N, ...]: with them KL(old || new) is exact
    reference_log_probs: tf.Tensor | None = None  # [N] or [N, T]: with them the KL term is KL(policy || reference)
    value_mask: tf.Tensor | None = None  # like mask, where other entries count for the value than for the policy
    reference_kl: tf.Tensor | None = None  # [N] KL(policy || reference) of each item as sampled, for an adaptive rule

    def guarded(self) -> dict[Quantity, Masked]:
        """Returns what must be finite."""
        value_mask = value_mask_of(self)
        quantities = {
            Quantity.OLD_LOG_PROBS: Masked(self.old_log_probs, self.mask),
            Quantity.OLD_VALUES: Masked(self.old_values, value_mask),
            Quantity.ADVANTAGES: Masked(self.advantages, self.mask),
            Quantity.RETURNS: Masked(self.returns, value_mask),
        }
        if self.reference_log_probs is not None:
            quantities[Quantity.REFERENCE_LOG_PROBS] = Masked(self.reference_log_probs, self.mask)
        return quantities


def value_mask_of(batch: Batch[Inputs]) -> tf.Tensor:
    """Returns the mask of the entries that count for the value, bool [N] or [N, T]."""
    return batch.mask if batch.value_mask is None else batch.value_mask


class ActionEvaluation(NamedTuple):
    """What a policy says about given actions at given inputs."""

    log_probs: tf.Tensor  # [N] or [N, T]
    entropies: tf.Tensor  # [N] or [N, T]
    values: tf.Tensor  # [N] or [N, T]
    distribution: Distribution | None  # raw parameters, [N, ...]


class Policy(Protocol, Generic[Inputs_contra]):
    """All that the learner asks of a policy; how it acts is not the learner's concern."""

    @property
    def trainable_variables(self) -> Sequence[Variable]:
        """What is trained, in a fixed order."""

    def evaluate_actions(self, inputs: Inputs_contra, actions: tf.Tensor) -> ActionEvaluation:
        """Evaluates actions [N, ...] at inputs [N, ...], differentiably."""
