"""Steps of vector environments for a collector; trajectories are the same for every autoreset mode."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv

from tfppo.control.envs.archive import expect_like
from tfppo.control.envs.environment import Observations
from tfppo.control.envs.snapshots import restore_snapshot, take_snapshot
from tfppo.errors import UsageError
from tfppo.ppo.types import Trajectory

RecordInfos: TypeAlias = Callable[[Mapping[str, Any], np.ndarray], None]


class Stepper:
    """Steps a vector environment with B copies, and tracks their episodes.

    Its copies are consecutive columns of the trajectory. A step has two halves, `send` and `receive`. Between them,
    environments in their own processes step while the policy acts for other environments.

    Args:
      environment: The vector environment.
      autoreset: How it starts new episodes.
      first: Its first column.
      seed: Seed of its first copy; the next copies use the next seeds.
      record: Function that gets the infos of a step in which episodes have ended, and bool [B], True for these.
    """

    def __init__(self, environment: VectorEnv, autoreset: AutoresetMode, first: int, seed: int, record: RecordInfos):
        self.environment = environment
        self.columns = slice(first, first + environment.num_envs)
        self.done = np.zeros(environment.num_envs, bool)  # True: the episode has ended, a new one starts
        self._resets_in_a_step = autoreset == AutoresetMode.NEXT_STEP
        self._waits_for_reset = autoreset == AutoresetMode.DISABLED
        self._some_are_done = False
        self._returns = np.zeros(environment.num_envs)
        self._lengths = np.zeros(environment.num_envs, np.int64)
        self._result: tuple[Any, ...] = ()
        self._record = record
        self._observations, self.infos = environment.reset(seed=seed)

    @property
    def ignores_actions(self) -> np.ndarray:
        """Bool [B], True where the next step only starts a new episode."""
        return self.done if self._resets_in_a_step else np.zeros_like(self.done)

    def send(self, actions: np.ndarray) -> None:
        """Starts a step with actions [B, ...]."""
        if isinstance(self.environment, AsyncVectorEnv):
            self.environment.step_async(actions)
        else:
            self._result = self.environment.step(actions)

    def receive(self, t: int, trajectory: Trajectory) -> None:
        """Finishes the step, and writes it to row t of a trajectory that holds only the stepper's columns."""
        environment = self.environment
        result = environment.step_wait() if isinstance(environment, AsyncVectorEnv) else self._result
        observations, rewards, terminated, truncated, infos = result
        counts: np.ndarray | bool = True
        if self._some_are_done:  # totals start at 0 in every autoreset mode
            self._returns[self.done], self._lengths[self.done] = 0.0, 0
        if self._some_are_done and self._resets_in_a_step:
            counts = ~self.done
            rewards, terminated, truncated = np.where(counts, rewards, 0.0), terminated & counts, truncated & counts
        self._returns += rewards
        self._lengths += counts
        trajectory.episode_returns[t], trajectory.episode_lengths[t] = self._returns, self._lengths
        trajectory.rewards[t], trajectory.mask[t] = rewards, counts
        trajectory.terminated[t], trajectory.truncated[t] = terminated, truncated
        self.done = terminated | truncated
        self._some_are_done = bool(self.done.any())
        if self._some_are_done:
            self._record(infos.get("final_info", infos), self.done)
        if not self._resets_in_a_step:
            _write(trajectory.successors, t, observations)
            if self._some_are_done:
                observations = self._start_at_once(t, observations, infos, trajectory.successors)
        self._observations = observations

    def observe(self, t: int, buffers: Observations) -> None:
        """Writes the observations before step t to row t of buffers that hold only the stepper's columns."""
        _write(buffers, t, self._observations)

    def snapshot(self) -> dict[str, Any]:
        """Returns the state of the environments and their episodes as plain data, between two rollouts."""
        return {
            "episodes": [self.done, self._returns, self._lengths],
            "environments": take_snapshot(self.environment, self._observations),
        }

    def restore(self, snapshot: Any) -> np.ndarray:
        """Restores a snapshot, before the first step.

        Args:
          snapshot: The result of `snapshot`.

        Returns:
          Bool [B], True where the environment is in exactly the same state; the others are at the start of an episode.

        Raises:
          ValueError: If the snapshot does not fit; TypeError and KeyError are possible, too.
        """
        done, returns, lengths = expect_like(snapshot["episodes"], [self.done, self._returns, self._lengths])
        exact, self._observations = restore_snapshot(self.environment, snapshot["environments"], self._observations)
        self.done = done & exact
        self._some_are_done = bool(self.done.any())
        self._returns, self._lengths = np.where(exact, returns, 0.0), np.where(exact, lengths, 0)
        return exact

    def _start_at_once(
        self, t: int, observations: Observations, infos: Mapping[str, np.ndarray], successors: Observations
    ) -> Observations:
        """Returns the first observations of new episodes, where the old ones have just ended.

        The last observations of the ended episodes become the successors of step t.
        """
        if self._waits_for_reset:
            return self.environment.reset(options={"reset_mask": self.done})[0]
        if "final_obs" not in infos:
            raise UsageError(
                f"the infos of {self.environment} have no final_obs; autoreset mode SAME_STEP needs it: add it, or use "
                "another autoreset mode"
            )
        for index in np.flatnonzero(self.done):
            _write(successors, (t, int(index)), infos["final_obs"][index])
        return observations


def _write(buffers: Observations, index: int | tuple[int, int], observations: Observations) -> None:
    """Copies observations into one row of their buffers."""
    if isinstance(buffers, dict):
        for key, buffer in buffers.items():
            buffer[index] = observations[key]
    else:
        buffers[index] = observations
