"""The trainer of a control run."""

import functools
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import gymnasium
import keras
import tensorflow as tf

from tfppo.control.assembly import (
    check_options,
    choose_modes,
    is_in_graph,
    make_collector,
    make_environment,
    make_policy,
    start_from,
)
from tfppo.control.config import ControlRunConfig
from tfppo.control.envs.registration import MakeEnvironment, check_same_function, register_function
from tfppo.control.evaluate import VALIDATION_RETURN, Validation
from tfppo.control.export import model_graph
from tfppo.control.notices import describe_spaces, notices
from tfppo.control.recipes import describe_recipe, lent_recipe
from tfppo.control.results import RETURN, STEPS, ControlResults
from tfppo.control.rollouts.batches import revalue, to_batch
from tfppo.control.rollouts.fused import fused_iterations
from tfppo.control.rollouts.gymnasium import GymnasiumCollector
from tfppo.control.rollouts.normalization import Normalization
from tfppo.control.rollouts.statistics import WINDOW
from tfppo.execution.devices import choose_device
from tfppo.execution.distribute import make_replicas
from tfppo.execution.variables import Variable
from tfppo.ppo.learner import PPOLearner
from tfppo.ppo.types import Rollout
from tfppo.reporting.tensorboard import TensorBoardWriter
from tfppo.settings import with_settings
from tfppo.training import run_folder
from tfppo.training.fit import Callbacks, fit
from tfppo.training.loop import train_iterations
from tfppo.training.trainer import Application, Display, ExistingRun, Metrics, executed, is_due


