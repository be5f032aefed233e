"""Rollouts for control: from acting to what the learner trains on."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfppo.control.environments import Environment, collect_trajectory, start_episodes
from tfppo.control.normalization import Normalization
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
      normalization: of observations and rewards, on the way between the two; None: they stay as they are.
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
        normalization: Normalization | None = None,
        seed: int = 0,
        mode: str = "xla",
    ):
        super().__init__(name="graph_collector")
        self.policy = policy
        self.environment = environment
        self.normalization = normalization or Normalization()
        self.rollout_length = rollout_length
        self.seed = tf.constant([seed, 0x5EED], tf.int32)
        self._structure = (
            start_episodes(environment, num_envs, fold_in(self.seed, -1)),
            empty_statistics(),
        )
        self.state = [tf.Variable(x, trainable=False) for x in tf.nest.flatten(self._structure)]
        self.collect = compiled(self.collect_function, mode)

    @property
    def statistics(self) -> EpisodeStatistics:
        """The episodes so far."""
        return read_statistics(self.state)

    def collect_function(self, iteration: tf.Tensor) -> Rollout:
        """What `collect` compiles: rollout number `iteration`, a scalar int64 tensor."""
        values = [variable.read_value() for variable in self.state]
        episodes, statistics = tf.nest.pack_sequence_as(self._structure, values)
        seed = fold_in(self.seed, iteration)
        noise = self.policy.noise([self.rollout_length, *episodes.done.shape], fold_in(seed, 0))
        episodes, trajectory, totals = collect_trajectory(
            self.environment, episodes, self._act, noise, fold_in(seed, 1), self.policy.to_environment
        )
        statistics = update_statistics(statistics, trajectory, *totals)
        for variable, value in zip(self.state, tf.nest.flatten((episodes, statistics)), strict=True):
            variable.assign(value)
        trajectory = self.normalization.finish(trajectory)
        return evaluate_trajectory(self.policy, trajectory, statistics_metrics(statistics))

    def _act(self, observations: Any, noise: Any, memory: Any) -> tuple[tf.Tensor, Any, Any]:
        return *self.policy.act(self.normalization.observations(observations), noise), memory


def evaluate_trajectory(policy: ActorCriticPolicy, trajectory: Trajectory, metrics: dict[str, tf.Tensor]) -> Rollout:
    """A rollout from a trajectory: log-probabilities as they were sampled, and all values in one pass.

    A trajectory that keeps no distribution gets the policy's, which has not changed since.
    """
    observations = tf.nest.map_structure(lambda x: x[:-1], trajectory.observations)  # [T, B, ...]
    values = _values(policy, trajectory.observations)  # [T + 1, B]
    has_successors = bool(tf.nest.flatten(trajectory.successors))
    next_values = _values(policy, trajectory.successors) if has_successors else values[1:]  # [T, B]
    distribution = trajectory.distribution
    if not tf.nest.flatten(distribution):
        distribution = _over_time(policy.distribution, observations)  # [T, B, ...]
    return Rollout(
        observations=observations,
        actions=trajectory.actions,
        distribution=distribution,
        log_probs=distribution.log_prob(trajectory.actions),
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
    return _over_time(policy.value, observations)


def _over_time(function: Callable[[Any], Any], observations: Any) -> Any:
    """What a function of observations [N, ...] gives for [T, B, ...], as [T, B, ...]."""
    shape = tf.nest.flatten(observations)[0].shape[:2]
    given = function(tf.nest.map_structure(_merge_time, observations))
    return tf.nest.map_structure(lambda x: tf.reshape(x, [*shape, *x.shape[1:]]), given)


def _merge_time(x: tf.Tensor) -> tf.Tensor:
    """[T, B, ...] to [T * B, ...]."""
    return tf.reshape(x, [-1, *x.shape[2:]])
