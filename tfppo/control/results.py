"""What becomes of a trained policy: evaluations, pictures, videos, exports, and policies for use in Python."""

from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium

from tfppo.control.config import ControlRunConfig
from tfppo.control.envs.options import options_of
from tfppo.control.evaluate import Acting, describe, judge
from tfppo.control.export import export_policy, how_to_use
from tfppo.control.policies.policy import ControlPolicy
from tfppo.control.rollouts.normalization import Normalization
from tfppo.control.trained_policy import TrainedPolicy, trained_policy
from tfppo.control.video import leave_video
from tfppo.errors import UsageError
from tfppo.reporting.curves import plot_curve
from tfppo.training import run_folder
from tfppo.training.trainer import Evaluation

RETURN = "rollout/episode_return_mean"
STEPS = "rollout/env_steps"


class ControlResults(ABC):
    """The part of a control trainer that uses its policy. It changes nothing."""

    config: ControlRunConfig
    policy: ControlPolicy
    normalization: Normalization
    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    _trained: tuple[int, TrainedPolicy] | None = None  # for `predict`: the iteration, and its policy

    @property
    @abstractmethod
    def iteration(self) -> int:
        """Number of finished iterations."""

    @property
    @abstractmethod
    def env_steps(self) -> int:
        """Number of environment steps so far."""

    @cached_property
    def _acting(self) -> tuple[Acting, Acting]:
        """The greedy steps of the policy, and those with sampled actions; all evaluations share their programs."""
        return Acting(self.policy, self.normalization), Acting(self.policy, self.normalization, greedy=False)

    def draw(self, folder: Path) -> None:
        """Draws the training curve into the folder of the run."""
        title = f"{self.config.control.env}, {folder.name}"
        plot_curve(folder / run_folder.METRICS, folder / run_folder.CURVE, STEPS, RETURN, title)

    def judge(self, size: int, seed: int, show: bool = True) -> Evaluation:
        """Evaluates `size` greedy episodes and, under "stochastic", as many episodes with sampled actions.

        Args:
          size: Number of episodes of each kind.
          seed: Seed of the episodes.
          show: True shows progress bars.

        Returns:
          The evaluation.
        """
        control = self.config.control
        judged = judge(
            *self._acting,
            control.env,
            size,
            seed,
            vectorization=control.vectorization,
            num_envs=control.num_envs,
            max_steps=control.eval_max_steps,
            options=options_of(control.env_kwargs, control.wrappers, control.eval_env_kwargs),
            show=show,
        )
        return {"env": control.env, "seed": seed} | judged | {"env_steps": self.env_steps}

    def describe(self, evaluation: Evaluation) -> str:
        """Returns an evaluation as text for the console."""
        return describe(evaluation)

    def record(self, folder: Path, seed: int) -> None:
        """Records a video in the folder of the run, or prints why there is none."""
        control, episodes = self.config.control, self.config.control.video_episodes
        if episodes:
            options = options_of(control.env_kwargs, control.wrappers, control.eval_env_kwargs)
            leave_video(folder, self.policy, control.env, episodes, seed, self.env_steps, self.normalization, options)

    def farewell(self, folder: Path) -> str:
        """Returns a line that names the results of a finished run and the command that shows them."""
        return (
            f"{folder} holds {run_folder.CURVE}, {run_folder.METRICS} and the other results; view the metrics with: "
            f"tensorboard --logdir {run_folder.quoted(folder.parent)}"
        )

    def export(self, folder: Path, form: str | None = None) -> str:
        """Exports the policy as a SavedModel (see `export_policy`) and returns a line that says how to use it."""
        export_policy(self.policy, self.observation_space, folder, self.normalization)
        return how_to_use(self.policy, self.observation_space, folder)

    def evaluate(self, episodes: int = 100, seed: int | None = None) -> Evaluation:
        """Evaluates the policy of now, as a run does at its end.

        Args:
          episodes: Number of greedy episodes, and of episodes with sampled actions.
          seed: Seed of the episodes. None: the seed of the run.

        Returns:
          Mean, std, min and max of the returns, those of sampled actions under "stochastic", and the environment steps
          of the training, as in `evaluation.json`.
        """
        return self.judge(episodes, self.config.run.seed if seed is None else seed)

    def trained_policy(self) -> TrainedPolicy:
        """Returns the policy for use without the trainer; it shares the weights, and has the statistics of now."""
        spaces = self.observation_space, self.action_space
        return trained_policy(self.policy, *spaces, self.normalization, self.config.control)

    def predict(self, observations: Any, *, deterministic: bool = True) -> Any:
        """Chooses actions with the policy of now. For a policy with a memory use `trained_policy`.

        Args:
          observations: One observation of the environment, or a batch [B, ...] of them; a dictionary for a Dict space.
          deterministic: True takes the most probable actions; False samples them as in training.

        Returns:
          One action or a batch of actions, as NumPy values that the environment takes.

        Raises:
          UsageError: If the observations do not fit the observation space, or the policy has a memory.
        """
        if self.config.control.lstm_units:
            raise UsageError("the policy has a memory, which predict does not keep: use trainer.trained_policy()")
        if self._trained is None or self._trained[0] != self.iteration:
            self._trained = self.iteration, self.trained_policy()
        return self._trained[1].predict(observations, deterministic=deterministic)

    def save(self, path: Path | str) -> None:
        """Saves the policy of now to a folder, with everything between observations and actions.

        `tfppo.load_policy` reads the folder.

        Args:
          path: The folder. An older policy in it is replaced after the new one is complete.

        Raises:
          UsageError: If the folder holds something else, or cannot be written to.
        """
        self.trained_policy().save(path)
