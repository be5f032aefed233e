"""gymnasium's vector environments: every autoreset mode becomes the same trajectory."""

from typing import Any

import gymnasium
import numpy as np
import tensorflow as tf
from gymnasium.vector import AutoresetMode, VectorEnv

from tfppo.control.policy import ActorCriticPolicy
from tfppo.control.rollout import evaluate_trajectory
from tfppo.control.statistics import (
    EpisodeStatistics,
    empty_statistics,
    read_statistics,
    statistics_metrics,
    update_statistics,
)
from tfppo.errors import UsageError
from tfppo.placement import compiled
from tfppo.random import fold_in
from tfppo.types import Rollout, Trajectory


def make_vector_environment(env: str, num_envs: int, autoreset: AutoresetMode = AutoresetMode.NEXT_STEP) -> VectorEnv:
    """`num_envs` copies of gymnasium's environment `env`, stepped one after the other in this process.

    Raises:
      UsageError: if gymnasium has no such environment, or cannot make it; in one line.
    """
    try:
        return gymnasium.make_vec(env, num_envs, vectorization_mode="sync", vector_kwargs={"autoreset_mode": autoreset})
    except (gymnasium.error.Error, ImportError) as error:
        raise UsageError(f"cannot make environment {env!r}: {' '.join(str(error).split())}") from None


def autoreset_mode(environment: VectorEnv) -> AutoresetMode:
    """How a vector environment starts new episodes.

    Raises:
      UsageError: if it does not say so.
    """
    mode = environment.metadata.get("autoreset_mode")
    try:
        return AutoresetMode(mode)
    except ValueError:
        modes = ", ".join(f"AutoresetMode.{m.name}" for m in AutoresetMode)
        raise UsageError(
            f"{environment} names no autoreset mode that is known (metadata['autoreset_mode'] is {mode!r}): "
            f"set it to one of {modes}"
        ) from None


class GymnasiumCollector(tf.Module):
    """Collects rollouts from a gymnasium vector environment: acting is compiled, stepping is Python.

    Environments go on from rollout to rollout; where they are cannot be saved, so that a resumed run starts new
    episodes.

    Args:
      policy: who acts.
      environment: gymnasium's vector environment, of any autoreset mode.
      rollout_length: T, steps of each environment in a rollout.
      seed: of resets and actions.
      mode: "xla", "graph" or "eager": how acting is compiled.
    """

    def __init__(
        self,
        policy: ActorCriticPolicy,
        environment: VectorEnv,
        rollout_length: int,
        *,
        seed: int = 0,
        mode: str = "xla",
    ):
        super().__init__(name="gymnasium_collector")
        self.policy = policy
        self.environment = environment
        self.autoreset = autoreset_mode(environment)
        self.rollout_length = rollout_length
        self.error: Exception | None = None  # what the environment raised, for whom tf.data hides it from
        self.state = [tf.Variable(x, trainable=False) for x in empty_statistics()]
        self._seed = tf.constant([seed, 0x5EED], tf.int32)
        self._act = compiled(policy.act, mode)
        self._noise = compiled(self._draw_noise, mode)
        self._finish = compiled(self._evaluate, mode)
        self._observations = environment.reset(seed=seed)[0].astype(np.float32)
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

    def _evaluate(self, trajectory: Trajectory, returns: tf.Tensor, lengths: tf.Tensor) -> Rollout:
        statistics = update_statistics(self.statistics, trajectory, returns, lengths)
        for variable, value in zip(self.state, statistics, strict=True):
            variable.assign(value)
        return evaluate_trajectory(self.policy, trajectory, statistics_metrics(statistics))

    def _step_through(self, iteration: np.ndarray) -> list[np.ndarray]:
        """T steps of the environments, as flat arrays."""
        try:
            return self._steps(iteration)
        except Exception as error:
            self.error = error
            raise

    def _steps(self, iteration: np.ndarray) -> list[np.ndarray]:
        buffers = [np.zeros(spec.shape, spec.dtype.as_numpy_dtype) for spec in self._specs]
        trajectory, returns, lengths = tf.nest.pack_sequence_as(self._structure, buffers)
        distributions = tf.nest.flatten(trajectory.distribution)
        noise = self._noise(tf.constant(iteration))
        for t, noise_now in enumerate(tf.unstack(noise)):
            trajectory.observations[t] = self._observations
            actions, distribution = self._act(tf.constant(self._observations), noise_now)
            trajectory.actions[t] = actions.numpy()
            for buffer, parameter in zip(distributions, tf.nest.flatten(distribution), strict=True):
                buffer[t] = parameter.numpy()
            self._step(t, trajectory)
            returns[t], lengths[t] = self._returns, self._lengths
        trajectory.observations[-1] = self._observations
        return buffers

    def _step(self, t: int, trajectory: Trajectory) -> None:
        """One step of every environment, written into row t."""
        starts = self._done if self.autoreset == AutoresetMode.NEXT_STEP else np.zeros_like(self._done)
        observations, rewards, terminated, truncated, infos = self.environment.step(trajectory.actions[t])
        restarted = self._done  # their totals start again, whichever step it is that starts an episode
        self._returns = np.where(restarted, 0.0, self._returns) + np.where(starts, 0.0, rewards)
        self._lengths = np.where(restarted, 0, self._lengths) + ~starts
        self._done = (terminated | truncated) & ~starts
        trajectory.rewards[t] = np.where(starts, 0.0, rewards)
        trajectory.terminated[t] = terminated & ~starts
        trajectory.truncated[t] = truncated & ~starts
        trajectory.mask[t] = ~starts
        if self.autoreset != AutoresetMode.NEXT_STEP:
            trajectory.successors[t] = observations
            if self._done.any():
                observations = self._start_at_once(observations, infos, trajectory.successors[t])
        self._observations = observations.astype(trajectory.observations.dtype, copy=True)

    def _start_at_once(self, observations: np.ndarray, infos: dict[str, Any], successors: np.ndarray) -> np.ndarray:
        """First observations of new episodes, where old ones have just ended; completes the true successors."""
        if self.autoreset == AutoresetMode.DISABLED:
            return self.environment.reset(options={"reset_mask": self._done})[0]
        if "final_obs" not in infos:
            raise UsageError(f"{self.environment} resets in the same step, but its infos lack final_obs")
        for index in np.flatnonzero(self._done):
            successors[index] = infos["final_obs"][index]
        return observations

    def _trajectory_specs(self) -> tuple[Any, list[tf.TensorSpec]]:
        """The nest of what `_steps` fills, and its flat specs."""
        length, num_envs = self.rollout_length, self.environment.num_envs
        observation = self.environment.single_observation_space
        noise = tf.nest.map_structure(lambda x: x[0], self._noise(tf.constant(0, tf.int64)))
        actions, distribution = self._act(tf.constant(self._observations), noise)

        def spec(dtype, *shape, rows=length):
            return tf.TensorSpec([rows, num_envs, *shape], dtype)

        trajectory = Trajectory(
            observations=spec(tf.float32, *observation.shape, rows=length + 1),
            actions=spec(actions.dtype, *actions.shape[1:]),
            distribution=tf.nest.map_structure(lambda x: spec(x.dtype, *x.shape[1:]), distribution),
            rewards=spec(tf.float32),
            terminated=spec(tf.bool),
            truncated=spec(tf.bool),
            mask=spec(tf.bool),
            successors=() if self.autoreset == AutoresetMode.NEXT_STEP else spec(tf.float32, *observation.shape),
        )
        structure = (trajectory, spec(tf.float32), spec(tf.int64))
        return structure, tf.nest.flatten(structure)
