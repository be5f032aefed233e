"""Turns a rollout of text into the learner's batch: rewards, advantages and returns of tokens.

No other module knows which advantages a run has. The learner sees advantages, masks, and whether there are values.
"""

import tensorflow as tf

from tfppo.ops.masking import masked_whiten, zero_outside
from tfppo.ops.returns import (
    generalized_advantage_estimation,
    group_relative_advantages,
    leave_one_out_advantages,
)
from tfppo.ppo.config import PPOConfig
from tfppo.ppo.types import Batch
from tfppo.text.config import TextConfig
from tfppo.text.policy import TokenInputs
from tfppo.text.rollouts.rollout import TextRollout


def token_rewards(rollout: TextRollout, kl_coeff: tf.Tensor, text: TextConfig) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes the rewards of response tokens.

    The reward of token `t` is `-beta (log pi(y_t) - log pi_ref(y_t))`. The last token of the response also gets the
    score (Ziegler et al. 2019, section 2.2; Stiennon et al. 2020). With `score_position` "after_end" the position
    after that token gets the score instead, if the response is shorter than R. `missing_end_penalty` is subtracted
    from the score of a response that does not end.

    Args:
      rollout: B responses.
      kl_coeff: beta, scalar; 0 if the KL is part of the loss.
      text: Settings of the rewards.

    Returns:
      Rewards float32 [B, R], and the bool mask [B, R] of the positions that have a reward and a value.
    """
    mask = rollout.mask
    slots = tf.range(mask.shape[1])  # [R]
    lengths = tf.reduce_sum(tf.cast(mask, tf.int32), axis=1)  # [B]
    last = lengths - 1
    if text.score_position == "after_end":
        last = tf.minimum(lengths, mask.shape[1] - 1)
    scores = rollout.scores - text.missing_end_penalty * tf.cast(~rollout.ended, tf.float32)
    is_last = slots == last[:, None]  # [B, R]
    rewards = tf.where(is_last, scores[:, None], 0.0) - kl_coeff * rollout.log_ratio
    value_mask = slots <= last[:, None]
    if text.whiten_rewards:
        rewards = masked_whiten(rewards, value_mask, shift_mean=False)
    return zero_outside(rewards, value_mask), value_mask


def to_batch(rollout: TextRollout, text: TextConfig, ppo: PPOConfig) -> Batch:
    """Makes the learner's batch from a rollout.

    Args:
      rollout: B responses. The responses to a prompt are neighbors.
      text: Settings of the rewards and of the advantages.
      ppo: gamma, gae_lambda, and whether the KL is part of the reward or of the loss.

    Returns:
      A batch of B sequences, with advantages and, if the run has a value function, returns [B, R]. With
      `mask_truncated` the masks leave out responses that did not end.
    """
    in_reward = ppo.kl_in == "reward"
    rewards, value_mask = token_rewards(rollout, rollout.kl_coeff if in_reward else tf.zeros([]), text)
    mask, old_values, returns = rollout.mask, None, None
    if text.has_values:
        old_values = zero_outside(rollout.values, value_mask)
        advantages, returns = _advantages_and_returns(rewards, old_values, ppo)
    else:
        advantages = zero_outside(tf.broadcast_to(response_advantages(rewards, text)[:, None], mask.shape), mask)
    if text.mask_truncated:
        mask, value_mask = (m & rollout.ended[:, None] for m in (mask, value_mask))
    return Batch(
        inputs=TokenInputs(rollout.token_ids, rollout.prompt_lengths),
        actions=rollout.responses,
        old_log_probs=rollout.log_probs,
        old_values=old_values,
        advantages=advantages,
        returns=returns,
        mask=mask,
        reference_log_probs=None if in_reward else rollout.reference_log_probs,
        value_mask=value_mask,
        reference_kl=tf.reduce_sum(rollout.log_ratio, axis=1),
    )


def response_advantages(rewards: tf.Tensor, text: TextConfig) -> tf.Tensor:
    """Computes one advantage for each response, from the sums of the rewards of its tokens.

    Such a sum is the score, minus beta times the KL of the whole response if the KL is part of the reward (Ahmadian et
    al. 2024). There is no discount. All responses of a group count, also those that `mask_truncated` leaves
    out of the loss.

    Args:
      rewards: [B, R], 0 where a response has no reward. The responses to a prompt are neighbors.
      text: The kind of advantages, and the number of responses to a prompt.

    Returns:
      [B].
    """
    returns = tf.reduce_sum(rewards, axis=1)  # [B]
    if text.advantages == "rloo":
        return leave_one_out_advantages(returns, text.responses_per_prompt)
    return group_relative_advantages(returns, text.responses_per_prompt, text.group_std)


def _advantages_and_returns(rewards: tf.Tensor, values: tf.Tensor, ppo: PPOConfig) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes generalized advantage estimates and returns of tokens, [B, R] each, from rewards and values [B, R]."""
    next_values = tf.concat([values[:, 1:], tf.zeros_like(values[:, :1])], axis=1)  # [B, R]
    rewards, old_values, next_values = map(tf.transpose, (rewards, values, next_values))  # [R, B]
    never = tf.zeros(rewards.shape, tf.bool)  # no flags: the value after a response is 0, even if it was cut
    advantages, returns = generalized_advantage_estimation(
        rewards, old_values, next_values, never, never, ppo.gamma, ppo.gae_lambda
    )
    return tf.transpose(advantages), tf.transpose(returns)
