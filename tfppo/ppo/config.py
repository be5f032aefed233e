"""The settings of PPO, of control, and of a run: frozen dataclasses, validated when they are made. No TensorFlow here,
so that the command line can answer at once."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tfppo.errors import UsageError
from tfppo.settings import check, check_seed, check_types, exact_div, is_printable

CompileMode = Literal["auto", "xla", "graph", "eager"]
Schedule = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True, slots=True)
class PPOConfig:
    """Proximal policy optimisation. Defaults are those of the in-graph CartPole recipe (benchmarks/results)."""

    learning_rate: float = 4e-3
    """Adam's step size at the start."""
    learning_rate_schedule: Schedule = "linear"
    """How the learning rate goes from its start to 0 over the iterations of the run (Huang et al. 2022, detail 4)."""
    warmup_iterations: int = 0
    """Iterations over which the learning rate first rises linearly from 0 (the document, Q2)."""
    clip_ratio: float = 0.2
    """Epsilon of the clipped surrogate (Schulman et al. 2017, eq. 7)."""
    clip_ratio_schedule: Schedule = "constant"
    """How the clip ratio goes to 0 over the iterations of the run."""
    dual_clip: float | None = None
    """Lower bound -c A of the surrogate where A < 0, c > 1 (Ye et al. 2020); None: off."""
    value_clip: float | None = None
    """How far a value may move from its old one in an update before its loss is clipped; None: off."""
    value_coeff: float = 0.5
    """Weight of the value loss, which carries its own 1/2: SB3's vf_coef 0.5 is 1.0 here, CleanRL's 0.5 is 0.5."""
    entropy_coeff: float = 0.01
    """Weight of the entropy bonus."""
    entropy_coeff_schedule: Schedule = "constant"
    """How the weight of the entropy bonus goes to 0 over the iterations of the run."""
    kl_coeff: float = 0.0
    """Weight of the KL penalty (Schulman et al. 2017, eq. 8), at the start where a rule adapts it; 0: only measured."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Where the KL penalty goes: a term of the loss, or (text only) taken off each reward [Ziegler et al. 2019]."""
    kl_rule: Literal["fixed", "schulman", "ziegler"] = "fixed"
    """How the weight moves after each iteration: not at all, Schulman et al. 2017 sec. 4, or Ziegler et al. 2019."""
    kl_target: float = 0.01
    """The KL that an adaptive rule aims at."""
    kl_horizon: int = 10_000
    """Ziegler's horizon, in responses; in control in transitions, with a memory in environments of a rollout."""
    target_kl: float | None = None
    """Stop the epochs of an iteration when a minibatch's approximate KL exceeds 1.5 times this; None: never."""
    max_grad_norm: float | None = 0.5
    """Gradients are clipped to this global norm; None: never."""
    adam_epsilon: float = 1e-5
    """Adam's epsilon (Huang et al. 2022, detail 3)."""
    gamma: float = 0.98
    """Discount factor."""
    gae_lambda: float = 0.9
    """Lambda of generalised advantage estimation (Schulman et al. 2016)."""
    normalize_advantages: bool = True
    """Whiten the advantages of each minibatch."""
    recompute_advantages: bool = False
    """Compute advantages and returns anew before each epoch, by the values as they then are (control; Andrychowicz et
    al. 2021)."""
    num_epochs: int = 8
    """Passes over each rollout."""
    minibatch_size: int = 1024
    """Items (transitions or sequences) in a gradient step; it divides the rollout exactly."""
    num_micro_batches: int = 1
    """Pieces that a minibatch is cut into to save memory; their gradients add up to the minibatch's."""

    def __post_init__(self):
        check_types(self)
        check(self, "learning_rate", "positive", lambda v: v > 0)
        for name in ("warmup_iterations", "value_coeff", "entropy_coeff", "kl_coeff"):
            check(self, name, "at least 0", lambda v: v >= 0)
        for name in ("clip_ratio", "value_clip", "kl_target", "target_kl", "max_grad_norm", "adam_epsilon"):
            check(self, name, "positive", lambda v: v > 0)
        check(self, "dual_clip", "above 1", lambda v: v > 1)
        for name in ("gamma", "gae_lambda"):
            check(self, name, "between 0 and 1", lambda v: 0 <= v <= 1)
        for name in ("kl_horizon", "num_epochs", "minibatch_size", "num_micro_batches"):
            check(self, name, "at least 1", lambda v: v >= 1)
        if self.kl_rule != "fixed" and self.kl_coeff == 0:
            raise UsageError(f"kl_rule {self.kl_rule} multiplies kl_coeff, which is 0 and would stay so: start above 0")
        exact_div(self.minibatch_size, self.num_micro_batches, "minibatch_size", "num_micro_batches")


