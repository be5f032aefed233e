"""Rollouts for text: prompts are answered, scored, and made ready for the learner."""

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfppo.execution.compilation import compiled
from tfppo.execution.replicas import ALONE, Replicas
from tfppo.ops.masking import masked_whiten, zero_outside
from tfppo.ops.random import fold_in
from tfppo.ops.returns import generalized_advantage_estimation
from tfppo.ppo.config import PPOConfig
from tfppo.ppo.types import Batch
from tfppo.text.config import TextConfig
from tfppo.text.models.language_model import LanguageModel
from tfppo.text.policy import TextPolicy, TokenInputs, response_log_probs
from tfppo.text.sampling import Samples, StopCondition, sample

Scorer = Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]]], np.ndarray]


class TextRollout(NamedTuple):
    """B prompts with their responses, scores and log-probabilities: one element of tf.data."""

    token_ids: tf.Tensor  # [B, P + R] int32
    prompt_lengths: tf.Tensor  # [B] int32
    responses: tf.Tensor  # [B, R] int32
    mask: tf.Tensor  # [B, R] bool, up to and including the end of the text
    log_probs: tf.Tensor  # [B, R] of the policy that wrote
    reference_log_probs: tf.Tensor  # [B, R]
    values: tf.Tensor  # [B, R]
    scores: tf.Tensor  # [B]
    ended: tf.Tensor  # [B] bool, False where the response was cut at R tokens
    metrics: dict[str, tf.Tensor]  # scalars, named as in metrics.METRICS

    @property
    def guarded(self) -> dict[str, tuple[tf.Tensor, None]]:
        """What must be finite, by its name in `guards.NAMES`."""
        return {"a score": (self.scores, None)}

    @property
    def log_ratio(self) -> tf.Tensor:
        """log pi - log pi_ref of each token, [B, R]; 0 outside the mask."""
        return zero_outside(self.log_probs - self.reference_log_probs, self.mask)


