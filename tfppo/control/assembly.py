"""Functions that make the parts of a control run: the environment, the policy and the collector."""

from typing import Any

import gymnasium
import keras
from gymnasium.vector import VectorEnv

from tfppo.control.config import ControlConfig, ControlRunConfig
from tfppo.control.envs import classic  # noqa: F401 (registers its environments)
from tfppo.control.envs.environment import IN_GRAPH_ENVIRONMENTS, Environment
from tfppo.control.envs.options import options_of
from tfppo.control.envs.registration import registered_id
from tfppo.control.envs.vector import check_twin, make_vector_environments
from tfppo.control.policies.actor_critic import ActorCriticPolicy
from tfppo.control.policies.heads import make_head
from tfppo.control.policies.networks import fit_actor, fit_critic, make_actor, make_critic, make_shared
from tfppo.control.policies.policy import ControlPolicy
from tfppo.control.policies.recurrent import make_recurrent
from tfppo.control.rollouts.graph import GraphCollector
from tfppo.control.rollouts.gymnasium import GymnasiumCollector
from tfppo.control.rollouts.normalization import Normalization
from tfppo.errors import UsageError
from tfppo.execution.compilation import choose_compilation
from tfppo.execution.replicas import ALONE, Replicas
from tfppo.training import run_folder
from tfppo.training.checkpoints import Checkpoints


def is_in_graph(control: ControlConfig) -> bool:
    """Returns whether the environment of a run is stepped inside the compiled program.

    Raises:
      UsageError: If the module of the environment cannot be imported.
    """
    has_graph = registered_id(control.env) in IN_GRAPH_ENVIRONMENTS
    return control.backend == "graph" or (control.backend == "auto" and has_graph and not control.has_options)


