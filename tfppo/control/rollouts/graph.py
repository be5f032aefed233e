"""Rollouts from in-graph environments."""

import contextlib

import tensorflow as tf

from tfppo.control.envs.environment import Environment
from tfppo.control.envs.episodes import Episodes, fresh_states, start_episodes
from tfppo.control.envs.wrappers import ACTION_MASK
from tfppo.control.policies.empty_masks import has_mask, nothing_allowed, rows_without_action
from tfppo.control.policies.policy import ControlPolicy, Memory
from tfppo.control.rollouts.batches import make_rollout
from tfppo.control.rollouts.normalization import Normalization
from tfppo.control.rollouts.statistics import EpisodeStatistics
from tfppo.control.rollouts.trajectory import collect_trajectory
from tfppo.execution.compilation import compiled
from tfppo.execution.replicas import ALONE, Replicas
from tfppo.ops.nest import Nest
from tfppo.ops.random import fold_in
from tfppo.ppo.types import Rollout, Trajectory

NOWHERE = -1


class GraphCollector(tf.Module):
    """Collects rollouts from an in-graph environment, each in one compiled program.

    Episodes continue from one rollout to the next. The state of the environments belongs to the collector, and to
    checkpoints.

    Args:
      policy: The policy that acts.
      environment: The in-graph environment.
      num_envs: B, the number of copies.
      rollout_length: T, the steps of each copy in a rollout.
      normalization: Normalization of observations and rewards; None leaves them unchanged.
      seed: Seed of resets and actions; seed and iteration define all random numbers.
      mode: Compilation mode: "xla", "graph" or "eager".
      replicas: Replicas that act for a share of the copies each; each gets the whole rollout and the whole state.
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
        self.statistics = EpisodeStatistics()
        self._start = (
            start_episodes(environment, num_envs, fold_in(self.seed, -1)),
            policy.initial_memory(num_envs),
        )
        self._place = [tf.Variable(x, trainable=False) for x in tf.nest.flatten(self._start)]
        self.state = [*self._place, *self.statistics.state]
        self._is_masked = has_mask(environment.observation_space)
        self._empty_mask = tf.Variable(NOWHERE, trainable=False, dtype=tf.int64)
        mode, share_mode = replicas.modes(mode)
        self._share = compiled(self._collect_share, share_mode)
        self.collect = compiled(self.collect_function, mode)

    def raising_own_errors(self) -> contextlib.AbstractContextManager[None]:
        """Returns a context that does nothing: there is no Python code whose errors TensorFlow could wrap."""
        return contextlib.nullcontext()

    def collect_function(self, iteration: tf.Tensor) -> Rollout:
        """Collects one rollout; `collect` is the compiled version of this function.

        Args:
          iteration: Number of the rollout, an int64 scalar.

        Returns:
          The rollout.
        """
        place = [variable.read_value() for variable in self._place]
        episodes, memory = tf.nest.pack_sequence_as(self._start, place)
        seed = fold_in(self.seed, iteration)
        noise = self.policy.noise([self.rollout_length, *episodes.done.shape], fold_in(seed, 0))
        after, trajectory = self.replicas.gather(
            lambda index: self._share(index, episodes, memory, noise, fold_in(seed, 1)), axes=(0, 1)
        )
        for variable, value in zip(self._place, tf.nest.flatten(after), strict=True):
            variable.assign(value)
        if self._is_masked:
            self._look_for_empty_masks(iteration, trajectory)
        self.statistics.update(trajectory)
        trajectory = self.normalization.finish(trajectory)
        return make_rollout(self.policy, trajectory, self.statistics.metrics(), memory)

    def check_masks(self, env: str) -> None:
        """Checks the action masks of all rollouts so far; a compiled program cannot raise errors.

        Args:
          env: The environment ID.

        Raises:
          UsageError: If a mask allowed no action.
        """
        if self._is_masked and (found := int(self._empty_mask.numpy())) != NOWHERE:
            step, copy = divmod(found, self._start[0].done.shape[0])
            raise nothing_allowed(env, copy, step)

    def info_metrics(self) -> dict[str, float]:
        """Returns nothing: in-graph environments have no infos."""
        return {}

    def _look_for_empty_masks(self, iteration: tf.Tensor, trajectory: Trajectory) -> None:
        """Remembers the first step whose mask allows no action, as step x B + copy."""
        assert isinstance(trajectory.observations, dict)
        mask = trajectory.observations[ACTION_MASK][:-1]
        rows = tf.reshape(rows_without_action(mask, self.policy.head.sizes) & trajectory.mask, [-1])  # [T * B]
        begins = tf.cast(iteration, tf.int64) * rows.shape[0]
        found = begins + tf.argmax(tf.cast(rows, tf.int32), output_type=tf.int64)
        is_first = tf.reduce_any(rows) & (self._empty_mask == NOWHERE)
        self._empty_mask.assign(tf.where(is_first, found, self._empty_mask.read_value()))

    def _collect_share(
        self, index: int, episodes: Episodes, memory: Memory, noise: Nest, seed: tf.Tensor
    ) -> tuple[tuple[Episodes, Memory], Trajectory]:
        """Acts for the environments of one replica.

        The replica uses its part of the random numbers of all environments; only those of stochastic dynamics are drawn
        separately.
        """
        fresh = fresh_states(self.environment, self.rollout_length, episodes.done.shape[0], fold_in(seed, 0))
        step_seed = fold_in(seed, 1)
        if index:
            step_seed = fold_in(step_seed, -index)
        episodes, memory = self.replicas.cut((episodes, memory), index)
        noise, fresh = self.replicas.cut((noise, fresh), index, axis=1)
        episodes, memory, trajectory = collect_trajectory(
            self.environment, self.policy, self.normalization, episodes, memory, noise, fresh, step_seed
        )
        return (episodes, memory), trajectory
