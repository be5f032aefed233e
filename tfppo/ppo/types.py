"""The data types of PPO, and the interface of a policy that the learner needs.

Data are NamedTuples with a shape comment for each field.
"""

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
    """T steps of B environments, time-major, without values and log-probabilities.

    `observations` are the inputs of the policy. They are normalized if the run normalizes them. They have one row more
    than the other fields: the last row is the start of the next trajectory. `successors` depends on how environments
    start a new episode:

    - In a separate step (Gymnasium's NEXT_STEP autoreset, and every in-graph environment): `observations[t + 1]` is the
      true successor of step t, and `successors` is empty.
    - In the same step: `successors` holds the true successors.
    """

    observations: Nest  # [T + 1, B, ...]
    actions: tf.Tensor  # [T, B, ...]
    distribution: Distribution | tuple[()]  # [T, B, ...] raw parameters of the policy that acted, or empty
    rewards: tf.Tensor  # [T, B]
    terminated: tf.Tensor  # [T, B] bool
    truncated: tf.Tensor  # [T, B] bool
    mask: tf.Tensor  # [T, B] bool, False where the step only started a new episode
    episode_returns: tf.Tensor  # [T, B] float32, sum of the rewards of the current episode, up to each step
    episode_lengths: tf.Tensor  # [T, B] int64, steps of the current episode, up to each step
    raw_observations: dict[str, tf.Tensor]  # [T + 1, B, ...] the normalized parts, before normalization
    successors: Nest = ()  # [T, B, ...], or empty


class Rollout(NamedTuple):
    """A trajectory with the values and log-probabilities of the policy that collected it, one element of `tf.data`."""

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
    memory: tuple[tf.Tensor, ...] = ()  # [B, ...] state of a recurrent policy before the first step
    successors: Nest = ()  # [T, B, ...], or empty, as in a Trajectory

    @property
    def observations(self) -> Nest:
        """The observations of the T steps, [T, B, ...]."""
        return map_tensors(lambda x: x[:-1], self.all_observations)

    def guarded(self) -> dict[Quantity, Masked]:
        """Returns the quantities that must be finite, besides those of the batch."""
        successors = self.successors
        if not tf.nest.flatten(successors):
            successors = map_tensors(lambda x: x[1:], self.all_observations)
        # The observation after a terminal step is not used.
        successors = map_tensors(lambda x: finite_outside(x, ~self.terminated), successors)
        return {
            Quantity.OBSERVATION: Masked((self.observations, successors), self.mask),
            Quantity.REWARD: Masked(self.rewards, self.mask),
        }


class Batch(NamedTuple, Generic[Inputs]):
    """The training data of the learner: N items along the leading axis.

    An item is a transition, a sequence, or an environment with all its steps. A batch of a policy without values has
    neither old values nor returns.
    """

    inputs: Inputs  # [N, ...] inputs of `Policy.evaluate_actions`
    actions: tf.Tensor  # [N, ...]
    old_log_probs: tf.Tensor  # [N] or [N, T]
    old_values: tf.Tensor | None  # [N] or [N, T], None without values
    advantages: tf.Tensor  # [N] or [N, T]
    returns: tf.Tensor | None  # [N] or [N, T], None without values
    mask: tf.Tensor  # [N] or [N, T] bool
    old_distribution: Distribution | None = None  # raw parameters, [N, ...], for an exact KL(old || new)
    reference_log_probs: tf.Tensor | None = None  # [N] or [N, T], for a KL term KL(policy || reference)
    value_mask: tf.Tensor | None = None  # bool [N] or [N, T], mask of the value loss if it differs from mask
    reference_kl: tf.Tensor | None = None  # [N] KL(policy || reference) of the sampled items, for an adaptive rule

    @property
    def has_values(self) -> bool:
        """True if the batch trains a value function."""
        return self.returns is not None

    def guarded(self) -> dict[Quantity, Masked]:
        """Returns the quantities that must be finite."""
        value_mask = value_mask_of(self)
        quantities = {
            Quantity.OLD_LOG_PROBS: Masked(self.old_log_probs, self.mask),
            Quantity.OLD_VALUES: Masked(self.old_values, value_mask),
            Quantity.ADVANTAGES: Masked(self.advantages, self.mask),
            Quantity.RETURNS: Masked(self.returns, value_mask),
            Quantity.REFERENCE_LOG_PROBS: Masked(self.reference_log_probs, self.mask),
        }
        return {quantity: masked for quantity, masked in quantities.items() if masked.values is not None}


def value_mask_of(batch: Batch[Inputs]) -> tf.Tensor:
    """Returns the mask of the value loss, bool [N] or [N, T]."""
    return batch.mask if batch.value_mask is None else batch.value_mask


class ActionEvaluation(NamedTuple):
    """Log-probabilities, entropies, values and distributions of a policy for given actions."""

    log_probs: tf.Tensor  # [N] or [N, T]
    entropies: tf.Tensor  # [N] or [N, T]
    values: tf.Tensor | None  # [N] or [N, T], None for a policy without values
    distribution: Distribution | None  # raw parameters, [N, ...]


class Policy(Protocol, Generic[Inputs_contra]):
    """The interface that the learner needs of a policy. It does not include how the policy acts."""

    @property
    def trainable_variables(self) -> Sequence[Variable]:
        """The trainable variables, in a fixed order."""

    def evaluate_actions(self, inputs: Inputs_contra, actions: tf.Tensor) -> ActionEvaluation:
        """Evaluates actions differentiably.

        Args:
          inputs: [N, ...].
          actions: [N, ...].
        """
