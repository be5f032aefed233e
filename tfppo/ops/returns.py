"""Advantages and returns: of time-major data, [T, ...], and of groups of responses to the same prompt.

The functions of time-major data distinguish two ways in which an episode ends:

- A step that terminated has no successor. The value after it counts as 0.
- A step that was truncated, for example by a time limit, has a successor, and the value of the successor counts. The
  rewards after the step belong to another episode.

`next_values` is the value of the true successor of each step, not that of the first observation after a reset.

Source: Pardo et al. 2018, "Time limits in reinforcement learning".
"""

import tensorflow as tf

from tfppo.ops.masking import check_same_shape


def generalized_advantage_estimation(
    rewards: tf.Tensor,
    values: tf.Tensor,
    next_values: tf.Tensor,
    terminated: tf.Tensor,
    truncated: tf.Tensor,
    gamma: float | tf.Tensor,
    gae_lambda: float | tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes generalized advantage estimates, and the returns that the value function is trained on.

    The equations are::

        delta_t = r_t + gamma (1 - terminated_t) V'_t - V_t
        A_t = delta_t + gamma lambda (1 - terminated_t) (1 - truncated_t) A_{t+1},  A_T = 0
        R_t = A_t + V_t

    Source: Schulman et al. 2016 (GAE), equation 16 as a recursion that stops at the ends of episodes.

    Termination stops the bootstrap and the trace. Truncation stops only the trace. A step with both flags counts as
    terminated. `next_values` of a terminated step may have any value, including NaN. Numbers of a later episode never
    affect an earlier one, even if they are NaN.

    Args:
      rewards: r, [T, ...].
      values: V, [T, ...].
      next_values: V', the value of the true successor of each step, [T, ...].
      terminated: bool [T, ...].
      truncated: bool [T, ...].
      gamma: Discount factor, a scalar or one number per step, [T, ...].
      gae_lambda: lambda, scalar.

    Returns:
      (advantages, returns), each [T, ...].

    Raises:
      ValueError: If the shapes differ, or if rewards have no time axis.
    """
    values = tf.convert_to_tensor(values)
    check_same_shape(rewards=rewards, values=values)
    targets, decay, is_end = _one_step(rewards, next_values, terminated, truncated, gamma)
    gae_lambda = tf.cast(tf.convert_to_tensor(gae_lambda, dtype_hint=targets.dtype), targets.dtype)
    advantages = _reverse_accumulate(targets - values, decay * gae_lambda, is_end)  # [T, ...]
    return advantages, advantages + values


def discounted_returns(
    rewards: tf.Tensor,
    next_values: tf.Tensor,
    terminated: tf.Tensor,
    truncated: tf.Tensor,
    gamma: float | tf.Tensor,
) -> tf.Tensor:
    """Computes discounted sums of rewards to the end of the episode (lambda = 1).

    The sum is bootstrapped with V' where the episode was truncated and at the end of the rollout::

        G_t = r_t                    if step t terminated
        G_t = r_t + gamma V'_t       otherwise, if step t was truncated or is the last one of the rollout
        G_t = r_t + gamma G_{t+1}    otherwise

    Without ends this is `G_t = sum_{i >= t} gamma^(i - t) r_i`. Source: Sutton and Barto 2018, equations 3.8 and 3.9.

    Args:
      rewards: r, [T, ...].
      next_values: V', the value of the true successor of each step, [T, ...]. Only the values at truncated steps and at
        the end of the rollout are used.
      terminated: bool [T, ...].
      truncated: bool [T, ...].
      gamma: Discount factor, a scalar or one number per step, [T, ...].

    Returns:
      [T, ...].

    Raises:
      ValueError: If the shapes differ, or if rewards have no time axis.
    """
    rewards = tf.convert_to_tensor(rewards)
    targets, decay, is_end = _one_step(rewards, next_values, terminated, truncated, gamma)
    # The sum also stops at the last step of the rollout.
    is_last = tf.concat([tf.zeros_like(is_end[:-1]), tf.ones_like(is_end[-1:])], axis=0)  # [T, ...]
    is_cut = is_end | is_last
    return _reverse_accumulate(tf.where(is_cut, targets, rewards), decay, is_cut)


def group_relative_advantages(returns: tf.Tensor, group_size: int, divide_by_std: bool = True) -> tf.Tensor:
    """Computes the advantages of responses relative to the other responses of their group.

    With the mean and the standard deviation of the group of response i::

        A_i = (G_i - mean) / (std + 1e-8)

    Source: Shao et al. 2024 (GRPO), section 4.1.2 (outcome supervision). Without the division by the standard
    deviation: Liu et al. 2025 (Dr. GRPO). The standard deviation is that of the population, as in `masked_whiten`. A
    group of equal returns has advantages of exactly 0.

    Args:
      returns: G, [B]. Each group is `group_size` neighbors.
      group_size: Number of responses in a group, at least 2; must divide B.
      divide_by_std: False leaves out the division.

    Returns:
      [B].

    Raises:
      ValueError: If returns have another rank, or group_size is below 2 or does not divide B.
    """
    groups = _groups(returns, group_size)
    centered = groups - tf.reduce_mean(groups, axis=1, keepdims=True)  # [B / N, N]
    if divide_by_std:
        centered /= tf.sqrt(tf.reduce_mean(tf.square(centered), axis=1, keepdims=True)) + 1e-8
    return tf.reshape(centered, [-1])


def leave_one_out_advantages(returns: tf.Tensor, group_size: int) -> tf.Tensor:
    """Computes the advantages of responses over the mean of the other responses of their group.

    For a group of N responses::

        A_i = G_i - 1 / (N - 1) sum_{j != i} G_j

    Source: Ahmadian et al. 2024 (RLOO), after Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free!".

    Args:
      returns: G, [B]. Each group is `group_size` neighbors.
      group_size: N, at least 2; must divide B.

    Returns:
      [B].

    Raises:
      ValueError: If returns have another rank, or group_size is below 2 or does not divide B.
    """
    groups = _groups(returns, group_size)
    others = (tf.reduce_sum(groups, axis=1, keepdims=True) - groups) / (group_size - 1)  # [B / N, N]
    return tf.reshape(groups - others, [-1])


def _groups(returns: tf.Tensor, group_size: int) -> tf.Tensor:
    """Reshapes returns [B] to [B / N, N], and subtracts the smallest of each group.

    The advantages do not depend on it. Without it, the rounding error of the mean of equal numbers would be divided by
    a standard deviation as small, see `masked_whiten`.
    """
    returns = tf.convert_to_tensor(returns)
    if returns.shape.rank != 1:
        raise ValueError(f"the shape of returns is {returns.shape}; it must be [B], one number for each response")
    if group_size < 2 or returns.shape[0] % group_size:
        raise ValueError(
            f"group_size is {group_size} and there are {returns.shape[0]} returns; it must be at least 2 and divide "
            "their number"
        )
    groups = tf.reshape(returns, [-1, group_size])  # [B / N, N]
    return groups - tf.reduce_min(groups, axis=1, keepdims=True)


def _one_step(
    rewards: tf.Tensor,
    next_values: tf.Tensor,
    terminated: tf.Tensor,
    truncated: tf.Tensor,
    gamma: float | tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Checks the arguments of both functions and computes the parts of the recursion.

    Returns:
      `r + gamma V'`, gamma, and whether the episode ends at the step; each [T, ...].
    """
    rewards = tf.convert_to_tensor(rewards)
    check_same_shape(rewards=rewards, next_values=next_values, terminated=terminated, truncated=truncated)
    if rewards.shape.rank == 0:
        raise ValueError("the shape of rewards is (); it must be [T, ...], with a leading time axis")
    gamma = tf.cast(tf.convert_to_tensor(gamma, dtype_hint=rewards.dtype), rewards.dtype)
    if gamma.shape.rank != 0:
        check_same_shape(rewards=rewards, gamma=gamma)
    # A product with (1 - terminated) would not do: the value after a terminal state may be NaN, and NaN * 0 is NaN.
    successor = tf.where(terminated, tf.zeros_like(rewards), next_values)  # [T, ...]
    decay = gamma + tf.zeros_like(rewards)  # [T, ...]
    return rewards + gamma * successor, decay, terminated | tf.convert_to_tensor(truncated)


def _reverse_accumulate(increments: tf.Tensor, decay: tf.Tensor, is_end: tf.Tensor) -> tf.Tensor:
    """Computes `x_t = increment_t + decay_t x_{t+1}`, without the second term where `is_end` is true; all [T, ...]."""

    def step(later: tf.Tensor, inputs: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
        increment, decay_t, is_end_t = inputs
        return increment + decay_t * tf.where(is_end_t, tf.zeros_like(later), later)

    return tf.scan(step, (increments, decay, is_end), initializer=tf.zeros_like(increments[0]), reverse=True)
