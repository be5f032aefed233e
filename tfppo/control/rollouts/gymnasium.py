"""Rollouts from gymnasium's vector environments: acting is compiled, stepping is Python."""

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from gymnasium.vector import AutoresetMode, VectorEnv

from tfppo.control.envs.archive import damaged, expect_like, read_archive, write_archive
from tfppo.control.envs.environment import forget
from tfppo.control.envs.snapshots import steps_to_replay
from tfppo.control.envs.vector import autoreset_mode
from tfppo.control.policies.encoders import map_space, observation_dtype, observation_shape
from tfppo.control.rollouts.graph import ControlPolicy, make_rollout
from tfppo.control.rollouts.normalization import Normalization
from tfppo.control.rollouts.statistics import (
    EpisodeStatistics,
    empty_statistics,
    read_statistics,
    statistics_metrics,
    update_statistics,
)
from tfppo.control.rollouts.stepping import Stepper
from tfppo.errors import UsageError
from tfppo.execution.compilation import call_directly, compiled
from tfppo.execution.replicas import ALONE, Replicas
from tfppo.ops.random import fold_in
from tfppo.ppo.types import Rollout, Trajectory

ENVIRONMENTS = "environments.npz"  # in a checkpoint's folder
LONG_REPLAY = 200_000  # steps