class ControlTrainer(ControlResults):
    """Trains a policy for control; implements `training.trainer.Trainer`.

    Args:
      config: The settings of the run.
      actor: A Keras model that replaces the default actor. It maps observations [B, ...] to logits [B, A] (those of all
        choices, concatenated), to the means [B, D] of continuous actions, or to means and log standard deviations [B, 2
        D].
      critic: A Keras model that replaces the default critic. It maps observations [B, ...] to values [B, 1].
      optimizer: A new Keras optimizer with a learning rate; it replaces the settings `optimizer` and `learning_rate`.
      env: A function, or a class, that makes a new environment in each call; it replaces the setting `env`. The
        setting `env_kwargs` gives it arguments.

    Raises:
      UsageError: If the environment does not exist, if a space is not supported, if the given models do not fit the
        spaces, or if the run cannot be distributed as `distribute` asks.
    """

    def __init__(
        self,
        config: ControlRunConfig,
        actor: keras.Model | None = None,
        critic: keras.Model | None = None,
        optimizer: keras.optimizers.Optimizer | None = None,
        env: MakeEnvironment | None = None,
    ):
        if env is not None:
            config = with_settings(config, {"env": register_function(env), "recipe": lent_recipe(config)})
        config = executed(config)
        run, control, ppo = config.run, config.control, config.ppo
        self.device, self.device_reason = choose_device(run.device, control.batch_size)
        self.replicas = make_replicas(run.distribute, self.device)
        self.in_graph = is_in_graph(control)
        self.rollout_mode, self.update_mode = choose_modes(config, self.device, self.in_graph)
        kept: dict[str, object] = {"compile_rollout": self.rollout_mode, "compile_update": self.update_mode}
        if control.init_from is not None:
            kept["init_from"] = control.init_from.resolve()
        self.config = with_settings(config, kept)  # a resumed run keeps these modes, on any machine
        check_options(control, self.in_graph, self.replicas.count)
        self.replicas.divide(control.num_envs, "num_envs")
        with tf.device(self.device):
            self.environment, self.observation_space, self.action_space = make_environment(
                control, control.num_envs // self.replicas.processes, self.in_graph
            )
            self.has_choices = not isinstance(self.action_space, gymnasium.spaces.Box)
            with self.replicas.scope():
                self.policy = make_policy(self.observation_space, self.action_space, control, run.seed, actor, critic)
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
                optimizer=optimizer,
            )
        self.validation: Validation | None = None
        self._set_up_validation()
        self.compile_seconds = 0.0
        self.rollouts_keep_state = self.in_graph  # Gymnasium's environments have made some of the steps

    @property
    def name(self) -> str:
        """Start of the run folder's name: the environment ID."""
        return run_folder.folder_name(self.config.control.env)

    @property
    def subject(self) -> str:
        """One line for the console: the environment, the backend and the number of environments."""
        backend = "in-graph" if self.in_graph else "gymnasium"
        return f"{self.config.control.env} ({backend}), {self.config.control.num_envs} environments"

    @property
    def modes(self) -> Mapping[str, str]:
        """Compilation mode of each program: "rollout" and "update", or "fused"."""
        modes = {"rollout": self.rollout_mode, "update": self.update_mode}
        return {"fused": self.update_mode} if self.config.control.fused else modes

    @property
    def display(self) -> Display:
        """The metrics that the console and TensorBoard show."""
        columns = {RETURN: "return", "time/env_steps_per_s": "steps/s"}
        best = RETURN if self.validation is None else VALIDATION_RETURN
        return Display(columns, STEPS, [RETURN], RETURN, "loss/kl", best, self.has_choices)

    @property
    def iteration(self) -> int:
        """Number of finished iterations."""
        return int(self.learner.iteration.numpy())

    @property
    def num_iterations(self) -> int:
        """Number of iterations of the whole run."""
        return self.config.control.num_iterations

    @property
    def metrics(self) -> Metrics:
        """Counts and means of the finished episodes, by the names in `reporting.metrics.METRICS`."""
        return {name: float(value) for name, value in self.collector.statistics.metrics().items()}

    @property
    def env_steps(self) -> int:
        """Number of environment steps so far."""
        return int(self.metrics[STEPS])

    @property
    def next_step(self) -> int:
        """The next environment step, on TensorBoard's axis."""
        return self.env_steps + 1

    @property
    def weights(self) -> list[tf.Variable]:
        """The weights of the actor and the critic, in a fixed order."""
        return [*self.policy.actor.weights, *self.policy.critic.weights]

    @property
    def state(self) -> dict[str, object]:
        """Everything that a checkpoint saves, by name."""
        return {
            "actor": self.policy.actor,
            "critic": self.policy.critic,
            "optimizer": self.learner.optimizer,
            "iteration": self.learner.iteration,
            "kl_coeff": self.learner.kl_coeff,
            "guard": self.learner.guard.state,
            "collector": self.collector.state,
            "normalization": self.normalization.state,
        } | ({} if self.validation is None else {"validation": self.validation.latest})

    @property
    def fixed(self) -> list[Variable]:
        """An empty list: a checkpoint holds everything."""
        return []

    @property
    def eval_size(self) -> int:
        """Number of episodes of the final evaluation; 0 means no evaluation."""
        return self.config.control.eval_episodes

    @property
    def stop_reason(self) -> str | None:
        """Why the run ends early: the mean return of the last 100 episodes has reached `target_return`."""
        target = self.config.control.target_return
        if target is None:
            return None
        metrics = self.metrics
        if not (metrics["rollout/episodes"] >= WINDOW and metrics[RETURN] >= target):
            return None
        return f"mean return {metrics[RETURN]:.5g} of the last {WINDOW} episodes reaches target_return {target:g}"

    def recorded_iterations(self, folder: Path, tensorboard: TensorBoardWriter) -> Iterator[tuple[int, Metrics]]:
        """Trains as `iterations` does, and first prints what it makes of the spaces.

        A new run also writes the graph of the models to TensorBoard.
        """
        print(describe_recipe(self.config))
        spaces = self.observation_space, self.action_space
        print(describe_spaces(*spaces, self.normalization))
        infos = self.collector.infos if isinstance(self.collector, GymnasiumCollector) else []
        for line in notices(self.config.control, *spaces, self.environment, infos, self.normalization):
            print(line, flush=True)
        if self.iteration == 0:
            tensorboard.write_graph(model_graph(self.policy))
        yield from self.iterations()

    def iterations(self) -> Iterator[tuple[int, Metrics]]:
        """Trains from the current iteration to the end of the run, or until `target_return` is reached.

        A new run with `init_from` first prints where it starts.

        Yields:
          The number and the metrics of each iteration. With `fused`, only the last iteration of each call is yielded.

        Raises:
          UsageError: If too many consecutive updates were skipped because of values that are not finite, or an action
            mask allows no action.
          Exception: The exception that an environment raised.
        """
        control = self.config.control
        if self.iteration == 0 and control.init_from is not None:
            print(start_from(control, self.policy, self.normalization), flush=True)
        if self.iteration == 0 and self.validation is not None:
            self.validation.measure()
        if control.fused:
            yield from self._fused_iterations()
            return
        began = time.perf_counter()
        for iteration in train_iterations(self.collector, self.learner, self.num_iterations, self.device):
            self.collector.check_masks(control.env)
            self.compile_seconds = self.compile_seconds or time.perf_counter() - began
            speed = {"time/env_steps_per_s": control.batch_size / iteration.seconds}
            number, row = iteration.number, iteration.metrics | speed | self.collector.info_metrics()
            del iteration  # and its rollout, which would need memory until the end of the next update
            yield number, row | self._validated(number + 1)
            if self.stop_reason is not None:
                return

    def _fused_iterations(self) -> Iterator[tuple[int, Metrics]]:
        run, control = self.config.run, self.config.control
        due = () if self.validation is None else (control.validation_interval,)
        intervals = (run.log_interval, run.checkpoint_interval, *due)
        calls = fused_iterations(
            self.collector, self.learner, control.num_iterations, self.device, self.update_mode, intervals
        )
        for number, count, row, seconds in calls:
            self.collector.check_masks(control.env)
            self.compile_seconds = self.compile_seconds or seconds
            speed = {"time/env_steps_per_s": count * control.batch_size / seconds}
            yield number, row | speed | self._validated(number + 1)
            if self.stop_reason is not None:
                return

    def _validated(self, done: int) -> dict[str, float]:
        """Returns the metrics of the validation, which is measured if it is due after so many iterations."""
        if self.validation is None:
            return {}
        if self.is_validated(done):
            self.validation.measure()
        return self.validation.metrics

    def is_validated(self, done: int) -> bool | None:
        """Returns True if the policy is validated after so many iterations. None: the run has no validation."""
        return is_due(done, self.config.control.validation_interval, self.num_iterations)

    def fit(
        self,
        total_steps: int | None = None,
        callbacks: Callbacks = None,
        validation_interval: int | None = None,
        *,
        run_dir: Path | str | None = None,
        extend: bool = False,
        verbose: int | str = "auto",
    ) -> keras.callbacks.History:
        """Trains the policy as `keras.Model.fit` does. An epoch is an iteration: a rollout and an update.

        The model of the callbacks is the actor. Their logs are all metrics of the iteration, so
        `EarlyStopping("validation/return_mean", mode="max")` stops by the validation. The schedules end with the last
        iteration; "auto" modes of compilation are those for the length of the run in the settings.

        Args:
          total_steps: Steps of the whole training, in place of the setting. With `extend`: steps more.
          callbacks: Keras callbacks.
          validation_interval: Iterations between validations, in place of the setting.
          run_dir: Folder of a run, which gets all that `tfppo train control` writes, including the evaluation at the
            end. None writes nothing.
          extend: True goes on with a trainer that has trained before. The schedules are then those of the longer run.
          verbose: 0 prints no progress, unless there is a folder.

        Returns:
          The History: `history` has a list of values for every metric, one for each epoch.

        Raises:
          UsageError: If the trainer has trained before and `extend` is False, a setting is invalid, the folder exists,
            or a callback cannot be used.
        """
        if extend and total_steps is not None:
            total_steps += self.iteration * self.config.control.batch_size
        settings = {"total_steps": total_steps, "validation_interval": validation_interval}
        return fit(self, self.policy.actor, callbacks, run_dir, extend, verbose, **settings)

    def adopt(self, config: ControlRunConfig) -> None:
        """Replaces the settings that `fit` may replace: the length of the run, its folder and its validation."""
        self.config = config
        self.learner.set_num_iterations(self.num_iterations)
        self._set_up_validation()

    def _set_up_validation(self) -> None:
        control = self.config.control
        if not control.validation_interval:
            self.validation = None
        elif self.validation is None:
            play = functools.partial(self.judge, show=False)
            self.validation = Validation(play, control.validation_episodes, self.config.run.seed)

    def write_parts(self, folder: Path) -> None:
        """Does nothing: the settings name all parts of a run."""

    def save_extra(self, folder: Path) -> None:
        """Saves the state of environments that are stepped from Python."""
        if self._stepped is not None:
            self._stepped.save_environments(folder)

    def restore_extra(self, folder: Path) -> None:
        """Restores what `save_extra` saved, and prints how many environments continue exactly."""
        if self._stepped is not None:
            print(self._stepped.restore_environments(folder))

    @property
    def _stepped(self) -> GymnasiumCollector | None:
        """The collector that saves and restores environments stepped from Python; None if there is none.

        It is also None if several processes share the environments: these start new episodes when a run is resumed.
        """
        is_kept = isinstance(self.collector, GymnasiumCollector) and self.replicas.processes == 1
        return self.collector if is_kept else None

    def close(self) -> None:
        """Closes the environments."""
        if isinstance(self.collector, GymnasiumCollector):
            self.collector.close()


def make_trainer(config: ControlRunConfig, existing: ExistingRun) -> ControlTrainer:
    """Makes the trainer of an existing run, whose settings name all of its parts.

    Raises:
      UsageError: If the run was made with another environment than the given one.
    """
    env = existing.given.get("env")
    if env is not None and not isinstance(env, str):
        check_same_function(cast("MakeEnvironment", env), config.control.env)
    return ControlTrainer(config)


CONTROL = Application("control", ControlRunConfig, make_trainer, always_imported=["env", "wrappers"])