@dataclass(frozen=True, slots=True)
class ControlConfig:
    """An environment, the networks that act in it, and how much they act."""

    env: str = "CartPole-v1"
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
    num_envs: int = 64
    """Environments that are stepped side by side."""
    rollout_length: int = 64
    """Steps of each environment in a rollout."""
    total_steps: int = 262_144
    """Steps of all environments in the run; it is num_envs x rollout_length times the iterations, rounded down."""
    hidden_units: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers, of the actor and of the critic alike."""
    activation: Literal["tanh", "relu", "elu", "silu", "gelu"] = "tanh"
    """Activation of the hidden layers."""
    lstm_units: int = 0
    """Units of an LSTM in front of the hidden layers: a policy that remembers the episode; 0: none."""
    shared_trunk: bool = False
    """Whether actor and critic have their hidden layers in common."""
    box_policy: Literal["normal", "squashed", "gsde"] = "normal"
    """Continuous actions: normals, clipped; tanh of normals; normals whose noise depends on the state (gSDE)."""
    log_std_init: float = 0.0
    """Log standard deviation of continuous actions at the start (for gsde, of each weight of its noise)."""
    gsde_interval: int = 4
    """Steps after which gSDE's noise is drawn anew; 0: once for a rollout."""
    normalize_observations: bool = False
    """Bring observations to mean 0 and standard deviation 1, by statistics of those that were seen, clipped to +-10."""
    normalize_rewards: bool = False
    """Divide rewards by the standard deviation of the discounted return so far, clipped to +-10."""
    target_return: float | None = None
    """Stop once 100 episodes have finished and the mean return of the latest 100 is at least this; None: never."""
    eval_episodes: int = 100
    """Greedy episodes on gymnasium's own environment at the end; 0: none."""
    video_episodes: int = 1
    """Greedy episodes of their own that are recorded as video.gif at the end, 10 at most; 0: none."""

    def __post_init__(self):
        check_types(self)
        check(self, "env", "an environment's id, such as CartPole-v1 or module:CartPole-v1", _is_environment_id)
        for name in ("num_envs", "rollout_length", "total_steps"):
            check(self, name, "at least 1", lambda v: v >= 1)
        for name in ("eval_episodes", "gsde_interval", "lstm_units"):
            check(self, name, "at least 0", lambda v: v >= 0)
        check(self, "video_episodes", "between 0 and 10", lambda v: 0 <= v <= 10)
        check(self, "log_std_init", "between -10 and 2", lambda v: -10 <= v <= 2)
        check(self, "hidden_units", "positive widths", lambda v: all(units >= 1 for units in v))
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
class RunConfig:
    """Where a run lives, what it is seeded with, and how it is executed and kept."""

    seed: int = 1
    """Seed of everything random in the run."""
    name: str | None = None
    """Name of the run's folder; None: the task's name and the seed."""
    runs_dir: Path = Path("runs")
    """Folder that holds the runs."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where it runs; auto: by a rule that the run prints."""
    compile_rollout: CompileMode = "auto"
    """How the rollout is compiled; auto: by a rule over device, batch size and length of the run."""
    compile_update: CompileMode = "auto"
    """How the update is compiled; auto: by a rule over device, batch size and length of the run."""
    deterministic: bool = True
    """Whether TensorFlow runs its deterministic operations only (tf.config.experimental.enable_op_determinism)."""
    threads: int = 0
    """CPU threads within an operation, and operations side by side; 0: as many as there are cores. Sums are split by
    it: the same bits want the same number, which a run keeps."""
    distribute: Literal["auto", "none", "mirrored", "multiworker"] = "auto"
    """What shares the rollout and each minibatch: mirrored: all GPUs of this process; multiworker: the processes that
    TF_CONFIG names; auto: those if it names several, or else all GPUs if the run is on one."""
    log_interval: int = 1
    """Iterations between two rows of metrics."""
    checkpoint_interval: int = 20
    """Iterations between two checkpoints; one more is written at the end."""
    keep_checkpoints: int = 3
    """Checkpoints that are kept: the latest ones, and beside them the best by training's score."""

    def __post_init__(self):
        check_types(self)
        check_seed(self)
        check(self, "threads", "between 0 and 1024", lambda v: 0 <= v <= 1024)
        for name in ("log_interval", "checkpoint_interval", "keep_checkpoints"):
            check(self, name, "at least 1", lambda v: v >= 1)
        check(self, "name", "a plain folder name", _is_folder_name)


@dataclass(frozen=True, slots=True)
class ControlRun:
    """Everything that defines a control run: what config.yaml holds."""

    run: RunConfig = field(default_factory=RunConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)

    def __post_init__(self):
        check_types(self)
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


def _is_environment_id(env: str) -> bool:
    parts = env.split(":")  # what stands before a colon is imported
    return is_printable(env) and len(parts) <= 2 and all(parts)


def _is_folder_name(name: str) -> bool:
    return is_printable(name) and name not in (".", "..") and not set(name) & set("/\\")
