"""Rollouts from vector environments that are stepped from Python; acting is compiled."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from gymnasium.vector import AutoresetMode, VectorEnv

from tfppo.control.envs.archive import damaged, expect_like, read_archive, write_archive
from tfppo.control.envs.environment import Observations
from tfppo.control.envs.snapshots import steps_to_replay
from tfppo.control.envs.vector import autoreset_mode
from tfppo.control.envs.wrappers import ACTION_MASK
from tfppo.control.policies.empty_masks import check_masks, has_mask
from tfppo.control.policies.encoders import map_space, observation_dtype, observation_shape
from tfppo.control.policies.policy import ControlPolicy, Memory
from tfppo.control.rollouts.acting import ActingProgram, Turn
from tfppo.control.rollouts.batches import make_rollout
from tfppo.control.rollouts.infos import InfoStatistics
from tfppo.control.rollouts.normalization import Normalization, with_parts
from tfppo.control.rollouts.statistics import EpisodeStatistics
from tfppo.control.rollouts.stepping import Stepper
from tfppo.errors import UsageError
from tfppo.execution.compilation import compiled
from tfppo.execution.host import HostFunction
from tfppo.execution.replicas import ALONE, Replicas
from tfppo.ops.random import fold_in
from tfppo.ppo.types import Rollout, Trajectory

ENVIRONMENTS = "environments.npz"  # file in the folder of a checkpoint
LONG_REPLAY = 200_000  # steps; a longer replay is announced


class _Columns(NamedTuple):
    """The part of a rollout's arrays that belongs to one stepper."""

    trajectory: Trajectory  # [T, B, ...]
    shown: Observations  # [T + 1, B, ...], as the environment returns them
    memory: list[np.ndarray]  # [B, ...], the policy's current memory
    recorded: list[np.ndarray]  # [T, B, ...], the other outputs of the acting program, in its order


def first_seed(seed: int) -> int:
    """Returns the seed of the first copy of the environment; the next copies use the next seeds.

    Different seeds of a run give seeds that are far apart. Otherwise runs with the seeds 1 and 2 would have nearly all
    of their starts in common.

    Args:
      seed: Seed of the run.

    Returns:
      A multiple of 4096 below 2**31.
    """
    return int(np.random.SeedSequence(seed).generate_state(1)[0] % 2**19) * 4096


