"""Advantages and returns, time-major [T, ...].

"Done" is resolved before the mathematics: a step that terminated has no successor, one that was truncated (time limit)
has one whose value still counts but whose rewards belong to another episode, and `next_values` is the value of the
TRUE successor, not of the first observation after a reset. Source: Pardo et al. 2018, "Time limits in reinforcement
learning".
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
    """Generalised advantage estimates and the returns that the value function is trained on.

    delta_t = r_t + gamma (1 - terminated_t) V'_t - V_t
    A_t = delta_t + gamma lambda (1 - terminated_t) (1 - truncated_t) A_{t+1},  A_T = 0
    R_t = A_t + V_t
    Source: Schulman et al. 2016 (GAE), equation 16 as a recursion, cut at the ends of episodes.

    Termination stops the bootstrap and the trace, truncation the trace only; where both hold, termination wins.
    `next_values` of a terminated step may be anything, NaN included, and nothing of a later episode, NaN included,
    crosses an end.

    Args:
      rewards: r, [T, ...].
      values: V, [T, ...].
      next_values: V', the value of each step's true successor, [T, ...].
      terminated: bool [T, ...].
      truncated: bool [T, ...].
      gamma: discount, a scalar or one for each step, [T, ...].
      gae_lambda: scalar.

    Returns:
      (advantages, returns), each [T, ...].

    Raises:
      ValueError: if the shapes differ, or rewards have no time axis.
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
    """Discounted sums of rewards to the end of the episode, bootstrapped where it was cut short (lambda = 1).

    G_t = r_t + gamma V'_t    at a truncated step and at the last of the rollout (0 for V'_t if it terminated)
    G_t = r_t + gamma G_{t+1} elsewhere
    Without cuts this is G_t = sum_{i >= t} gamma^(i - t) r_i. Source: Sutton and Barto 2018, equations 3.8 and 3.9.

    Args:
      rewards: r, [T, ...].
      next_values: V', the value of each step's true successor, [T, ...]; only those at cuts are used.
      terminated: bool [T, ...].
      truncated: bool [T, ...].
      gamma: discount, a scalar or one for each step, [T, ...].

    Returns: [T, ...].

    Raises:
      ValueError: if the shapes differ, or rewards have no time axis.
    """
    rewards = tf.convert_to_tensor(rewards)
    targets, decay, is_end = _one_step(rewards, next_values, terminated, truncated, gamma)
    # The last step of the rollout is a cut like any other.
    is_last = tf.concat([tf.zeros_like(is_end[:-1]), tf.ones_like(is_end[-1:])], axis=0)  # [T, ...]
    is_cut = is_end | is_last
    return _reverse_accumulate(tf.where(is_cut, targets, rewards), decay, is_cut)


def _one_step(
    rewards: tf.Tensor,
    next_values: tf.Tensor,
    terminated: tf.Tensor,
    truncated: tf.Tensor,
    gamma: float | tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """(r + gamma V', gamma, whether the episode ends), each [T, ...], after the checks of both functions."""
    rewards = tf.convert_to_tensor(rewards)
    check_same_shape(rewards=rewards, next_values=next_values, terminated=terminated, truncated=truncated)
    if rewards.shape.rank == 0:
        raise ValueError("rewards have shape (); they need a leading time axis, [T, ...]")
    gamma = tf.cast(tf.convert_to_tensor(gamma, dtype_hint=rewards.dtype), rewards.dtype)
    if gamma.shape.rank != 0:
        check_same_shape(rewards=rewards, gamma=gamma)
    # Not a product with (1 - terminated): the value after a terminal state may be NaN, and NaN * 0 is NaN.
    successor = tf.where(terminated, tf.zeros_like(rewards), next_values)  # [T, ...]
    decay = gamma + tf.zeros_like(rewards)  # [T, ...]
    return rewards + gamma * successor, decay, terminated | tf.convert_to_tensor(truncated)


def _reverse_accumulate(increments: tf.Tensor, decay: tf.Tensor, is_end: tf.Tensor) -> tf.Tensor:
    """x_t = increment_t + decay_t x_{t+1}, without the second term at an end; all [T, ...]."""

    def step(later: tf.Tensor, inputs: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
        increment, decay_t, is_end_t = inputs
        return increment + decay_t * tf.where(is_end_t, tf.zeros_like(later), later)

    return tf.scan(step, (increments, decay, is_end), initializer=tf.zeros_like(increments[0]), reverse=True)
