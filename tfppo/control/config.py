"""The settings of a control run.

This module does not import TensorFlow, so that the command line starts fast.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Interval

from tfppo.control.envs.options import format_env_kwargs, parse_env_kwargs, parse_wrapper
from tfppo.errors import UsageError
from tfppo.ppo.config import PPOConfig
from tfppo.settings import AtLeastZero, Count, CountOrNone, Must, check_fields, exact_div, is_printable
from tfppo.training.config import RunConfig


def _is_environment_id(env: str) -> bool:
    parts = env.split(":")  # module:ID, or ID
    return is_printable(env) and len(parts) <= 2 and all(parts)


EnvironmentId = Annotated[str, Must(_is_environment_id, "an environment ID such as CartPole-v1 or module:CartPole-v1")]
Checkpoint = Annotated[
    str, Must(lambda name: name in ("latest", "best") or name.isdecimal(), "latest, best or a number")
]
Widths = Annotated[tuple[int, ...], Must(lambda widths: all(units >= 1 for units in widths), "integers of at least 1")]


@dataclass(frozen=True, slots=True)
class ControlConfig:
    """The settings of the environment, the policy networks and the rollouts."""

    env: EnvironmentId = "CartPole-v1"
    """ID of an environment that is registered with Gymnasium or with tfppo.register_environment.
    module:ID imports the module first, which can register the environment.
    """
    recipe: str | None = None
    """ID of another environment, whose recipe gives the settings that you do not give, except for arguments of the
    environment. None: the recipe of env, if it has one. tfppo train control and make_control_config use it.
    """
    env_kwargs: tuple[str, ...] = ()
    """Arguments of the environment's constructor, as key=value; a value as in YAML, such as size=5 or goal=[1,2].
    In Python also a dictionary.
    """
    eval_env_kwargs: tuple[str, ...] = ()
    """Arguments of the environment's constructor in the evaluation and the video, besides env_kwargs and in place of
    those of the same name; for rewards that only the training changes, such as Atari's reward_clipping=false.
    """
    wrappers: tuple[str, ...] = ()
    """Wrappers of each copy of the environment, the innermost first: names in gymnasium.wrappers, or module:Class.
    Arguments are in brackets, such as "TimeLimit(max_episode_steps=100)".
    """
    backend: Literal["auto", "graph", "gymnasium"] = "auto"
    """graph: an in-graph environment, which is stepped inside the compiled program.
    gymnasium: a Gymnasium environment, which is stepped from Python.
    auto: graph if the environment has an in-graph form, gymnasium otherwise.
    """
    vectorization: Literal["auto", "native", "sync", "async", "envpool"] = "auto"
    """Vectorization of Gymnasium environments. native: one NumPy program for all of them.
    sync: one after the other in this process. async: each in its own process.
    envpool: EnvPool's environments, in threads (needs the envpool extra).
    auto: native if the environment has a native form, sync otherwise.
    """
    double_buffer: bool = False
    """Steps the environments in two halves: the policy acts for one half while the other half steps.
    Needs vectorization async. It can help if there are more slow environments than CPU cores.
    It makes fast environments such as Pendulum about a fifth slower.
    """
    fused: bool = False
    """Compiles rollout and update into one program, which runs up to log_interval iterations in one call.
    Needs an in-graph environment.
    """
    num_envs: Count = 64
    """Number of environments that are stepped in parallel."""
    rollout_length: Count = 64
    """Steps of each environment in a rollout."""
    total_steps: Count = 262_144
    """Steps of the whole run, in all environments, including steps that only start a new episode.
    It is rounded down to whole rollouts of num_envs x rollout_length steps."""
    hidden_units: Widths = (64, 64)
    """Widths of the hidden layers, for both the actor and the critic. Empty: no hidden layers."""
    activation: Literal["tanh", "relu", "elu", "silu", "gelu"] = "tanh"
    """Activation function of the hidden layers."""
    lstm_units: AtLeastZero = 0
    """Units of an LSTM in front of the hidden layers, for a policy that remembers the episode. 0: no LSTM."""
    shared_trunk: bool = False
    """Shares the hidden layers between the actor and the critic."""
    box_policy: Literal["normal", "squashed", "gsde"] = "normal"
    """Distribution of continuous actions. normal: normal distributions; actions are clipped to the action space.
    squashed: tanh of normal distributions, scaled to the action space.
    gsde: normal distributions with state-dependent noise (gSDE, Raffin et al. 2022).
    """
    log_std_init: Annotated[float, Interval(ge=-10, le=2)] = 0.0
    """Initial log standard deviation of continuous actions. With box_policy gsde: of each noise weight."""
    gsde_interval: AtLeastZero = 4
    """Steps after which gSDE draws new noise. 0: once per rollout."""
    normalize_observations: bool = False
    """Normalizes observations to mean 0 and standard deviation 1 with running statistics, and clips them to [-10, 10].
    """
    normalize_rewards: bool = False
    """Divides rewards by the running standard deviation of the discounted return, and clips them to [-10, 10]."""
    target_return: float | None = None
    """Stops the run once 100 episodes have finished and the last 100 have at least this mean return.
    None: the run does not stop early.
    """
    init_from: Path | None = None
    """Folder of another control run. This run starts from its policy and its normalization.
    The optimizer and the schedules are new. None: new weights.
    """
    init_checkpoint: Checkpoint = "latest"
    """Checkpoint of init_from: latest, best or the number of an iteration."""
    eval_episodes: AtLeastZero = 100
    """Episodes of the final evaluation in Gymnasium's own environment.
    This many are played with greedy actions, and as many with sampled actions. 0: no evaluation.
    """
    eval_max_steps: CountOrNone = None
    """Time limit of an episode in the evaluation, in steps.
    None: the limit of the environment, or 10,000 steps if it has none.
    """
    validation_interval: AtLeastZero = 0
    """Iterations after which the policy plays validation episodes, in environments of their own and with the present
    normalization; the best checkpoint is then chosen by them. 0: no validation.
    """
    validation_episodes: Count = 20
    """Greedy episodes of a validation; as many are played with sampled actions."""
    video_episodes: Annotated[int, Interval(ge=0, le=10)] = 1
    """Greedy episodes that are recorded in video.gif at the end of the run, at most 10. 0: no video.
    They are not the episodes of the evaluation.
    """

    def __post_init__(self) -> None:
        for name in ("env_kwargs", "eval_env_kwargs"):
            if isinstance(getattr(self, name), Mapping):
                object.__setattr__(self, name, format_env_kwargs(getattr(self, name)))
        check_fields(self)
        parse_env_kwargs(self.env_kwargs)
        parse_env_kwargs(self.eval_env_kwargs, "eval_env_kwargs")
        for wrapper in self.wrappers:
            parse_wrapper(wrapper)
        if self.box_policy == "gsde" and not self.hidden_units:
            raise UsageError(
                "box_policy is gsde and hidden_units is empty; gsde needs the features of a hidden layer: set "
                "hidden_units, or set box_policy to normal"
            )
        if self.double_buffer and self.vectorization != "async":
            raise UsageError(
                f"double_buffer is True and vectorization is {self.vectorization}; double_buffer needs vectorization "
                "async: set vectorization to async, or double_buffer to False"
            )
        if self.total_steps < self.batch_size:
            raise UsageError(
                f"total_steps is {self.total_steps}; it must be at least one rollout of num_envs x rollout_length = "
                f"{self.batch_size} steps: raise total_steps, or lower num_envs or rollout_length"
            )

    @property
    def has_options(self) -> bool:
        """True if the environment has arguments or wrappers, which only Gymnasium's environments can have."""
        return bool(self.env_kwargs or self.wrappers)

    @property
    def batch_size(self) -> int:
        """Transitions in a rollout: num_envs x rollout_length."""
        return self.num_envs * self.rollout_length

    @property
    def num_iterations(self) -> int:
        """Iterations of the run; each is a rollout and an update."""
        return self.total_steps // self.batch_size