def choose_modes(config: ControlRunConfig, device: str, in_graph: bool) -> tuple[str, str]:
    """Returns the compilation modes of the rollout and of the update.

    Args:
      config: The settings of the run.
      device: TensorFlow device of the run.
      in_graph: True if the environment is stepped inside the compiled program.
    """
    run, control, ppo = config.run, config.control, config.ppo
    steps = control.num_iterations * ppo.num_epochs * (control.batch_size // ppo.minibatch_size)
    length = steps, control.lstm_units > 0
    acting = "rollout" if in_graph else "act"
    rollout = choose_compilation(run.compile_rollout, acting, device, control.num_envs, *length)
    return rollout, choose_compilation(run.compile_update, "update", device, ppo.minibatch_size, *length)


def check_options(control: ControlConfig, in_graph: bool, replicas: int) -> None:
    """Checks the settings that only some environments allow.

    Args:
      control: The settings.
      in_graph: True if the environment is an in-graph one.
      replicas: Number of replicas.

    Raises:
      UsageError: If the settings do not fit together.
    """
    env = control.env
    if in_graph and control.vectorization != "auto":
        given = f"vectorization is {control.vectorization}" + " with double_buffer" * control.double_buffer
        raise UsageError(
            f"{given}; {env} is an in-graph environment here, which allows only auto: leave it out, or use "
            "--backend gymnasium"
        )
    if control.fused and not in_graph:
        raise UsageError(
            f"fused is True and {env} is stepped by Gymnasium here; fused needs an in-graph environment: leave "
            "fused out, or choose an in-graph environment"
        )
    if control.fused and replicas > 1:
        raise UsageError(
            f"fused is True and there are {replicas} replicas; fused allows one: leave fused out, or use "
            "--distribute none"
        )


def make_environment(
    control: ControlConfig, num_envs: int, in_graph: bool
) -> tuple[Environment | list[VectorEnv], gymnasium.Space, gymnasium.Space]:
    """Makes the environment of a run.

    Args:
      control: The settings.
      num_envs: Number of copies of a Gymnasium environment; in-graph environments do not use it.
      in_graph: True makes the in-graph environment, False makes Gymnasium's vector environments.

    Returns:
      The environment or the list of vector environments, then the observation space and the action space of a single
      copy.

    Raises:
      UsageError: If there is no such environment, or it cannot be made.
    """
    if not in_graph:
        options = options_of(control.env_kwargs, control.wrappers)
        environments = make_vector_environments(
            control.env, num_envs, control.vectorization, control.double_buffer, **options
        )
        return environments, environments[0].single_observation_space, environments[0].single_action_space
    if control.has_options:
        raise UsageError(
            "env_kwargs or wrappers are given with backend graph; an in-graph environment has neither: leave them out, "
            "or use --backend gymnasium"
        )
    make = IN_GRAPH_ENVIRONMENTS.get(registered_id(control.env))
    if make is None:
        raise UsageError(
            f"env is {control.env!r}; backend graph allows only in-graph environments "
            f"({', '.join(IN_GRAPH_ENVIRONMENTS)}): choose one of them, or use --backend gymnasium"
        )
    environment = make()
    check_twin(control.env, environment)
    return environment, environment.observation_space, environment.action_space


def make_policy(
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    control: ControlConfig,
    seed: int,
    actor: keras.Model | None,
    critic: keras.Model | None,
) -> ControlPolicy:
    """Makes the policy of a run: recurrent, or an actor and a critic with shared or separate layers.

    Args:
      observation_space: The space of a single environment's observations.
      action_space: The space of a single environment's actions.
      control: The settings.
      seed: Seed of the initial weights.
      actor: The user's actor; None makes one from the settings.
      critic: The user's critic; None makes one from the settings.

    Returns:
      The policy.

    Raises:
      UsageError: If a space is not supported, or if the settings and the given models do not fit together.
    """
    features = control.hidden_units[-1] if control.hidden_units else 0
    head = make_head(action_space, control.box_policy, features, control.gsde_interval)
    layers: dict[str, Any] = {"hidden_units": control.hidden_units, "activation": control.activation, "seed": seed}
    log_std: dict[str, Any] = {"log_std_init": control.log_std_init}
    is_given = actor is not None or critic is not None
    if is_given and (control.lstm_units or control.shared_trunk):
        raise UsageError(
            "an actor or a critic is given with lstm_units or shared_trunk; given models allow neither: set lstm_units "
            "to 0 and shared_trunk to False (an actor and a critic that you give may share layers)"
        )
    if control.lstm_units and control.shared_trunk:
        raise UsageError(
            f"shared_trunk is True and lstm_units is {control.lstm_units}; a recurrent policy has no shared trunk: set "
            "shared_trunk to False, or lstm_units to 0"
        )
    if control.lstm_units:
        return make_recurrent(observation_space, head, control.lstm_units, **layers, **log_std)
    if control.shared_trunk:
        return ActorCriticPolicy(*make_shared(observation_space, head, **layers, **log_std), head)
    actor = (
        make_actor(observation_space, head, **layers, **log_std)
        if actor is None
        else fit_actor(actor, observation_space, head, **log_std)
    )
    critic = make_critic(observation_space, **layers) if critic is None else fit_critic(critic, observation_space)
    return ActorCriticPolicy(actor, critic, head)


def start_from(control: ControlConfig, policy: ControlPolicy, normalization: Normalization) -> str:
    """Gives a new run the policy and the normalization of another run, see the setting `init_from`.

    Args:
      control: The settings; `init_from` is not None.
      policy: Gets the weights.
      normalization: Gets the statistics, except for the returns of episodes that went on.

    Returns:
      A line that says where the run starts.

    Raises:
      UsageError: If the folder is no control run, or its checkpoint cannot be read or does not fit.
    """
    folder = control.init_from
    assert folder is not None
    kind = run_folder.kind_of(folder)
    if kind != "control":
        raise UsageError(f"init_from is {folder}, which is a {kind} run; it must be the folder of a control run")
    own = {"actor": policy.actor, "critic": policy.critic, "normalization": normalization.statistics}
    checkpoint = Checkpoints(folder / run_folder.CHECKPOINTS, **own).restore_part(control.init_checkpoint)
    return f"starts with the policy and the normalization of {folder}, iteration {int(checkpoint.name)}"


def make_collector(
    policy: ControlPolicy,
    environment: Environment | list[VectorEnv],
    normalization: Normalization,
    control: ControlConfig,
    seed: int,
    mode: str,
    replicas: Replicas = ALONE,
) -> GraphCollector | GymnasiumCollector:
    """Makes the collector that acts in an environment; all episodes start from the beginning.

    Args:
      policy: The policy that acts.
      environment: An in-graph environment, or a list of vector environments.
      normalization: Normalization of observations and rewards.
      control: The settings.
      seed: Seed of resets and actions.
      mode: Compilation mode: "xla", "graph" or "eager".
      replicas: The replicas that share the environments.

    Returns:
      A `GraphCollector` for an in-graph environment, a `GymnasiumCollector` for vector environments.
    """
    options: dict[str, Any] = {"normalization": normalization, "seed": seed, "mode": mode, "replicas": replicas}
    if isinstance(environment, list):
        return GymnasiumCollector(policy, environment, control.rollout_length, **options)
    return GraphCollector(policy, environment, control.num_envs, control.rollout_length, **options)
