"""The settings of a control run. No TensorFlow here, so that the command line can answer at once."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Interval

from tfppo.errors import UsageError
from tfppo.ppo.config import PPOConfig
from tfppo.settings import AtLeastZero, Count, Must, check_fields, exact_div, is_printable
from tfppo.training.config import RunConfig


def _is_environment_id(env: str) -> bool:
    parts = env.split(":")  # what stands before a colon is imported
    return is_printable(env) and len(parts) <= 2 and all(parts)


EnvironmentId = Annotated[
    str, Must(_is_environment_id, "an environment's id, such as CartPole-v1 or module:CartPole-v1")
]
Widths = Annotated[tuple[int, ...], Must(lambda widths: all(units >= 1 for units in widths), "positive widths")]


@dataclass(frozen=True, slots=True)
class ControlConfig:
    """An environment, the networks that act in it, and how much they act."""

    env: EnvironmentId = "CartPole-v1"
    """The environment's id, gymnasium's or an in-graph one's; module:id: the module is imported, and registers it."""
    backend: Literal["auto", "graph", "gymnasium"] = "auto"
    """graph: the environment is part of the compiled program; gymnasium: gymnasium's own, stepped from Python; auto:
    graph where the environment has that form."""
    vectorization: Literal["auto", "native", "sync", "async", "envpool"] = "auto"
    """gymnasium's environments: one NumPy program, one after the other, or in processes; or EnvPool's, in threads (the
    envpool extra); auto: one program where there is one, otherwise one after the other."""
    double_buffer: bool = False
    """Whether environments in processes step in two halves, the policy acting for one while the other steps: it costs a
    fifth more where environments are as quick as Pendulum, and can pay where slow ones outnumber the cores."""
    fused: bool = False
    """Whether rollout and update are one program (in-graph environments), which runs log_interval iterations a call."""
    num_envs: Count = 64
    """Environments that are stepped side by side."""
    rollout_length: Count = 64
    """Steps of each environment in a rollout."""
    total_steps: Count = 262_144
    """Steps of all environments in the run; it is num_envs x rollout_length times the iterations, rounded down."""
    hidden_units: Widths = (64, 64)
    """Widths of the hidden layers, of the actor and of the critic alike."""
    activation: Literal["tanh", "relu", "elu", "silu", "gelu"] = "tanh"
    """Activation of the hidden layers."""
    lstm_units: AtLeastZero = 0
    """Units of an LSTM in front of the hidden layers: a policy that remembers the episode; 0: none."""
    shared_trunk: bool = False
    """Whether actor and critic have their hidden layers in common."""
    box_policy: Literal["normal", "squashed", "gsde"] = "normal"
    """Continuous actions: normals, clipped; tanh of normals; normals whose noise depends on the state (gSDE)."""
    log_std_init: Annotated[float, Interval(ge=-10, le=2)] = 0.0
    """Log standard deviation of continuous actions at the start (for gsde, of each weight of its noise)."""
    gsde_interval: AtLeastZero = 4
    """Steps after which gSDE's noise is drawn anew; 0: once for a rollout."""
    normalize_observations: bool = False
    """Bring observations to mean 0 and standard deviation 1, by statistics of those that were seen, clipped to +-10."""
    normalize_rewards: bool = False
    """Divide rewards by the standard deviation of the discounted return so far, clipped to +-10."""
    target_return: float | None = None
    """Stop once 100 episodes have finished and the mean return of the latest 100 is at least this; None: never."""
    eval_episodes: AtLeastZero = 100
    """Greedy episodes on gymnasium's own environment at the end; 0: none."""
    video_episodes: Annotated[int, Interval(ge=0, le=10)] = 1
    """Greedy episodes of their own that are recorded as video.gif at the end, 10 at most; 0: none."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.box_policy == "gsde" and not self.hidden_units:
            raise UsageError("box_policy is gsde, whose noise hangs on the last hidden layer: give hidden_units")
        if self.double_buffer and self.vectorization != "async":
            raise UsageError(
                f"double_buffer is for environments in processes, and vectorization is {self.vectorization}: use async"
            )
        if self.total_steps < self.batch_size:
            raise UsageError(
                f"total_steps is {self.total_steps}, less than one rollout of num_envs x rollout_length = "
                f"{self.batch_size} steps: raise total_steps or make the rollout smaller"
            )

    @property
    def batch_size(self) -> int:
        """Transitions in a rollout."""
        return self.num_envs * self.rollout_length

    @property
    def num_iterations(self) -> int:
        """Rollouts, each followed by an update, in the run."""
        return self.total_steps // self.batch_size


@dataclass(frozen=True, slots=True)
class ControlRunConfig:
    """Everything that defines a control run: what config.yaml holds."""

    run: RunConfig = field(default_factory=RunConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)

    def __post_init__(self) -> None:
        check_fields(self)
        exact_div(self.control.batch_size, self.ppo.minibatch_size, "num_envs x rollout_length", "minibatch_size")
        if self.control.lstm_units:  # whose minibatches are environments with their whole time
            exact_div(self.ppo.minibatch_size, self.control.rollout_length, "minibatch_size", "rollout_length")
            pieces = self.control.rollout_length * self.ppo.num_micro_batches
            exact_div(self.ppo.minibatch_size, pieces, "minibatch_size", "rollout_length x num_micro_batches")
        if self.ppo.minibatch_size == 1 and self.ppo.normalize_advantages:
            raise UsageError(
                "minibatch_size is 1, where normalize_advantages makes every advantage 0 and nothing is learnt: raise "
                "minibatch_size, or set normalize_advantages to False"
            )
        if self.ppo.kl_in == "reward":
            raise UsageError("kl_in is reward, but only text has a reference whose KL could be part of it: use loss")