class GymnasiumCollector(tf.Module):
    """Collects rollouts from Gymnasium vector environments.

    Episodes continue from one rollout to the next. `save_environments` saves the state of the environments, which is
    not part of `state`.

    Args:
      policy: The policy that acts.
      environment: A vector environment with any autoreset mode, or several of the same kind. Several are stepped in
        turn: while one steps in its processes, the policy acts for the next.
      rollout_length: T, the steps of each environment in a rollout.
      normalization: Normalization of observations and rewards; None leaves them unchanged.
      seed: Seed of resets and actions.
      mode: How acting is compiled: "xla", "graph" or "eager".
      replicas: Replicas that share the environments; `environment` is the share of this process.

    Raises:
      UsageError: If the autoreset mode is unknown, or a recurrent policy does not support it.
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
        self.num_envs = sum(part.num_envs for part in self.environments)
        self._memory = [x.numpy() for x in policy.initial_memory(self.num_envs)]
        if self._memory and self.autoreset != AutoresetMode.NEXT_STEP:
            raise UsageError(
                f"the autoreset mode of {self.environments[0]} is {self.autoreset.name}; a recurrent policy needs "
                "NEXT_STEP: make the environment with autoreset_mode=AutoresetMode.NEXT_STEP"
            )
        self._is_masked = has_mask(self.environments[0].single_observation_space)
        self.rollout_length = rollout_length
        self.statistics = EpisodeStatistics()
        self.state = self.statistics.state
        self.info_statistics = InfoStatistics()
        self._seed = tf.constant([seed, 0x5EED], tf.int32)
        self._times = [tf.constant(t, tf.int64) for t in range(rollout_length)]
        self._steppers: list[Stepper] = []
        for part in self.environments:
            first = self._steppers[-1].columns.stop if self._steppers else 0
            own_seed = first_seed(seed) + replicas.process * self.num_envs + first
            self._steppers.append(Stepper(part, self.autoreset, first, own_seed % 2**31, self.info_statistics.add))
        self._noise = compiled(self._draw_noise, mode)
        self._acting = ActingProgram(policy, self.normalization, self._first_turn(), mode)
        record = self._record_specs()
        self._specs = tf.nest.flatten(record)
        # A partial function keeps plain dictionaries. As an attribute of a tf.Module they would become wrappers, whose
        # structure Keras does not recognise as that of a model's inputs.
        self._pack = functools.partial(tf.nest.pack_sequence_as, record)
        self._host = HostFunction(self._step_through)
        self._finish = compiled(self._finish_function, replicas.modes(mode)[0])

    @property
    def infos(self) -> list[dict[str, Any]]:
        """The infos of the first reset of each vector environment."""
        return [stepper.infos for stepper in self._steppers]

    def raising_own_errors(self) -> contextlib.AbstractContextManager[None]:
        """Returns a context for rollouts: a failed rollout raises the exception of the environment.

        Without it, TensorFlow's report of the exception would be raised.
        """
        return self._host.reraising()

    def collect(self, iteration: tf.Tensor) -> Rollout:
        """Collects one rollout.

        Args:
          iteration: Number of the rollout, an int64 scalar.

        Returns:
          The rollout.
        """
        arrays = self._host([iteration], self._specs)
        share = self._pack(arrays)
        return self._finish(*self.replicas.gather_processes(share, axes=(1, 0)))

    def check_masks(self, env: str) -> None:
        """Does nothing: masks are checked before each step."""

    def info_metrics(self) -> dict[str, float]:
        """Returns means of the numbers in infos, see `InfoStatistics`."""
        return self.info_statistics.metrics()

    def save_environments(self, folder: Path) -> None:
        """Saves the environments, their episodes and the policy's memory to a folder, between two rollouts."""
        parts = [stepper.snapshot() for stepper in self._steppers]
        saved = {"memory": list(self._memory), "parts": parts, "infos": self.info_statistics.state}
        write_archive(folder / ENVIRONMENTS, saved)

    def restore_environments(self, folder: Path, announce: Callable[[str], None] = print) -> str:
        """Restores what `save_environments` saved, before the first rollout.

        Environments without another way to restore their state play their current episode again. If this leads to a
        different state, or if an environment could not be saved, it starts a new episode.

        Args:
          folder: The folder of `save_environments`.
          announce: Function that gets a line of text before a long replay.

        Returns:
          A sentence that says how many environments continue in exactly the same state.

        Raises:
          UsageError: If the file is damaged.
        """
        path = folder / ENVIRONMENTS
        if not path.exists():
            return "the state of the environments was not saved: all environments start new episodes"
        saved = read_archive(path)
        try:
            memory = expect_like(saved["memory"], list(self._memory))
            parts = dict(zip(self._steppers, saved["parts"], strict=True))
            steps = sum(steps_to_replay(part["environments"]) for part in parts.values())
            if steps > LONG_REPLAY:
                announce(f"replaying {steps:,} steps of {self.num_envs} environments ...")
            self.info_statistics.state = saved.get("infos", {})  # checkpoints of version 0.2 have none
            exact = np.concatenate([stepper.restore(part) for stepper, part in parts.items()])
        except UsageError:  # an environment failed in its process
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

    def _draw_noise(self, iteration: tf.Tensor) -> tf.Tensor:
        total = self.num_envs * self.replicas.processes
        noise = self.policy.noise([self.rollout_length, total], fold_in(self._seed, iteration))
        return self.replicas.cut_processes(noise, axis=1)

    def _finish_function(self, trajectory: Trajectory, memory: Memory) -> Rollout:
        """Makes a rollout from a trajectory whose `successors` are not normalized yet."""
        self.statistics.update(trajectory)
        if self.autoreset != AutoresetMode.NEXT_STEP:
            trajectory = trajectory._replace(successors=self.normalization.observations(trajectory.successors))
        trajectory = self.normalization.finish(trajectory)
        return make_rollout(self.policy, trajectory, self.statistics.metrics(), memory)

    def _step_through(self, iteration: np.ndarray) -> list[np.ndarray]:
        """Steps the environments T times.

        Returns:
          The trajectory, and the memory before it, as a flat list of arrays.
        """
        arrays = [np.zeros(spec.shape, spec.dtype.as_numpy_dtype) for spec in self._specs]
        trajectory, memory = self._pack(arrays)
        for array, x in zip(memory, self._memory, strict=True):
            np.copyto(array, x)
        noise = self._noise(tf.constant(iteration))
        shown = tf.nest.flatten(with_parts(trajectory.observations, trajectory.raw_observations))
        parts = [self._columns(trajectory, stepper.columns) for stepper in self._steppers]
        for t, time in enumerate(self._times):
            for stepper, part in zip(self._steppers, parts, strict=True):
                if t:
                    stepper.receive(t - 1, part.trajectory)
                stepper.observe(t, part.shown)
                if self._is_masked:
                    self._check_masks(stepper, part.trajectory, int(iteration), t)
                starts = np.concatenate([s.done for s in self._steppers])
                # The policy always acts for all columns, because the last bits of a row depend on the number of rows.
                outputs = self._acting.act(*[x[t] for x in shown], noise, time, *self._memory, starts)
                outputs = [x.numpy()[stepper.columns] for x in outputs]
                targets = [*part.memory, *[x[t] for x in part.recorded]]
                for target, x in zip(targets, outputs, strict=False):  # actions for the environment are not recorded
                    target[...] = x
                stepper.send(outputs[-1])
        for stepper, part in zip(self._steppers, parts, strict=True):
            stepper.receive(self.rollout_length - 1, part.trajectory)
            stepper.observe(self.rollout_length, part.shown)
        if trajectory.raw_observations:
            normalized = self.normalization.measured(trajectory.observations).values()
            for array, x in zip(normalized, self._acting.normalize(*[x[-1] for x in shown]), strict=True):
                array[-1] = x
        return arrays

    def _check_masks(self, stepper: Stepper, trajectory: Trajectory, iteration: int, t: int) -> None:
        assert isinstance(trajectory.observations, dict)
        mask, sizes = trajectory.observations[ACTION_MASK][t], self.policy.head.sizes
        step = iteration * self.rollout_length + t
        check_masks(stepper.environment, mask, sizes, ~stepper.ignores_actions, step, stepper.columns.start)

    def _columns(self, trajectory: Trajectory, columns: slice) -> _Columns:
        trajectory = tf.nest.map_structure(lambda x: x[:, columns], trajectory)
        return _Columns(
            trajectory,
            with_parts(trajectory.observations, trajectory.raw_observations),
            [x[columns] for x in self._memory],
            [*self.normalization.measured(trajectory.observations).values(), trajectory.actions],
        )

    def _first_turn(self) -> Turn:
        """Returns inputs of the acting program with the shapes and dtypes of all steps."""
        observations = map_space(
            lambda space: tf.zeros([self.num_envs, *observation_shape(space)], observation_dtype(space)),
            self.environments[0].single_observation_space,
        )
        noise = self._noise(tf.constant(0, tf.int64))
        memory = tuple(tf.constant(x) for x in self._memory)
        return Turn(observations, noise, self._times[0], memory, tf.zeros([self.num_envs], tf.bool))

    def _record_specs(self) -> tuple[Trajectory, Memory]:
        """Returns the specs of the arrays that `_step_through` fills."""
        length, num_envs = self.rollout_length, self.num_envs
        space = self.environments[0].single_observation_space

        def spec(dtype: tf.DType | str, *shape: int, rows: int = length) -> tf.TensorSpec:
            return tf.TensorSpec([rows, num_envs, *shape], dtype)

        def observation_specs(rows: int) -> Observations:
            return map_space(lambda s: spec(observation_dtype(s), *observation_shape(s), rows=rows), space)

        observations, actions = observation_specs(length + 1), self._acting.actions_spec
        trajectory = Trajectory(
            observations=observations,
            actions=spec(actions.dtype, *actions.shape[1:]),
            distribution=(),  # `make_rollout` computes it for all observations in one pass
            rewards=spec(tf.float32),
            terminated=spec(tf.bool),
            truncated=spec(tf.bool),
            mask=spec(tf.bool),
            episode_returns=spec(tf.float32),
            episode_lengths=spec(tf.int64),
            raw_observations=self.normalization.measured(observations),
            successors=() if self.autoreset == AutoresetMode.NEXT_STEP else observation_specs(length),
        )
        return trajectory, tuple(tf.TensorSpec(x.shape, x.dtype) for x in self._memory)


def _describe(exact: int, num_envs: int) -> str:
    if exact == num_envs:
        return f"all {num_envs} environments continue exactly where they were"
    return (
        f"{exact} of {num_envs} environments continue exactly where they were; the others cannot be replayed and start "
        "new episodes"
    )
