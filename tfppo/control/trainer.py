"""Training a policy for control: the loop, and the run around it."""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import gymnasium
import keras
import tensorflow as tf
from gymnasium.vector import VectorEnv

from tfppo.control.config import ControlConfig, ControlRunConfig
from tfppo.control.envs import classic  # noqa: F401 (registers its environments)
from tfppo.control.envs.environment import IN_GRAPH_ENVIRONMENTS, Environment, registered_id
from tfppo.control.envs.vector import check_twin, make_vector_environments
from tfppo.control.policies.actor_critic import ActorCriticPolicy
from tfppo.control.policies.heads import make_head
from tfppo.control.policies.networks import fit_actor, fit_critic, make_actor, make_critic, make_shared
from tfppo.control.policies.policy import ControlPolicy
from tfppo.control.policies.recurrent import make_recurrent
from tfppo.control.rollouts.batches import revalue, to_batch
from tfppo.control.rollouts.fused import fused_iterations
from tfppo.control.rollouts.graph import GraphCollector
from tfppo.control.rollouts.gymnasium import GymnasiumCollector
from tfppo.control.rollouts.normalization import Normalization
from tfppo.errors import UsageError
from tfppo.execution.compilation import choose_compilation
from tfppo.execution.devices import choose_device
from tfppo.execution.distribute import make_replicas
from tfppo.execution.replicas import ALONE, Replicas
from tfppo.ppo.learner import PPOLearner
from tfppo.ppo.types import Rollout
from tfppo.training.loop import train_iterations
from tfppo.training.pipeline import rollout_dataset, rollouts_one_by_one


class ControlTrainer:
    """What a control run is made of: policy, collector, learner; and the loop that ties them.

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
        chosen = dataclasses.replace(run, compile_rollout=self.rollout_mode, compile_update=self.update_mode)
        self.config = dataclasses.replace(config, run=chosen)  # what a resumed run goes on with, wherever it is
        # Processes that share an environment in Python start new episodes when they are resumed.
        self.keeps_environments = not self.in_graph and self.replicas.processes == 1
        self._check_options()
        self.replicas.divide(control.num_envs, "num_envs")
        with tf.device(self.device):
            self.environment, self.observation_space, action_space = _make_environment(
                control, control.num_envs // self.replicas.processes, self.in_graph
            )
            self.has_choices = not isinstance(action_space, gymnasium.spaces.Box)
            with self.replicas.scope():
                self.policy = _make_policy(self.observation_space, action_space, control, run.seed, actor, critic)
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
    def modes(self) -> dict[str, str]:
        """How its programs are compiled, by what they do."""
        modes = {"rollout": self.rollout_mode, "update": self.update_mode}
        return {"fused": self.update_mode} if self.config.control.fused else modes

    @property
    def iteration(self) -> int:
        """Iterations that are done."""
        return int(self.learner.iteration.numpy())

    @property
    def episode_metrics(self) -> dict[str, float]:
        """Counts and means of the episodes that have finished, as in `metrics.METRICS`."""
        return {name: float(value) for name, value in self.collector.statistics.metrics().items()}

    @property
    def env_steps(self) -> int:
        """Environment steps that are done."""
        return int(self.episode_metrics["rollout/env_steps"])

    @property
    def weights(self) -> list[Any]:
        """The weights of the networks, in a fixed order; seeds of dropout, which is off, are none."""
        return [*self.policy.actor.weights, *self.policy.critic.weights]

    @property
    def state(self) -> dict[str, Any]:
        """Everything that the run needs to go on, by name."""
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

    def iterations(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Trains, from where the learner is to the end of the run; yields each iteration's number and metrics.

        Raises:
          UsageError: if too many updates in a row were skipped because something was not finite.
          What an environment raised.
        """
        control = self.config.control
        if control.fused:
            yield from self._fused_iterations()
            return
        start, began = self.iteration, time.perf_counter()
        make_rollouts = rollout_dataset if self.replicas.count == 1 else rollouts_one_by_one
        dataset = make_rollouts(self.collector.collect, start, self.device)
        for iteration in train_iterations(
            dataset, self.learner, start, control.num_iterations, self.device, self.collector
        ):
            if iteration.number == start:
                self.compile_seconds = time.perf_counter() - began
            yield iteration.number, iteration.metrics | {"time/env_steps_per_s": control.batch_size / iteration.seconds}

    def _fused_iterations(self) -> Iterator[tuple[int, dict[str, float]]]:
        run, control = self.config.run, self.config.control
        intervals = (run.log_interval, run.checkpoint_interval)
        calls = fused_iterations(
            self.collector, self.learner, control.num_iterations, self.device, self.update_mode, intervals
        )
        for number, count, row, seconds in calls:
            self.compile_seconds = self.compile_seconds or seconds
            yield number, row | {"time/env_steps_per_s": count * control.batch_size / seconds}

    def close(self) -> None:
        """Closes the environments."""
        if isinstance(self.collector, GymnasiumCollector):
            self.collector.close()


