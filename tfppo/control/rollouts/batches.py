"""Makes batches for the learner from trajectories: values and log-probabilities, then advantages and returns."""

import tensorflow as tf

from tfppo.control.envs.environment import Observations
from tfppo.control.policies.policy import ControlPolicy, Memory
from tfppo.ops.masking import finite_outside
from tfppo.ops.nest import map_tensors
from tfppo.ops.returns import generalized_advantage_estimation
from tfppo.ppo.types import Batch, Distribution, Rollout, Trajectory


def make_rollout(
    policy: ControlPolicy, trajectory: Trajectory, metrics: dict[str, tf.Tensor], memory: Memory = ()
) -> Rollout:
    """Adds values and log-probabilities to a trajectory.

    All values are computed in one pass. If the trajectory contains the distributions that sampled the actions, the
    log-probabilities are those of these distributions; otherwise the same pass computes them.

    Args:
      policy: The policy that collected the trajectory.
      trajectory: The trajectory.
      metrics: Scalars of the rollout.
      memory: The policy's memory [B, ...] before the trajectory.

    Returns:
      The rollout.
    """
    evaluated, values, next_values = _evaluate(
        policy, trajectory.observations, trajectory.successors, trajectory.mask, memory
    )
    distribution = trajectory.distribution or evaluated
    return Rollout(
        all_observations=trajectory.observations,
        actions=trajectory.actions,
        distribution=distribution,
        log_probs=distribution.log_prob(trajectory.actions),
        values=values,
        next_values=next_values,
        rewards=trajectory.rewards,
        terminated=trajectory.terminated,
        truncated=trajectory.truncated,
        mask=trajectory.mask,
        metrics=metrics,
        memory=memory,
        successors=trajectory.successors,
    )


def revalue(policy: ControlPolicy, rollout: Rollout) -> Rollout:
    """Computes the values of a rollout again, with the current weights of the policy.

    Args:
      policy: The policy.
      rollout: The rollout.

    Returns:
      The rollout with the new values.
    """
    _, values, next_values = _evaluate(
        policy, rollout.all_observations, rollout.successors, rollout.mask, rollout.memory
    )
    return rollout._replace(values=values, next_values=next_values)


def to_batch(policy: ControlPolicy, rollout: Rollout, gamma: float | tf.Tensor, gae_lambda: float | tf.Tensor) -> Batch:
    """Computes advantages and returns, and makes a batch for the learner.

    Args:
      policy: The policy; it defines the items of the batch.
      rollout: The rollout.
      gamma: Discount factor.
      gae_lambda: Lambda of generalized advantage estimation.

    Returns:
      The batch.
    """
    advantages, returns = generalized_advantage_estimation(
        rollout.rewards,
        rollout.values,
        rollout.next_values,
        rollout.terminated,
        rollout.truncated,
        gamma,
        gae_lambda,
    )
    batch = Batch(
        inputs=rollout.observations,
        actions=rollout.actions,
        old_log_probs=rollout.log_probs,
        old_values=rollout.values,
        advantages=advantages,
        returns=returns,
        mask=rollout.mask,
        old_distribution=rollout.distribution,
    )
    batch = map_tensors(lambda x: finite_outside(x, rollout.mask), batch)  # in the gradient, 0 x NaN would be NaN
    batch = policy.to_items(batch)  # [N, ...]
    return batch._replace(inputs=policy.item_inputs(batch.inputs, batch.mask, rollout.memory))


def _evaluate(
    policy: ControlPolicy, observations: Observations, successors: Observations, mask: tf.Tensor, memory: Memory
) -> tuple[Distribution, tf.Tensor, tf.Tensor]:
    """Evaluates observations [T + 1, B, ...].

    Returns:
      Distributions, values, and values of the true next observations, [T, B, ...] each.
    """
    distribution, values = policy.evaluate_trajectory(observations, mask, memory)  # [T + 1, B, ...]
    next_values = values[1:]
    if tf.nest.flatten(successors):  # [T, B, ...]
        _, next_values = policy.evaluate_trajectory(successors, mask, memory)
    return map_tensors(lambda x: x[:-1], distribution), values[:-1], next_values
