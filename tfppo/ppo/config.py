"""The settings of PPO. No TensorFlow here, so that the command line can answer at once."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt

from tfppo.errors import UsageError
from tfppo.settings import AtLeastZero, Count, Fraction, NotNegative, Positive, PositiveOrNone, check_fields, exact_div

Schedule = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True, slots=True)
class PPOConfig:
    """Proximal policy optimisation. Defaults are those of the in-graph CartPole recipe (benchmarks/results)."""

    learning_rate: Positive = 4e-3
    """Adam's step size at the start."""
    learning_rate_schedule: Schedule = "linear"
    """How the learning rate goes from its start to 0 over the iterations of the run (Huang et al. 2022, detail 4)."""
    warmup_iterations: AtLeastZero = 0
    """Iterations over which the learning rate first rises linearly from 0 (the document, Q2)."""
    clip_ratio: Positive = 0.2
    """Epsilon of the clipped surrogate (Schulman et al. 2017, eq. 7)."""
    clip_ratio_schedule: Schedule = "constant"
    """How the clip ratio goes to 0 over the iterations of the run."""
    dual_clip: Annotated[float | None, Gt(1)] = None
    """Lower bound -c A of the surrogate where A < 0, c > 1 (Ye et al. 2020); None: off."""
    value_clip: PositiveOrNone = None
    """How far a value may move from its old one in an update before its loss is clipped; None: off."""
    value_coeff: NotNegative = 0.5
    """Weight of the value loss, which carries its own 1/2: SB3's vf_coef 0.5 is 1.0 here, CleanRL's 0.5 is 0.5."""
    entropy_coeff: NotNegative = 0.01
    """Weight of the entropy bonus."""
    entropy_coeff_schedule: Schedule = "constant"
    """How the weight of the entropy bonus goes to 0 over the iterations of the run."""
    kl_coeff: NotNegative = 0.0
    """Weight of the KL penalty (Schulman et al. 2017, eq. 8), at the start where a rule adapts it; 0: only measured."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Where the KL penalty goes: a term of the loss, or (text only) taken off each reward [Ziegler et al. 2019]."""
    kl_controller: Literal["fixed", "schulman", "ziegler"] = "fixed"
    """How the weight moves after each iteration: not at all, Schulman et al. 2017 sec. 4, or Ziegler et al. 2019."""
    adaptive_kl_target: Positive = 0.01
    """The KL that an adaptive rule aims at."""
    kl_horizon: Count = 10_000
    """Ziegler's horizon, in responses; in control in transitions, with a memory in environments of a rollout."""
    target_kl: PositiveOrNone = None
    """Stop the epochs of an iteration when a minibatch's approximate KL exceeds 1.5 times this; None: never."""
    max_grad_norm: PositiveOrNone = 0.5
    """Gradients are clipped to this global norm; None: never."""
    adam_epsilon: Positive = 1e-5
    """Adam's epsilon (Huang et al. 2022, detail 3)."""
    gamma: Fraction = 0.98
    """Discount factor."""
    gae_lambda: Fraction = 0.9
    """Lambda of generalised advantage estimation (Schulman et al. 2016)."""
    normalize_advantages: bool = True
    """Whiten the advantages of each minibatch."""
    recompute_advantages: bool = False
    """Compute advantages and returns anew before each epoch, by the values as they then are (control; Andrychowicz et
    al. 2021)."""
    num_epochs: Count = 8
    """Passes over each rollout."""
    minibatch_size: Count = 1024
    """Transitions (text: responses) in a gradient step; it divides the rollout exactly."""
    num_micro_batches: Count = 1
    """Pieces that a minibatch is cut into to save memory; their gradients add up to the minibatch's."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.kl_controller != "fixed" and self.kl_coeff == 0:
            raise UsageError(
                f"kl_controller {self.kl_controller} multiplies kl_coeff, which is 0 and would stay so: start above 0"
            )
        exact_div(self.minibatch_size, self.num_micro_batches, "minibatch_size", "num_micro_batches")
