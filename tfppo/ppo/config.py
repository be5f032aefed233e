"""The settings of PPO.

This module does not import TensorFlow, so that the command line starts fast.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt, Interval

from tfppo.errors import UsageError
from tfppo.settings import AtLeastZero, Count, Fraction, NotNegative, Positive, PositiveOrNone, check_fields, exact_div

Schedule = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True, slots=True)
class PPOConfig:
    """The settings of proximal policy optimization (PPO)."""

    optimizer: Literal["adam", "adamw", "rmsprop", "sgd"] = "adam"
    """The optimizer (docs/article, 3.2.4 and Q2). adam: Kingma and Ba 2015.
    adamw: Adam with weight decay (Loshchilov and Hutter 2019). rmsprop: Tieleman and Hinton 2012.
    sgd: plain gradient descent.
    """
    learning_rate: Positive = 4e-3
    """Step size of the optimizer at the start of the run."""
    learning_rate_schedule: Schedule = "linear"
    """Schedule of the learning rate over the run; linear and cosine end at 0 (Huang et al. 2022, detail 4)."""
    warmup_iterations: AtLeastZero = 0
    """Number of iterations at the start in which the learning rate rises linearly (docs/article, Q2)."""
    clip_ratio: Positive = 0.2
    """Epsilon of the clipped surrogate loss (Schulman et al. 2017, eq. 7)."""
    clip_ratio_high: PositiveOrNone = None
    """Epsilon of the upper bound, where it is another: ratios are clipped to 1 - clip_ratio and 1 + clip_ratio_high
    (DAPO, Yu et al. 2025). None: that of clip_ratio.
    """
    clip_ratio_schedule: Schedule = "constant"
    """Schedule of the clip ratio, and of clip_ratio_high, over the run; linear and cosine end at 0."""
    dual_clip: Annotated[float | None, Gt(1)] = None
    """Bound c > 1 of dual clipping: where A < 0, the surrogate objective is at least c A (Ye et al. 2020). None: off.
    """
    value_clip: PositiveOrNone = None
    """Clip range of the value loss around the old values. None: no clipping."""
    value_coeff: NotNegative = 0.5
    """Weight of the value loss 1/2 (V - R)^2. SB3's vf_coef 0.5 corresponds to 1.0, CleanRL's vf_coef 0.5 to 0.5."""
    entropy_coeff: NotNegative = 0.01
    """Weight of the entropy bonus at the start of the run."""
    entropy_coeff_schedule: Schedule = "constant"
    """Schedule of the weight of the entropy bonus over the run; linear and cosine end at 0."""
    kl_coeff: NotNegative = 0.0
    """Weight of the KL penalty (Schulman et al. 2017, eq. 8) at the start of the run. 0: the KL is only measured."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Place of the KL penalty. loss: a term of the loss.
    reward, for text only: subtracted from each reward (Ziegler et al. 2019).
    """
    kl_estimator: Literal["k2", "k3"] = "k2"
    """Estimate of the KL to the reference policy as a term of the loss, for text only (Schulman 2020). k2: has the
    gradient of KL(policy || reference). k3: that of GRPO (Shao et al. 2024, eq. 4).
    """
    kl_controller: Literal["fixed", "schulman", "ziegler"] = "fixed"
    """Rule that changes kl_coeff after each iteration. fixed: no change. schulman: Schulman et al. 2017, section 4.
    ziegler: Ziegler et al. 2019, section 2.2.
    """
    adaptive_kl_target: Positive = 0.01
    """Target of the KL for kl_controller schulman and ziegler."""
    kl_horizon: Count = 10_000
    """Horizon of kl_controller ziegler, in responses (text) or transitions (control).
    With lstm_units, it is in environments, of which each rollout has num_envs.
    """
    target_kl: PositiveOrNone = None
    """Ends an iteration at the first minibatch with an approximate KL above 1.5 times this value. None: never."""
    max_grad_norm: PositiveOrNone = 0.5
    """The largest global norm of the gradients; larger gradients are scaled down to it. None: no limit."""
    adam_epsilon: Positive = 1e-5
    """Epsilon of adam, adamw and rmsprop (Huang et al. 2022, detail 3)."""
    weight_decay: NotNegative = 0.0
    """Weight decay of adamw, as a multiple of the learning rate. 0: none."""
    rmsprop_rho: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    """Decay of the mean of squared gradients in rmsprop; 0.99 is usual in older work on reinforcement learning."""
    gamma: Fraction = 0.98
    """Discount factor."""
    gae_lambda: Fraction = 0.9
    """Lambda of generalized advantage estimation (Schulman et al. 2016)."""
    normalize_advantages: bool = True
    """Whitens the advantages of each minibatch."""
    loss_average: Literal["tokens", "sequences"] = "tokens"
    """Mean of the loss over a minibatch. tokens: each token (control: each transition) counts the same.
    sequences, for text only: each response counts the same, by the mean over its tokens (GRPO, Shao et al. 2024).
    """
    recompute_advantages: bool = False
    """Computes advantages and returns again before each epoch, with the current values (Andrychowicz et al. 2021).
    For control only.
    """
    num_epochs: Count = 8
    """Number of passes over each rollout."""
    minibatch_size: Count = 1024
    """Transitions (text: responses) per gradient step. The size of a rollout must be a multiple of it."""
    num_micro_batches: Count = 1
    """Number of parts of a minibatch that are computed one after another to save memory. Their gradients are summed."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.kl_controller != "fixed" and self.kl_coeff == 0:
            raise UsageError(
                f"kl_coeff is 0; kl_controller {self.kl_controller} multiplies it, so it must be above 0: raise "
                "kl_coeff, or set kl_controller to fixed"
            )
        if self.weight_decay and self.optimizer != "adamw":
            raise UsageError(
                f"weight_decay is {self.weight_decay} and optimizer is {self.optimizer}; only adamw has weight decay: "
                "set optimizer to adamw, or weight_decay to 0"
            )
        exact_div(self.minibatch_size, self.num_micro_batches, "minibatch_size", "num_micro_batches")
