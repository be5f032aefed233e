"""Rollouts for control: from acting to what the learner trains on."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import tensorflow as tf

from tfppo.control.envs.environment import Environment, Episodes, collect_trajectory, start_episodes
from tfppo.control.policies.actor_critic import ActorCriticPolicy
from tfppo.control.policies.recurrent import RecurrentPolicy, SequenceInputs, swap_time
from tfppo.control.rollouts.normalization import Normalization
from tfppo.control.rollouts.statistics import (
    EpisodeStatistics,
    empty_statistics,
    read_statistics,
    statistics_metrics,
    update_statistics,
)
from tfppo.execution.compilation import compiled
from tfppo.execution.replicas import ALONE, Replicas
from tfppo.ops.masking import finite_outside
from tfppo.ops.nest import map_tensors
from tfppo.ops.random import fold_in
from tfppo.ops.returns import generalized_advantage_estimation
from tfppo.ppo.types import Batch, Rollout, Trajectory

ControlPolicy = ActorCriticPolicy | RecurrentPolicy


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
      replicas: who act for a share of the copies each; the rollout and the state are whole everywhere.
    """

    def __init__(
        self,
        policy: ControlPolicy,
        environment: Environment,
        num_envs: int,
        rollout_length: int,
        *,
        normalization: Normalization | None = None,
        seed: int = 0,
        mode: str = "xla",
        replicas: Replicas = ALONE,
    ):
        super().__init__(name="graph_collector")
        self.replicas = replicas
        self.policy = policy
        self.environment = environment
        self.normalization = normalization or Normalization()
        self.rollout_length = rollout_length
        self.seed = tf.constant([seed, 0x5EED], tf.int32)
        self._structure = (
            start_episodes(environment, num_envs, fold_in(self.seed, -1), policy.initial_memory(num_envs)),
            empty_statistics(),
        )
        self.state = [tf.Variable(x, trainable=False) for x in tf.nest.flatten(self._structure)]
        mode, share_mode = replicas.modes(mode)
        self._share = compiled(self._collect_share, share_mode)
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
        memory = episodes.memory
        noise = self.policy.noise([self.rollout_length, *episodes.done.shape], fold_in(seed, 0))
        episodes, trajectory, totals = self.replicas.gather(
            lambda index: self._share(index, episodes, noise, fold_in(seed, 1)), axes=(0, 1, 1)
        )
        statistics = update_statistics(statistics, trajectory, *totals)
        for variable, value in zip(self.state, tf.nest.flatten((episodes, statistics)), strict=True):
            variable.assign(value)
        trajectory = self.normalization.finish(trajectory)
        return make_rollout(self.policy, trajectory, statistics_metrics(statistics), memory)

    def raising_own_errors(self) -> AbstractContextManager[None]:
        """Nothing here runs on the host."""
        return nullcontext()

    def _collect_share(
        self, index: int, episodes: Episodes, noise: Any, seed: tf.Tensor
    ) -> tuple[Episodes, Trajectory, tuple[tf.Tensor, tf.Tensor]]:
        return collect_trajectory(
            self.environment, episodes, self._act, noise, seed, self.policy.to_environment, self.replicas, index
        )

    def _act(self, observations: Any, noise: Any, memory: Any) -> tuple[tf.Tensor, Any, Any]:
        return self.policy.step(self.normalization.observations(observations), noise, memory)


def make_rollout(
    policy: ControlPolicy, trajectory: Trajectory, metrics: dict[str, tf.Tensor], memory: Any = ()
) -> Rollout:
    """A rollout from a trajectory and the policy's memory before it: all values in one pass, and log-probabilities as
    they were sampled, or by the same pass where the trajectory keeps no distribution."""
    reviewed, values = policy.evaluate_trajectory(trajectory.observations, trajectory.mask, memory)  # [T + 1, B, ...]
    distribution = trajectory.distribution
    if not tf.nest.flatten(distribution):
        distribution = tf.nest.map_structure(lambda x: x[:-1], reviewed)
    next_values = values[1:]
    if tf.nest.flatten(trajectory.successors):
        _, next_values = policy.evaluate_trajectory(trajectory.successors, trajectory.mask, memory)
    return Rollout(
        all_observations=trajectory.observations,
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
        memory=memory,
        successors=trajectory.successors,
    )


def revalue(policy: ControlPolicy, rollout: Rollout) -> Rollout:
    """A rollout with the values of the policy as it is now."""
    anew = make_rollout(policy, rollout.trajectory, rollout.metrics, rollout.memory)
    return rollout._replace(values=anew.values, next_values=anew.next_values)


def to_batch(rollout: Rollout, gamma: float | tf.Tensor, gae_lambda: float | tf.Tensor) -> Batch:
    """A rollout with advantages and returns: its transitions, as N = T x B items, or, where the policy has a memory,
    its N = B environments with their whole time."""
    advantages, returns = generalized_advantage_estimation(
        rollout.rewards,
        rollout.values,
        rollout.next_values,
        rollout.terminated,
        rollout.truncated,
        gamma,
        gae_lambda,
    )
    is_recurrent = bool(tf.nest.flatten(rollout.memory))
    inputs = SequenceInputs(rollout.observations, rollout.mask, ()) if is_recurrent else rollout.observations
    batch = Batch(
        inputs=inputs,
        actions=rollout.actions,
        old_log_probs=rollout.log_probs,
        old_values=rollout.values,
        advantages=advantages,
        returns=returns,
        mask=rollout.mask,
        old_distribution=rollout.distribution,
    )
    batch = map_tensors(lambda x: finite_outside(x, rollout.mask), batch)  # 0 x NaN would be NaN in the gradient
    if not is_recurrent:
        return map_tensors(_merge_time, batch)
    batch = map_tensors(swap_time, batch)  # [B, T, ...]
    return batch._replace(inputs=batch.inputs._replace(memory=rollout.memory))


def _merge_time(x: tf.Tensor) -> tf.Tensor:
    """[T, B, ...] to [T * B, ...]."""
    return tf.reshape(x, [-1, *x.shape[2:]])
