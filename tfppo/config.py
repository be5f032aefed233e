"""The settings of a run: frozen dataclasses, validated when they are made, in and out of YAML. No TensorFlow here,
so that the command line can answer at once."""

import dataclasses
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from tfppo.errors import UsageError

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
    kl_coeff: float = 0.0
    """Weight of the KL penalty (Schulman et al. 2017, eq. 8), at the start where a rule adapts it; 0: only measured."""
    kl_rule: Literal["fixed", "schulman", "ziegler"] = "fixed"
    """How the weight moves after each iteration: not at all, Schulman et al. 2017 sec. 4, or Ziegler et al. 2019."""
    kl_target: float = 0.01
    """The KL that an adaptive rule aims at."""
    kl_horizon: int = 10_000
    """Ziegler's horizon, in episodes."""
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
    num_epochs: int = 8
    """Passes over each rollout."""
    minibatch_size: int = 1024
    """Items (transitions or sequences) in a gradient step; it divides the rollout exactly."""
    num_micro_batches: int = 1
    """Pieces that a minibatch is cut into to save memory; their gradients add up to the minibatch's."""

    def __post_init__(self):
        _check_types(self)
        _check(self, "learning_rate", "positive", lambda v: v > 0)
        for name in ("warmup_iterations", "value_coeff", "entropy_coeff", "kl_coeff"):
            _check(self, name, "at least 0", lambda v: v >= 0)
        for name in ("clip_ratio", "value_clip", "kl_target", "target_kl", "max_grad_norm", "adam_epsilon"):
            _check(self, name, "positive", lambda v: v > 0)
        _check(self, "dual_clip", "above 1", lambda v: v > 1)
        for name in ("gamma", "gae_lambda"):
            _check(self, name, "between 0 and 1", lambda v: 0 <= v <= 1)
        for name in ("kl_horizon", "num_epochs", "minibatch_size", "num_micro_batches"):
            _check(self, name, "at least 1", lambda v: v >= 1)
        if self.kl_rule != "fixed" and self.kl_coeff == 0:
            raise UsageError(f"kl_rule {self.kl_rule} multiplies kl_coeff, which is 0 and would stay so: start above 0")
        exact_div(self.minibatch_size, self.num_micro_batches, "minibatch_size", "num_micro_batches")


@dataclass(frozen=True, slots=True)
class ControlConfig:
    """An environment, the networks that act in it, and how much they act."""

    env: str = "CartPole-v1"
    """The environment's gymnasium id."""
    backend: Literal["auto", "graph", "gymnasium"] = "auto"
    """graph: the environment is part of the compiled program; gymnasium: gymnasium's own, stepped from Python; auto:
    graph where the environment has that form."""
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
    target_return: float | None = None
    """Stop once 100 episodes have finished and the mean return of the latest 100 is at least this; None: never."""
    eval_episodes: int = 100
    """Greedy episodes on gymnasium's own environment at the end; 0: none."""

    def __post_init__(self):
        _check_types(self)
        for name in ("num_envs", "rollout_length", "total_steps"):
            _check(self, name, "at least 1", lambda v: v >= 1)
        _check(self, "target_return", "a finite number", lambda v: True)
        _check(self, "eval_episodes", "at least 0", lambda v: v >= 0)
        _check(self, "hidden_units", "positive widths", lambda v: all(units >= 1 for units in v))
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
    """How the rollout is compiled; auto: by a rule over device and batch size."""
    compile_update: CompileMode = "auto"
    """How the update is compiled; auto: by a rule over device and batch size."""
    log_interval: int = 1
    """Iterations between two rows of metrics."""
    checkpoint_interval: int = 20
    """Iterations between two checkpoints; one more is written at the end."""
    keep_checkpoints: int = 3
    """Checkpoints that are kept, the latest ones."""

    def __post_init__(self):
        _check_types(self)
        _check(self, "seed", "between 0 and 2**31 - 1", lambda v: 0 <= v < 2**31)
        for name in ("log_interval", "checkpoint_interval", "keep_checkpoints"):
            _check(self, name, "at least 1", lambda v: v >= 1)
        _check(self, "name", "a plain folder name", _is_folder_name)


@dataclass(frozen=True, slots=True)
class ControlRun:
    """Everything that defines a control run: what config.yaml holds."""

    run: RunConfig = field(default_factory=RunConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)

    def __post_init__(self):
        _check_types(self)
        exact_div(self.control.batch_size, self.ppo.minibatch_size, "num_envs x rollout_length", "minibatch_size")


def _is_folder_name(name: str) -> bool:
    return name not in ("", ".", "..") and name.isprintable() and not set(name) & set("/\\")


def exact_div(dividend: int, divisor: int, dividend_name: str, divisor_name: str) -> int:
    """The quotient of two whole numbers, or a UsageError that names both when there is a remainder."""
    if dividend % divisor:
        raise UsageError(f"{dividend_name} = {dividend} is not a multiple of {divisor_name} = {divisor}: change one")
    return dividend // divisor


def to_yaml(config: Any) -> str:
    """The YAML text of a config dataclass; `from_yaml` reads it back equal."""
    return yaml.safe_dump(_to_plain(config), sort_keys=False)


def from_yaml(config_class: type, text: str) -> Any:
    """A config dataclass from its YAML text. Raises UsageError on text that is no such config, naming the field."""
    try:
        plain = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"not a YAML text: {' '.join(str(error).split())}") from None
    return _from_plain(config_class, plain, config_class.__name__)


def _to_plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_to_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _from_plain(config_class: type, plain: Any, where: str) -> Any:
    if not isinstance(plain, dict):
        raise UsageError(f"{where} must be a mapping of settings, not {type(plain).__name__}")
    hints = typing.get_type_hints(config_class)
    unknown = [" ".join(str(name).split()) for name in plain if name not in hints]
    if unknown:
        raise UsageError(f"{where} has no setting {', '.join(unknown)}; its settings are {', '.join(hints)}")
    arguments = {}
    for name, value in plain.items():
        if dataclasses.is_dataclass(hints[name]):
            arguments[name] = _from_plain(hints[name], value, name)
        elif hints[name] is Path and isinstance(value, str):
            arguments[name] = Path(value)
        else:
            arguments[name] = tuple(value) if isinstance(value, list) else value
    return config_class(**arguments)


def _check(config: Any, name: str, wanted: str, holds) -> None:
    """Raises UsageError unless the field is None, or finite and as wanted."""
    value = getattr(config, name)
    if value is not None and ((isinstance(value, float) and not math.isfinite(value)) or not holds(value)):
        raise UsageError(f"{name} must be {wanted}, not {value!r}")


def _check_types(config: Any) -> None:
    for name, hint in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if not _is_a(value, hint):
            wanted = getattr(hint, "__name__", str(hint)) if not typing.get_args(hint) else _wanted(hint)
            raise UsageError(f"{name} must be {wanted}, not {value!r}")


def _wanted(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    return str(hint).replace("typing.", "")


def _is_a(value: Any, hint: Any) -> bool:
    if typing.get_origin(hint) is Literal:
        return value in typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(_is_a(value, h) for h in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_is_a(v, typing.get_args(hint)[0]) for v in value)
    if hint in (int, float):
        return isinstance(value, (int,) if hint is int else (int, float)) and not isinstance(value, bool)
    return isinstance(value, hint)