class TextCollector(tf.Module):
    """Collects rollouts: samples responses, has them scored in Python, and evaluates them in full forward passes.

    The log-probabilities that PPO's ratio starts from are those of the full pass that also gives the values, so that
    the first ratio is exactly 1; those recorded while sampling are compared with them (`text/sampler_gap`).

    Args:
      policy: who writes.
      reference: what the KL is measured to.
      scorer: tokens of prompts and of responses, without padding, to scores [B]; runs on the host.
      text: lengths and temperature.
      stop_condition: what ends a response.
      chunk: sequences in a forward pass, which bounds the memory; it divides the batch, or the share of a replica.
      seed: with the iteration it fixes every random number.
      sampling_mode: of the sampling, "xla", "graph" or "eager".
      mode: of the full forward passes.
      replicas: who answer a share of the prompts each; the rollout is whole everywhere.
    """

    def __init__(
        self,
        policy: TextPolicy,
        reference: LanguageModel,
        scorer: Scorer,
        text: TextConfig,
        *,
        stop_condition: StopCondition,
        chunk: int,
        seed: int = 0,
        sampling_mode: str = "graph",
        mode: str = "graph",
        replicas: Replicas = ALONE,
    ):
        super().__init__(name="text_collector")
        self.policy = policy
        self.reference = reference
        self.scorer = scorer
        self.text = text
        self.stop_condition = stop_condition
        self.replicas = replicas
        self.chunk = chunk
        self.seed = tf.constant([seed, 0x7E47], tf.int32)
        self.error: Exception | None = None
        self._sample = compiled(self._sample, sampling_mode)
        self._evaluate = compiled(self._evaluate, mode)

    def collect(self, iteration: tf.Tensor, prompts: tf.Tensor, prompt_lengths: tf.Tensor) -> TextRollout:
        """Rollout number `iteration` (int64 scalar) of prompts int32 [B, P], padded on the right, [B] tokens long."""

        def share(index):
            samples, scores = self._answer(index, iteration, prompts, prompt_lengths)
            inputs = TokenInputs(samples.token_ids, self.replicas.cut(prompt_lengths, index))
            return samples, scores, self._evaluate(inputs, samples.responses)

        samples, scores, evaluated = self.replicas.gather(share, axes=(0, 0, 0))
        log_probs, values, reference_log_probs = evaluated
        slots = tf.range(self.text.response_length)
        ended = tf.reduce_any(self.stop_condition(samples.responses, slots) & samples.mask, axis=1)
        gap = zero_outside(samples.log_probs - log_probs, samples.mask)
        rollout = TextRollout(
            token_ids=samples.token_ids,
            prompt_lengths=prompt_lengths,
            responses=samples.responses,
            mask=samples.mask,
            log_probs=log_probs,
            reference_log_probs=reference_log_probs,
            values=values,
            scores=scores,
            ended=ended,
            metrics={},
        )
        metrics = {
            "text/score_mean": tf.reduce_mean(scores),
            "text/score_std": tf.math.reduce_std(scores),
            "text/kl": tf.reduce_mean(tf.reduce_sum(rollout.log_ratio, axis=1)),
            "text/response_tokens_mean": tf.reduce_mean(tf.reduce_sum(tf.cast(samples.mask, tf.float32), axis=1)),
            "text/eos_fraction": tf.reduce_mean(tf.cast(ended, tf.float32)),
            "text/sampler_gap": tf.reduce_max(tf.abs(gap)),
        }
        return rollout._replace(metrics=metrics)

    @contextmanager
    def raising_own_errors(self):
        try:
            yield
        except tf.errors.OpError:
            if self.error is None:
                raise
            raise self.error from None

    def answer(self, iteration: tf.Tensor, prompts: tf.Tensor, prompt_lengths: tf.Tensor) -> tuple[Samples, tf.Tensor]:
        """The responses of rollout number `iteration`, and their scores [B]."""
        return self.replicas.gather(lambda index: self._answer(index, iteration, prompts, prompt_lengths), axes=(0, 0))

    def _answer(
        self, index: int, iteration: tf.Tensor, prompts: tf.Tensor, prompt_lengths: tf.Tensor
    ) -> tuple[Samples, tf.Tensor]:
        """The share of a replica."""
        prompts, prompt_lengths = self.replicas.cut((prompts, prompt_lengths), index)
        samples = self._sample(index, prompts, prompt_lengths, fold_in(self.seed, iteration))
        # Nothing ties this to the forward passes that follow: the reward's Python runs while they do.
        scores = tf.numpy_function(self._score, [prompts, prompt_lengths, *samples[1:]], tf.float32, stateful=False)
        return samples, tf.ensure_shape(scores, [prompts.shape[0]])

    def _sample(self, index: int, prompts: tf.Tensor, prompt_lengths: tf.Tensor, seed: tf.Tensor) -> Samples:
        return sample(
            self.policy.model,
            prompts,
            prompt_lengths,
            self.text.response_length,
            seed,
            stop_condition=self.stop_condition,
            temperature=self.text.temperature,
            replicas=self.replicas,
            index=index,
        )

    def _evaluate(self, inputs: TokenInputs, responses: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Log-probabilities, values and the reference's log-probabilities, [B, R] each, a chunk at a time."""

        def evaluate(piece):
            inputs, responses = piece
            evaluation = self.policy.evaluate_actions(inputs, responses)
            reference = response_log_probs(self.reference, inputs, responses, self.text.temperature)
            return evaluation.log_probs, evaluation.values, reference

        batch, length = responses.shape
        if batch == self.chunk:
            return evaluate((inputs, responses))
        pieces = tf.nest.map_structure(lambda x: tf.reshape(x, [-1, self.chunk, *x.shape[1:]]), (inputs, responses))
        results = tf.map_fn(evaluate, pieces, fn_output_signature=(tf.TensorSpec([self.chunk, length]),) * 3)
        return tuple(tf.reshape(x, [batch, length]) for x in results)

    def _score(self, prompts, prompt_lengths, responses, _, mask) -> np.ndarray:
        """Runs in Python, inside tf.data: what it raises is kept for the trainer, since tf.data would wrap it."""
        try:
            prompts = [row[:length].tolist() for row, length in zip(prompts, prompt_lengths, strict=True)]
            responses = [row[kept].tolist() for row, kept in zip(responses, mask, strict=True)]
            return np.asarray(self.scorer(prompts, responses), np.float32)
        except Exception as error:
            self.error = error
            raise


def token_rewards(rollout: TextRollout, kl_coeff: tf.Tensor, text: TextConfig) -> tuple[tf.Tensor, tf.Tensor]:
    """Per-token rewards, and the mask of the slots that have a value; [B, R] each.

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


def to_batch(rollout: TextRollout, kl_coeff: tf.Tensor, text: TextConfig, ppo: PPOConfig) -> Batch:
    """What the learner trains on: rewards a token, advantages over the response, a sequence an item."""
    in_reward = ppo.kl_in == "reward"
    rewards, value_mask = token_rewards(rollout, kl_coeff if in_reward else tf.zeros([]), text)
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