@dataclass(frozen=True, slots=True)
class ControlRunConfig:
    """All settings of a control run; config.yaml holds them."""

    run: RunConfig = field(default_factory=RunConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)

    def __post_init__(self) -> None:
        check_fields(self)
        exact_div(self.control.batch_size, self.ppo.minibatch_size, "num_envs x rollout_length", "minibatch_size")
        if self.control.lstm_units:  # a minibatch then holds whole environments, with all steps of the rollout
            exact_div(self.ppo.minibatch_size, self.control.rollout_length, "minibatch_size", "rollout_length")
            pieces = self.control.rollout_length * self.ppo.num_micro_batches
            exact_div(self.ppo.minibatch_size, pieces, "minibatch_size", "rollout_length x num_micro_batches")
        if self.ppo.minibatch_size == 1 and self.ppo.normalize_advantages:
            raise UsageError(
                "minibatch_size is 1 and normalize_advantages is True; every advantage would then be 0, and the policy "
                "would learn nothing: raise minibatch_size, or set normalize_advantages to False"
            )
        for name, default in (("loss_average", "tokens"), ("kl_estimator", "k2")):
            if (given := getattr(self.ppo, name)) != default:
                raise UsageError(f"{name} is {given}; a control run allows only {default}: leave {name} out")
        if self.ppo.kl_in == "reward":
            raise UsageError(
                "kl_in is reward; a control run allows only loss, because only text runs have a reference policy: set "
                "kl_in to loss"
            )
