"""From a rollout of text to the learner's batch: rewards of tokens, and their advantages."""

import tensorflow as tf

from tfppo.ops.masking import masked_whiten, zero_outside
from tfppo.ops.returns import generalized_advantage_estimation
from tfppo.ppo.config import PPOConfig
from tfppo.ppo.types import Batch
from tfppo.text.config import TextConfig
from tfppo.text.policy import TokenInputs
from tfppo.text.rollout import TextRollout


def token_rewards(rollout: TextRollout, kl_coeff: tf.Tensor, text: TextConfig) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes the rewards of tokens, and the mask of the slots that have a value; [B, R] each.

    reward_t = -beta (log pi(y_t) - log pi_ref(y_t)), and at the last token of the response the score is added
    [Ziegler et al. 2019, section 2.2; Stiennon et al. 2020]; with `score_position` "after_end" in the slot behind it,
    where there is one. A response that does not end has `missing_end_penalty` subtracted from its score.

    Args:
      rollout: B responses.
      kl_coeff: beta, scalar; 0 where the KL is part of the loss.
      text: the shaping's settings.
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
        rewards = masked_whiten(rewards, value_mask, shift_mean=False)  # keeps their mean
    return zero_outside(rewards, value_mask), value_mask


def to_batch(rollout: TextRollout, text: TextConfig, ppo: PPOConfig) -> Batch:
    """Makes what the learner trains on: rewards a token, advantages over the response, a sequence an item."""
    in_reward = ppo.kl_in == "reward"
    rewards, value_mask = token_rewards(rollout, rollout.kl_coeff if in_reward else tf.zeros([]), text)
    values = zero_outside(rollout.values, value_mask)
    next_values = tf.concat([values[:, 1:], tf.zeros_like(values[:, :1])], axis=1)  # [B, R]
    rewards, old_values, next_values = map(tf.transpose, (rewards, values, next_values))  # [R, B]
    never = tf.zeros(rewards.shape, tf.bool)  # behind its last slot a response is worth 0, also one that was cut
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