def _make_environment(
    control: ControlConfig, num_envs: int, in_graph: bool
) -> tuple[Environment | list[VectorEnv], gymnasium.Space, gymnasium.Space]:
    """The environment or, where Python steps it, `num_envs` of them; and the spaces of a single copy's observations and
    actions."""
    if not in_graph:
        environments = make_vector_environments(control.env, num_envs, control.vectorization, control.double_buffer)
        return environments, environments[0].single_observation_space, environments[0].single_action_space
    make = IN_GRAPH_ENVIRONMENTS.get(registered_id(control.env))
    if make is None:
        raise UsageError(
            f"{control.env!r} is not an in-graph environment; those are {', '.join(IN_GRAPH_ENVIRONMENTS)}: "
            f"choose one, or use --backend gymnasium"
        )
    environment = make()
    check_twin(control.env, environment)
    return environment, environment.observation_space, environment.action_space


def _make_policy(
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    control: ControlConfig,
    seed: int,
    actor: keras.Model | None,
    critic: keras.Model | None,
) -> ControlPolicy:
    features = control.hidden_units[-1] if control.hidden_units else 0
    head = make_head(action_space, control.box_policy, features, control.gsde_interval)
    layers = {"hidden_units": control.hidden_units, "activation": control.activation, "seed": seed}
    log_std = {"log_std_init": control.log_std_init}
    is_given = actor is not None or critic is not None
    if is_given and (control.lstm_units or control.shared_trunk):
        raise UsageError(
            "models of your own go with lstm_units = 0 and shared_trunk = False: give both, sharing layers"
        )
    if control.lstm_units and control.shared_trunk:
        raise UsageError("shared_trunk is for policies without a memory: leave it out, or set lstm_units to 0")
    if control.lstm_units:
        return make_recurrent(observation_space, head, control.lstm_units, **layers, **log_std)
    if control.shared_trunk:
        return ActorCriticPolicy(*make_shared(observation_space, head, **layers, **log_std), head)
    actor = (
        make_actor(observation_space, head, **layers, **log_std) if actor is None else fit_actor(actor, head, **log_std)
    )
    critic = make_critic(observation_space, **layers) if critic is None else fit_critic(critic)
    return ActorCriticPolicy(actor, critic, head)


def make_collector(
    policy: ControlPolicy,
    environment: Environment | list[VectorEnv],
    normalization: Normalization,
    control: ControlConfig,
    seed: int,
    mode: str,
    replicas: Replicas = ALONE,
) -> GraphCollector | GymnasiumCollector:
    """A collector that acts in the environment, whose episodes start anew; `mode` is how it is compiled."""
    options = {"normalization": normalization, "seed": seed, "mode": mode, "replicas": replicas}
    if isinstance(environment, list):
        return GymnasiumCollector(policy, environment, control.rollout_length, **options)
    return GraphCollector(policy, environment, control.num_envs, control.rollout_length, **options)
