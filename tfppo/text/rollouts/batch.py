"""Turns a rollout of text into the learner's batch: rewards, advantages and returns of tokens."""

import tensorflow as tf

from tfppo.ops.masking import masked_whiten, zero_outside
from tfppo.ops.returns import generalized_advantage_estimation
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
      rollout: B responses.
      text: Settings of the rewards.
      ppo: gamma, gae_lambda, and whether the KL is part of the reward or of the loss.

    Returns:
      A batch of B sequences, with advantages and returns [B, R].
    """
    in_reward = ppo.kl_in == "reward"
    rewards, value_mask = token_rewards(rollout, rollout.kl_coeff if in_reward else tf.zeros([]), text)
    values = zero_outside(rollout.values, value_mask)
    next_values = tf.concat([values[:, 1:], tf.zeros_like(values[:, :1])], axis=1)  # [B, R]
    rewards, old_values, next_values = map(tf.transpose, (rewards, values, next_values))  # [R, B]
    never = tf.zeros(rewards.shape, tf.bool)  # no flags: the value after a response is 0, even if it was cut
    advantages, returns = generalized_advantage_estimation(
        rewards, old_values, next_values, never, never, ppo.gamma, ppo.gae_lambda
    )
    return Batch(
        inputs=TokenInputs(rollout.token_ids, rollout.prompt_lengths),
        actions=rollout.responses,
        old_log_probs=rollout.log_probs,
        old_values=values,
        advantages=tf.transpose(advantages),
        returns=tf.transpose(returns),
        mask=rollout.mask,
        reference_log_probs=None if in_reward else rollout.reference_log_probs,
        value_mask=value_mask,
        reference_kl=tf.reduce_sum(rollout.log_ratio, axis=1),
    )
