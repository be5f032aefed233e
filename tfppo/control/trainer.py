"""Training a policy for control."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import gymnasium
import keras
import tensorflow as tf

from tfppo.control.assembly import make_collector, make_environment, make_policy
from tfppo.control.config import ControlRunConfig
from tfppo.control.envs.environment import IN_GRAPH_ENVIRONMENTS, registered_id
from tfppo.control.evaluate import describe, judge
from tfppo.control.export import MEMORY, export_policy, input_specs, model_graph
from tfppo.control.rollouts.batches import revalue, to_batch
from tfppo.control.rollouts.fused import fused_iterations
from tfppo.control.rollouts.gymnasium import GymnasiumCollector
from tfppo.control.rollouts.normalization import Normalization
from tfppo.control.rollouts.statistics import WINDOW
from tfppo.control.video import leave_video
from tfppo.errors import UsageError
from tfppo.execution.compilation import choose_compilation
from tfppo.execution.devices import choose_device
from tfppo.execution.distribute import make_replicas
from tfppo.ppo.learner import PPOLearner
from tfppo.ppo.types import Rollout
from tfppo.reporting.curves import plot_curve
from tfppo.reporting.tensorboard import TensorBoardWriter
from tfppo.settings import with_settings
from tfppo.training import run_folder
from tfppo.training.loop import train_iterations
from tfppo.training.trainer import Application, Display, Evaluation, Metrics

RETURN = "rollout/episode_return_mean"
STEPS = "rollout/env_steps"


class ControlTrainer:
    """Trains a policy for control; a `training.trainer.Trainer`.

    Args:
      config: the settings of the run.
      actor: a Keras model of observations [B, ...], in place of the usual one: to logits [B, A] (all heads' side by
        side), or to the means [B, D] of a Box's actions, or to means and log standard deviations [B, 2 D].
      critic: a Keras model of observations [B, ...] to values [B, 1], in place of the usual one.

    Raises:
      UsageError: on an environment that does not exist, has spaces of a kind that is not supported, or that the models
        do not fit; and if there is nothing to distribute over, or the settings cannot be shared.
    """

    def __init__(self, config: ControlRunConfig, actor: keras.Model | None = None, critic: keras.Model | None = None):
        run, control, ppo = config.run, config.control, config.ppo
        self.device, self.device_reason = choose_device(run.device, control.batch_size)
        self.replicas = make_replicas(run.distribute, self.device)
        steps = control.num_iterations * ppo.num_epochs * (control.batch_size // ppo.minibatch_size)
        length = steps, control.lstm_units > 0
        has_graph = registered_id(control.env) in IN_GRAPH_ENVIRONMENTS
        self.in_graph = control.backend == "graph" or (control.backend == "auto" and has_graph)
        acting = "rollout" if self.in_graph else "act"
        self.rollout_mode = choose_compilation(run.compile_rollout, acting, self.device, control.num_envs, *length)
        self.update_mode = choose_compilation(run.compile_update, "update", self.device, ppo.minibatch_size, *length)
        modes = {"compile_rollout": self.rollout_mode, "compile_update": self.update_mode}
        self.config = with_settings(config, modes)  # what a resumed run goes on with, wherever it is
        self._check_options()
        self.replicas.divide(control.num_envs, "num_envs")
        with tf.device(self.device):
            self.environment, self.observation_space, action_space = make_environment(
                control, control.num_envs // self.replicas.processes, self.in_graph
            )
            self.has_choices = not isinstance(action_space, gymnasium.spaces.Box)
            with self.replicas.scope():
                self.policy = make_policy(self.observation_space, action_space, control, run.seed, actor, critic)
                self.normalization = Normalization(
                    self.observation_space,
                    control.num_envs,
                    ppo.gamma,
                    control.normalize_observations,
                    control.normalize_rewards,
                )
            self.collector = make_collector(
                self.policy,
                self.environment,
                self.normalization,
                control,
                run.seed,
                self.rollout_mode,
                self.replicas,
            )
            self.learner = PPOLearner(
                self.policy,
                ppo,
                control.num_iterations,
                prepare=lambda rollout: to_batch(self.policy, rollout, ppo.gamma, ppo.gae_lambda),
                refresh=lambda rollout: to_batch(self.policy, revalue(self.policy, rollout), ppo.gamma, ppo.gae_lambda),
                guarded=Rollout.guarded,
                item_size=self.policy.item_size(control.rollout_length),
                seed=run.seed,
                mode=self.update_mode,
                replicas=self.replicas,
            )
        self.compile_seconds = 0.0

    def _check_options(self) -> None:
        control, env, count = self.config.control, self.config.control.env, self.replicas.count
        if self.in_graph and control.vectorization != "auto":
            given = f"vectorization {control.vectorization}" + " with double_buffer" * control.double_buffer
            raise UsageError(
                f"{given} is for gymnasium's environments, and {env} is in the graph here: leave it out, or use "
                "--backend gymnasium"
            )
        if control.fused and not self.in_graph:
            raise UsageError(
                f"fused wants an in-graph environment, and {env} is stepped by gymnasium here: leave fused out"
            )
        if control.fused and count > 1:
            raise UsageError(
                f"fused is one program, and {count} replicas are several: leave fused out, or use --distribute none"
            )

    @property
    def name(self) -> str:
        return run_folder.folder_name(self.config.control.env)

    @property
    def subject(self) -> str:
        backend = "in-graph" if self.in_graph else "gymnasium"
        return f"{self.config.control.env} ({backend}), {self.config.control.num_envs} environments"

    @property
    def modes(self) -> Mapping[str, str]:
        modes = {"rollout": self.rollout_mode, "update": self.update_mode}
        return {"fused": self.update_mode} if self.config.control.fused else modes

    @property
    def display(self) -> Display:
        columns = {RETURN: "return", "time/env_steps_per_s": "steps/s"}
        return Display(columns, STEPS, [RETURN], RETURN, "loss/kl", RETURN, self.has_choices)

    @property
    def iteration(self) -> int:
        return int(self.learner.iteration.numpy())

    @property
    def num_iterations(self) -> int:
        return self.config.control.num_iterations

    @property
    def metrics(self) -> Metrics:
        """Counts and means of the episodes that have finished, as in `metrics.METRICS`."""
        return {name: float(value) for name, value in self.collector.statistics.metrics().items()}

    @property
    def env_steps(self) -> int:
        """Environment steps that are done."""
        return int(self.metrics[STEPS])

    @property
    def next_step(self) -> int:
        return self.env_steps + 1

    @property
    def weights(self) -> list[tf.Variable]:
        return [*self.policy.actor.weights, *self.policy.critic.weights]

    @property
    def state(self) -> dict[str, object]:
        return {
            "actor": self.policy.actor,
            "critic": self.policy.critic,
            "optimizer": self.learner.optimizer,
            "iteration": self.learner.iteration,
            "kl_coeff": self.learner.kl_coeff,
            "guard": self.learner.guard.state,
            "collector": self.collector.state,
            "normalization": self.normalization.state,
        }

    @property
    def eval_size(self) -> int:
        return self.config.control.eval_episodes

    def is_solved(self, metrics: Metrics) -> bool:
        target = self.config.control.target_return
        return target is not None and metrics["rollout/episodes"] >= WINDOW and metrics[RETURN] >= target

    def recorded_iterations(self, folder: Path, tensorboard: TensorBoardWriter) -> Iterator[tuple[int, Metrics]]:
        if self.iteration == 0:
            tensorboard.write_graph(model_graph(self.policy))
        yield from self.iterations()

    def iterations(self) -> Iterator[tuple[int, Metrics]]:
        """Trains from where the learner is to the end of the run; yields each iteration's number and metrics.

        Raises:
          UsageError: if too many updates in a row were skipped because something was not finite.
          Exception: what an environment raised.
        """
        control = self.config.control
        if control.fused:
            yield from self._fused_iterations()
            return
        began = time.perf_counter()
        for iteration in train_iterations(self.collector, self.learner, self.num_iterations, self.device):
            self.compile_seconds = self.compile_seconds or time.perf_counter() - began
            yield iteration.number, iteration.metrics | {"time/env_steps_per_s": control.batch_size / iteration.seconds}

    def _fused_iterations(self) -> Iterator[tuple[int, Metrics]]:
        run, control = self.config.run, self.config.control
        intervals = (run.log_interval, run.checkpoint_interval)
        calls = fused_iterations(
            self.collector, self.learner, control.num_iterations, self.device, self.update_mode, intervals
        )
        for number, count, row, seconds in calls:
            self.compile_seconds = self.compile_seconds or seconds
            yield number, row | {"time/env_steps_per_s": count * control.batch_size / seconds}

    def save_extra(self, folder: Path) -> None:
        if self._stepped is not None:
            self._stepped.save_environments(folder)

    def restore_extra(self, folder: Path) -> None:
        if self._stepped is not None:
            print(self._stepped.restore_environments(folder))

    @property
    def _stepped(self) -> GymnasiumCollector | None:
        """What steps environments in Python that go on exactly where they were.

        Processes that share such environments start new episodes when they are resumed.
        """
        is_kept = isinstance(self.collector, GymnasiumCollector) and self.replicas.processes == 1
        return self.collector if is_kept else None

    def draw(self, folder: Path) -> None:
        title = f"{self.config.control.env}, {folder.name}"
        plot_curve(folder / run_folder.METRICS, folder / run_folder.CURVE, STEPS, RETURN, title)

    def judge(self, size: int, seed: int) -> Evaluation:
        """Plays greedy episodes and, under "stochastic", as many with actions that are drawn."""
        env, vectorization = self.config.control.env, self.config.control.vectorization
        judged = judge(self.policy, env, size, seed, vectorization=vectorization, normalization=self.normalization)
        return {"env": env, "seed": seed} | judged | {"env_steps": self.env_steps}

    def describe(self, evaluation: Evaluation) -> str:
        return describe(evaluation)

    def record(self, folder: Path, seed: int) -> None:
        env, episodes = self.config.control.env, self.config.control.video_episodes
        if episodes:
            leave_video(folder, self.policy, env, episodes, seed, self.env_steps, self.normalization)

    def farewell(self, folder: Path) -> str:
        return (
            f"{folder} holds {run_folder.CURVE}, {run_folder.METRICS} and the rest; see it with: tensorboard --logdir "
            f"{run_folder.quoted(folder.parent)}"
        )

    def export(self, folder: Path) -> str:
        """Writes the policy as a SavedModel (see `export_policy`); returns how to use it."""
        export_policy(self.policy, self.observation_space, folder, self.normalization)
        specs = input_specs(self.policy, self.observation_space)
        inputs = ", ".join(f"{name}=..." for name in specs)
        line = (
            f'{folder} holds a SavedModel; policy = tf.saved_model.load("{folder}"), then '
            f'policy.signatures["act"]({inputs})["actions"]'
        )
        if MEMORY[0] not in specs:
            return line
        return line + (
            f"; {' and '.join(MEMORY)}: zeros [B, {specs[MEMORY[0]].shape[-1]}] at first, then what came out under "
            "these names; episode_starts: bool [B], where an episode begins"
        )

    def close(self) -> None:
        """Closes the environments."""
        if isinstance(self.collector, GymnasiumCollector):
            self.collector.close()


CONTROL = Application("control", ControlRunConfig, "env", ControlTrainer)
