"""Rollouts for control: from acting to what the learner trains on."""

from typing import Any

import tensorflow as tf

from tfppo.control.environments import Environment, collect_trajectory, start_episodes
from tfppo.control.policy import ActorCriticPolicy
from tfppo.control.statistics import (
    EpisodeStatistics,
    empty_statistics,
    read_statistics,
    statistics_metrics,
    update_statistics,
)
from tfppo.placement import compiled
from tfppo.random import fold_in
from tfppo.returns import generalized_advantage_estimation
from tfppo.types import Batch, Rollout, Trajectory, map_tensors


class GraphCollector(tf.Module):
    """Collects rollouts from an in-graph environment, all in one compiled program.

    Environments go on from rollout to rollout; where they are is state of the collector, and part of a checkpoint.

    Args:
      policy: who acts.
      environment: where.
      num_envs: B, copies of it.
      rollout_length: T, steps of each in a rollout.
      seed: of resets and actions; with the iteration it fixes every random number.
      mode: "xla", "graph" or "eager".
    """

    def __init__(
        self,
        policy: ActorCriticPolicy,
        environment: Environment,
        num_envs: int,
        rollout_length: int,
        *,
        seed: int = 0,
        mode: str = "xla",
    ):
        super().__init__(name="graph_collector")
        self.policy = policy
        self.environment = environment
        self.rollout_length = rollout_length
        self.seed = tf.constant([seed, 0x5EED], tf.int32)
        self._structure = (
            start_episodes(environment, num_envs, fold_in(self.seed, -1)),
            empty_statistics(),
        )
        self.state = [tf.Variable(x, trainable=False) for x in tf.nest.flatten(self._structure)]
        self.collect = compiled(self._collect, mode)

    @property
    def statistics(self) -> EpisodeStatistics:
        """The episodes so far."""
        return read_statistics(self.state)

    def _collect(self, iteration: tf.Tensor) -> Rollout:
        """Rollout number `iteration`, a scalar int64 tensor."""
        values = [variable.read_value() for variable in self.state]
        episodes, statistics = tf.nest.pack_sequence_as(self._structure, values)
        seed = fold_in(self.seed, iteration)
        noise = self.policy.noise([self.rollout_length, *episodes.done.shape], fold_in(seed, 0))
        episodes, trajectory, totals = collect_trajectory(
            self.environment, episodes, self.policy.act, noise, fold_in(seed, 1)
        )
        statistics = update_statistics(statistics, trajectory, *totals)
        for variable, value in zip(self.state, tf.nest.flatten((episodes, statistics)), strict=True):
            variable.assign(value)
        return evaluate_trajectory(self.policy, trajectory, statistics_metrics(statistics))


def evaluate_trajectory(policy: ActorCriticPolicy, trajectory: Trajectory, metrics: dict[str, tf.Tensor]) -> Rollout:
    """A rollout from a trajectory: log-probabilities as they were sampled, and all values in one pass."""
    observations = tf.nest.map_structure(lambda x: x[:-1], trajectory.observations)  # [T, B, ...]
    values = _values(policy, trajectory.observations)  # [T + 1, B]
    has_successors = bool(tf.nest.flatten(trajectory.successors))
    next_values = _values(policy, trajectory.successors) if has_successors else values[1:]  # [T, B]
    return Rollout(
        observations=observations,
        actions=trajectory.actions,
        distribution=trajectory.distribution,
        log_probs=trajectory.distribution.log_prob(trajectory.actions),
        values=values[:-1],
        next_values=next_values,
        rewards=trajectory.rewards,
        terminated=trajectory.terminated,
        truncated=trajectory.truncated,
        mask=trajectory.mask,
        metrics=metrics,
    )


def to_batch(rollout: Rollout, gamma: float | tf.Tensor, gae_lambda: float | tf.Tensor) -> Batch:
    """The transitions of a rollout, with advantages and returns, as N = T x B items."""
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
    return map_tensors(_merge_time, batch)


def _values(policy: ActorCriticPolicy, observations: Any) -> tf.Tensor:
    """Values [T, B] of observations [T, B, ...], in one pass."""
    shape = tf.nest.flatten(observations)[0].shape[:2]
    return tf.reshape(policy.value(tf.nest.map_structure(_merge_time, observations)), shape)


def _merge_time(x: tf.Tensor) -> tf.Tensor:
    """[T, B, ...] to [T * B, ...]."""
    return tf.reshape(x, [-1, *x.shape[2:]])