class GymnasiumCollector(tf.Module):
    """Collects rollouts from gymnasium vector environments.

    Environments go on from rollout to rollout; where they are is saved by `save_environments`, apart from `state`.

    Args:
      policy: who acts.
      environment: gymnasium's vector environment, of any autoreset mode; or several of the same kind, which take turns:
        while one steps in processes of its own, the policy acts for the next.
      rollout_length: T, steps of each environment in a rollout.
      normalization: of observations and rewards, on the way between the two; None: they stay as they are.
      seed: of resets and actions.
      mode: "xla", "graph" or "eager": how acting is compiled.
      replicas: whose processes have a share of the environments each, this one those that are given.
    """

    def __init__(
        self,
        policy: ControlPolicy,
        environment: VectorEnv | Sequence[VectorEnv],
        rollout_length: int,
        *,
        normalization: Normalization | None = None,
        seed: int = 0,
        mode: str = "xla",
        replicas: Replicas = ALONE,
    ):
        super().__init__(name="gymnasium_collector")
        self.replicas = replicas
        self.policy = policy
        self.environments = [environment] if isinstance(environment, VectorEnv) else list(environment)
        self.normalization = normalization or Normalization()
        self.autoreset = autoreset_mode(self.environments[0])
        if policy.is_recurrent and self.autoreset != AutoresetMode.NEXT_STEP:
            raise UsageError(
                f"{self.environments[0]} resets in mode {self.autoreset.name}, but a recurrent policy wants NEXT_STEP: "
                "make the environment with autoreset_mode=AutoresetMode.NEXT_STEP"
            )
        self.num_envs = sum(part.num_envs for part in self.environments)
        self.rollout_length = rollout_length
        self.error: Exception | None = None  # what the environment raised, for whom tf.data hides it from
        self.state = [tf.Variable(x, trainable=False) for x in empty_statistics()]
        self._seed = tf.constant([seed, 0x5EED], tf.int32)
        self._times = [tf.constant(t, tf.int64) for t in range(rollout_length)]
        self._steppers: list[Stepper] = []
        for part in self.environments:
            first = self._steppers[-1].columns.stop if self._steppers else 0
            own_seed = seed + replicas.process * self.num_envs + first
            self._steppers.append(Stepper(part, self.autoreset, first, own_seed))
        self._memory = [x.numpy() for x in policy.initial_memory(self.num_envs)]
        self._noise = compiled(self._draw_noise, mode)
        self._finish = compiled(self._evaluate, replicas.modes(mode)[0])
        example = self._example()
        self._act = call_directly(compiled(self._act_flat, mode), example)
        self._structure, self._specs = self._trajectory_specs(self._act(*example)[len(self._memory)])

    @property
    def statistics(self) -> EpisodeStatistics:
        """The episodes so far."""
        return read_statistics(self.state)

    def collect(self, iteration: tf.Tensor) -> Rollout:
        """Rollout number `iteration`, a scalar int64 tensor."""
        arrays = tf.numpy_function(self._step_through, [iteration], [spec.dtype for spec in self._specs])
        for array, spec in zip(arrays, self._specs, strict=True):
            array.set_shape(spec.shape)
        share = tf.nest.pack_sequence_as(self._structure, arrays)
        return self._finish(*self.replicas.gather_processes(share, axes=(1, 1, 1, 0)))

    def save_environments(self, folder: Path) -> None:
        """Writes into a folder where the environments are, their episodes and the policy's memory, between two
        rollouts."""
        parts = [stepper.snapshot() for stepper in self._steppers]
        write_archive(folder / ENVIRONMENTS, {"memory": list(self._memory), "parts": parts})

    def restore_environments(self, folder: Path, announce: Callable[[str], Any] = print) -> str:
        """Goes on from what `save_environments` wrote, before the first rollout.

        Environments that are played again, because nothing else says where they were, are exact if they then are where
        they were, to the last bit; where they are not, or cannot be saved, they start new episodes.

        Args:
          folder: where it was written.
          announce: is told before long replays.

        Returns a sentence that says how many are exact.

        Raises:
          UsageError: if the file is damaged.
        """
        path = folder / ENVIRONMENTS
        if not path.exists():
            return "environments were not saved: episodes that were under way start anew"
        saved = read_archive(path)
        try:
            memory = expect_like(saved["memory"], list(self._memory))
            parts = dict(zip(self._steppers, saved["parts"], strict=True))
            steps = sum(steps_to_replay(part["environments"]) for part in parts.values())
            if steps > LONG_REPLAY:
                announce(f"replaying {steps:,} steps of {self.num_envs} environments ...")
            exact = np.concatenate([stepper.restore(part) for stepper, part in parts.items()])
        except UsageError:  # of an environment in a process of its own
            raise
        except (ValueError, TypeError, KeyError) as error:
            raise damaged(path, error) from None
        for x, new in zip(self._memory, memory, strict=True):
            x[exact] = new[exact]
        return _describe(int(exact.sum()), self.num_envs)

    def close(self) -> None:
        """Closes the environments."""
        for environment in self.environments:
            environment.close()

    @contextmanager
    def raising_own_errors(self):
        try:
            yield
        except tf.errors.OpError:
            if self.error is None:
                raise
            raise self.error from None

    def _draw_noise(self, iteration: tf.Tensor) -> tf.Tensor:
        total = self.num_envs * self.replicas.processes
        noise = self.policy.noise([self.rollout_length, total], fold_in(self._seed, iteration))
        return self.replicas.cut_processes(noise, axis=1)

    def _act_flat(self, *inputs: tf.Tensor) -> list[tf.Tensor]:
        """The policy's memory [B, ...], zero where this step only starts a new episode; actions [B, ...]; and what the
        environment gets for them, where it is something else."""
        observations, noise, time, memory, starts = tf.nest.pack_sequence_as(self._inputs, inputs)
        now = tf.gather(noise, time)  # XLA would compile noise[time] anew for every time
        actions, _, memory = self.policy.step(self.normalization.observations(observations), now, memory)
        to_environment = self.policy.to_environment(actions)
        return [*forget(memory, starts), actions, *([] if to_environment is actions else [to_environment])]

    def _evaluate(self, trajectory: Trajectory, returns: tf.Tensor, lengths: tf.Tensor, memory: Any) -> Rollout:
        statistics = update_statistics(self.statistics, trajectory, returns, lengths)
        for variable, value in zip(self.state, statistics, strict=True):
            variable.assign(value)
        trajectory = self.normalization.finish(trajectory)
        return make_rollout(self.policy, trajectory, statistics_metrics(statistics), memory)

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
        for buffer, x in zip(memory, self._memory, strict=True):
            np.copyto(buffer, x)
        observations = tf.nest.flatten(trajectory.observations)
        noise = self._noise(tf.constant(iteration))
        record = trajectory, returns, lengths
        parts = [tf.nest.map_structure(lambda x, at=s.columns: x[:, at], record) for s in self._steppers]
        for t, time in enumerate(self._times):
            for stepper, part in zip(self._steppers, parts, strict=True):
                if t:
                    stepper.receive(t - 1, *part)
                stepper.observe(t, part[0])
                starts = np.concatenate([s.done for s in self._steppers])
                # All columns act at every turn, whosever it is: the bits of a row hang on how many rows there are.
                outputs = self._act(*[x[t] for x in observations], noise, time, *self._memory, starts)
                outputs = [x.numpy()[stepper.columns] for x in outputs]
                for x, new in zip(self._memory, outputs, strict=False):
                    x[stepper.columns] = new
                part[0].actions[t] = outputs[len(self._memory)]
                stepper.send(outputs[-1])
        for stepper, part in zip(self._steppers, parts, strict=True):
            stepper.receive(self.rollout_length - 1, *part)
            stepper.observe(self.rollout_length, part[0])
        return buffers

    def _example(self) -> list[tf.Tensor]:
        """Flat inputs of `_act_flat`; keeps their nest."""
        noise = self._noise(tf.constant(0, tf.int64))
        observations = map_space(
            lambda space: tf.zeros([self.num_envs, *observation_shape(space)], observation_dtype(space)),
            self.environments[0].single_observation_space,
        )
        starts = tf.zeros([self.num_envs], tf.bool)
        self._inputs = observations, noise, self._times[0], [tf.constant(x) for x in self._memory], starts
        return tf.nest.flatten(self._inputs)

    def _trajectory_specs(self, actions: tf.Tensor) -> tuple[Any, list[tf.TensorSpec]]:
        """The nest of what `_steps` fills, and its flat specs."""
        length, num_envs = self.rollout_length, self.num_envs
        space = self.environments[0].single_observation_space

        def spec(dtype, *shape, rows=length):
            return tf.TensorSpec([rows, num_envs, *shape], dtype)

        def observation_specs(rows):
            return map_space(lambda s: spec(observation_dtype(s), *observation_shape(s), rows=rows), space)

        trajectory = Trajectory(
            observations=observation_specs(length + 1),
            actions=spec(actions.dtype, *actions.shape[1:]),
            distribution=(),  # that of the observations, which `make_rollout` computes in one pass
            rewards=spec(tf.float32),
            terminated=spec(tf.bool),
            truncated=spec(tf.bool),
            mask=spec(tf.bool),
            successors=() if self.autoreset == AutoresetMode.NEXT_STEP else observation_specs(length),
        )
        memory = [tf.TensorSpec(x.shape, x.dtype) for x in self._memory]
        structure = (trajectory, spec(tf.float32), spec(tf.int64), tuple(memory))
        return structure, tf.nest.flatten(structure)


def _describe(exact: int, num_envs: int) -> str:
    if exact == num_envs:
        return f"all {num_envs} environments go on exactly where they were"
    return (
        f"{exact} of {num_envs} environments go on exactly where they were; "
        "the others cannot be replayed, and start new episodes"
    )
