"""Rollouts from gymnasium's vector environments: every autoreset mode becomes the same trajectory."""

from typing import Any

import numpy as np
import tensorflow as tf
from gymnasium.vector import AutoresetMode, VectorEnv

from tfppo.control.encoders import map_space, observation_dtype, observation_shape
from tfppo.control.environments import forget
from tfppo.control.normalization import Normalization
from tfppo.control.rollout import ControlPolicy, evaluate_trajectory
from tfppo.control.statistics import (
    EpisodeStatistics,
    empty_statistics,
    read_statistics,
    statistics_metrics,
    update_statistics,
)
from tfppo.control.vector import autoreset_mode
from tfppo.errors import UsageError
from tfppo.placement import compiled
from tfppo.random import fold_in
from tfppo.types import Rollout, Trajectory


class GymnasiumCollector(tf.Module):
    """Collects rollouts from a gymnasium vector environment: acting is compiled, stepping is Python.

    Environments go on from rollout to rollout; where they are cannot be saved, so that a resumed run starts new
    episodes.

    Args:
      policy: who acts.
      environment: gymnasium's vector environment, of any autoreset mode.
      rollout_length: T, steps of each environment in a rollout.
      normalization: of observations and rewards, on the way between the two; None: they stay as they are.
      seed: of resets and actions.
      mode: "xla", "graph" or "eager": how acting is compiled.
    """

    def __init__(
        self,
        policy: ControlPolicy,
        environment: VectorEnv,
        rollout_length: int,
        *,
        normalization: Normalization | None = None,
        seed: int = 0,
        mode: str = "xla",
    ):
        super().__init__(name="gymnasium_collector")
        self.policy = policy
        self.environment = environment
        self.normalization = normalization or Normalization()
        self.autoreset = autoreset_mode(environment)
        if policy.is_recurrent and self.autoreset != AutoresetMode.NEXT_STEP:
            raise UsageError(
                f"{environment} resets in mode {self.autoreset.name}, but a recurrent policy wants NEXT_STEP: "
                "make the environment with autoreset_mode=AutoresetMode.NEXT_STEP"
            )
        self.rollout_length = rollout_length
        self.error: Exception | None = None  # what the environment raised, for whom tf.data hides it from
        self.state = [tf.Variable(x, trainable=False) for x in empty_statistics()]
        self._seed = tf.constant([seed, 0x5EED], tf.int32)
        self._act = compiled(self._act_at, mode)
        self._noise = compiled(self._draw_noise, mode)
        self._finish = compiled(self._evaluate, mode)
        self._times = [tf.constant(t, tf.int64) for t in range(rollout_length)]
        self._observations = environment.reset(seed=seed)[0]
        self._memory = policy.initial_memory(environment.num_envs)
        self._done = np.zeros(environment.num_envs, bool)
        self._returns = np.zeros(environment.num_envs)
        self._lengths = np.zeros(environment.num_envs, np.int64)
        self._structure, self._specs = self._trajectory_specs()

    @property
    def statistics(self) -> EpisodeStatistics:
        """The episodes so far."""
        return read_statistics(self.state)

    def collect(self, iteration: tf.Tensor) -> Rollout:
        """Rollout number `iteration`, a scalar int64 tensor."""
        arrays = tf.numpy_function(self._step_through, [iteration], [spec.dtype for spec in self._specs])
        for array, spec in zip(arrays, self._specs, strict=True):
            array.set_shape(spec.shape)
        return self._finish(*tf.nest.pack_sequence_as(self._structure, arrays))

    def close(self) -> None:
        """Closes the environments."""
        self.environment.close()

    def _draw_noise(self, iteration: tf.Tensor) -> Any:
        return self.policy.noise([self.rollout_length, self.environment.num_envs], fold_in(self._seed, iteration))

    def _act_at(self, observations: Any, noise: tf.Tensor, time: tf.Tensor, memory: Any, starts: Any) -> Any:
        """Actions [B, ...], what the environment gets for them, and the memory afterwards: zero where this step only
        starts a new episode."""
        actions, _, memory = self.policy.step(self.normalization.observations(observations), noise[time], memory)
        return actions, self.policy.to_environment(actions), forget(memory, starts)

    def _evaluate(self, trajectory: Trajectory, returns: tf.Tensor, lengths: tf.Tensor, memory: Any) -> Rollout:
        statistics = update_statistics(self.statistics, trajectory, returns, lengths)
        for variable, value in zip(self.state, statistics, strict=True):
            variable.assign(value)
        trajectory = self.normalization.finish(trajectory)
        return evaluate_trajectory(self.policy, trajectory, statistics_metrics(statistics), memory)

    def _step_through(self, iteration: np.ndarray) -> list[np.ndarray]:
        """T steps of the environments, as flat arrays."""
        try:
            return self._steps(iteration)
        except Exception as error:
            self.error = error
            raise

    def _steps(self, iteration: np.ndarray) -> list[np.ndarray]:
        buffers = [np.zeros(spec.shape, spec.dtype.as_numpy_dtype) for spec in self._specs]
        trajectory, returns, lengths, memory = tf.nest.pack_sequence_as(self._structure, buffers)
        tf.nest.map_structure(lambda buffer, x: np.copyto(buffer, x.numpy()), memory, self._memory)
        noise = self._noise(tf.constant(iteration))
        for t, time in enumerate(self._times):
            _write(trajectory.observations, t, self._observations)
            now = tf.nest.map_structure(lambda x, t=t: tf.constant(x[t]), trajectory.observations)
            starts = tf.constant(self._done) if self._memory else ()
            actions, to_environment, self._memory = self._act(now, noise, time, self._memory, starts)
            trajectory.actions[t] = actions.numpy()
            self._step(t, to_environment.numpy(), trajectory)
            returns[t], lengths[t] = self._returns, self._lengths
        _write(trajectory.observations, -1, self._observations)
        return buffers

    def _step(self, t: int, actions: np.ndarray, trajectory: Trajectory) -> None:
        """One step of every environment, written into row t."""
        starts = self._done if self.autoreset == AutoresetMode.NEXT_STEP else np.zeros_like(self._done)
        observations, rewards, terminated, truncated, infos = self.environment.step(actions)
        restarted = self._done  # their totals start again, whichever step it is that starts an episode
        self._returns = np.where(restarted, 0.0, self._returns) + np.where(starts, 0.0, rewards)
        self._lengths = np.where(restarted, 0, self._lengths) + ~starts
        self._done = (terminated | truncated) & ~starts
        trajectory.rewards[t] = np.where(starts, 0.0, rewards)
        trajectory.terminated[t] = terminated & ~starts
        trajectory.truncated[t] = truncated & ~starts
        trajectory.mask[t] = ~starts
        if self.autoreset != AutoresetMode.NEXT_STEP:
            _write(trajectory.successors, t, observations)
            if self._done.any():
                observations = self._start_at_once(t, observations, infos, trajectory.successors)
        self._observations = observations

    def _start_at_once(self, t: int, observations: Any, infos: dict[str, Any], successors: Any) -> Any:
        """First observations of new episodes, where old ones have just ended; completes the true successors of t."""
        if self.autoreset == AutoresetMode.DISABLED:
            return self.environment.reset(options={"reset_mask": self._done})[0]
        if "final_obs" not in infos:
            raise UsageError(f"{self.environment} resets in the same step, but its infos lack final_obs")
        for index in np.flatnonzero(self._done):
            _write(successors, (t, index), infos["final_obs"][index])
        return observations

    def _trajectory_specs(self) -> tuple[Any, list[tf.TensorSpec]]:
        """The nest of what `_steps` fills, and its flat specs."""
        length, num_envs = self.rollout_length, self.environment.num_envs
        space = self.environment.single_observation_space

        def spec(dtype, *shape, rows=length):
            return tf.TensorSpec([rows, num_envs, *shape], dtype)

        def observation_specs(rows):
            return map_space(lambda s: spec(observation_dtype(s), *observation_shape(s), rows=rows), space)

        first = tf.nest.map_structure(lambda x: tf.zeros([num_envs, *x.shape[2:]], x.dtype), observation_specs(1))
        starts = tf.zeros([num_envs], tf.bool) if self._memory else ()
        noise = self._noise(tf.constant(0, tf.int64))
        actions, *_ = self._act(first, noise, self._times[0], self._memory, starts)
        trajectory = Trajectory(
            observations=observation_specs(length + 1),
            actions=spec(actions.dtype, *actions.shape[1:]),
            distribution=(),  # that of the observations, which `evaluate_trajectory` computes in one pass
            rewards=spec(tf.float32),
            terminated=spec(tf.bool),
            truncated=spec(tf.bool),
            mask=spec(tf.bool),
            successors=() if self.autoreset == AutoresetMode.NEXT_STEP else observation_specs(length),
        )
        memory = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), self._memory)
        structure = (trajectory, spec(tf.float32), spec(tf.int64), memory)
        return structure, tf.nest.flatten(structure)


def _write(buffers: Any, index: Any, observations: Any) -> None:
    """Copies observations into a row of each of their buffers."""
    if isinstance(buffers, dict):
        for key, buffer in buffers.items():
            buffer[index] = observations[key]
    else:
        buffers[index] = observations
