"""Rollouts for text: prompts are answered, and the responses scored and evaluated."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import tensorflow as tf

from tfppo.execution.compilation import compiled
from tfppo.execution.host import HostFunction
from tfppo.execution.replicas import ALONE, Replicas
from tfppo.ops.masking import zero_outside
from tfppo.ops.random import fold_in
from tfppo.ppo.guard import Masked, Quantity
from tfppo.text.config import TextConfig
from tfppo.text.models.language_model import LanguageModel
from tfppo.text.policy import TextPolicy, TokenInputs, response_log_probs
from tfppo.text.sampling import Samples, StopCondition, gumbel_noise, sample
from tfppo.text.scoring import Scorer


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
    kl_coeff: tf.Tensor  # scalar, beta of the rewards
    metrics: dict[str, tf.Tensor]  # scalars, named as in metrics.METRICS

    def guarded(self) -> dict[Quantity, Masked]:
        """Returns what must be finite, besides what the batch holds."""
        return {Quantity.SCORE: Masked(self.scores)}

    @property
    def log_ratio(self) -> tf.Tensor:
        """log pi - log pi_ref of each token, [B, R]; 0 outside the mask."""
        return zero_outside(self.log_probs - self.reference_log_probs, self.mask)


class TextCollector(tf.Module):
    """Collects rollouts: samples responses, has them scored in Python, and evaluates them in full forward passes.

    The log-probabilities that PPO's ratio starts from are those of the full pass that also gives the values, so that
    the first ratio is exactly 1; those recorded while sampling are compared with them (`text/sampler_gap`).

    Args:
      policy: writes the responses.
      reference: the language model that the KL is measured to.
      scorer: scores the responses on the host.
      text: lengths and temperature.
      kl_coeff: beta of the iteration, scalar.
      stop_condition: what ends a response.
      chunk: sequences in a forward pass, which bounds the memory; it divides the batch, or the share of a replica.
      seed: with the iteration it fixes every random number.
      sampling_mode: of the sampling, "xla", "graph" or "eager".
      mode: of the full forward passes.
      replicas: each answers a share of the prompts, and each process scores one; the rollout is whole everywhere.
    """

    def __init__(
        self,
        policy: TextPolicy,
        reference: LanguageModel,
        scorer: Scorer,
        text: TextConfig,
        *,
        kl_coeff: tf.Variable,
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
        self.text = text
        self.kl_coeff = kl_coeff
        self.stop_condition = stop_condition
        self.replicas = replicas
        self.chunk = chunk
        self.seed = tf.constant([seed, 0x7E47], tf.int32)
        self._scorer = HostFunction(scorer, stateful=False)
        self._sample = compiled(self._sample_share, sampling_mode)
        self._evaluate_policy = compiled(self._policy_share, mode)
        self._evaluate_reference = compiled(self._reference_share, mode)

    def raising_own_errors(self) -> AbstractContextManager[None]:
        """Inside, an exception of the scorer is raised as it was, where TensorFlow would report only its text."""
        return self._scorer.reraising()

    def collect(self, iteration: tf.Tensor, prompts: tf.Tensor, prompt_lengths: tf.Tensor) -> TextRollout:
        """Collects rollout number `iteration` (int64 scalar).

        Args:
          iteration: int64 scalar.
          prompts: int32 [B, P], padded on the right.
          prompt_lengths: int32 [B].
        """
        # ----- Sample
        samples = self.sample_responses(iteration, prompts, prompt_lengths)
        slots = tf.range(self.text.response_length)
        ended = tf.reduce_any(self.stop_condition(samples.responses, slots) & samples.mask, axis=1)  # [B]

        # ----- Score. No forward pass depends on it: the reward's Python runs while they do
        scores, text_metrics = self.score_responses(prompts, prompt_lengths, samples)

        # ----- Evaluate with the policy and with the reference
        def evaluate(index: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            inputs = TokenInputs(samples.token_ids, prompt_lengths)
            share = self.replicas.cut((inputs, samples.responses), index)
            return *self._evaluate_policy(*share), self._evaluate_reference(*share)

        log_probs, values, reference_log_probs = self.replicas.gather(evaluate, axes=(0, 0, 0))  # [B, R] each

        # ----- Put together
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
            kl_coeff=tf.convert_to_tensor(self.kl_coeff),
            metrics=text_metrics,
        )
        return rollout._replace(metrics=_metrics(rollout, samples.log_probs))

    def sample_responses(self, iteration: tf.Tensor, prompts: tf.Tensor, prompt_lengths: tf.Tensor) -> Samples:
        """Samples the responses of rollout number `iteration`; arguments as in `collect`."""
        seed = fold_in(self.seed, iteration)

        def share(index: int) -> tuple[Samples]:
            return (self._sample(index, *self.replicas.cut((prompts, prompt_lengths), index), seed),)

        (samples,) = self.replicas.gather(share, axes=(0,))
        return samples

    def score_responses(
        self, prompts: tf.Tensor, prompt_lengths: tf.Tensor, samples: Samples
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Scores [B] of the responses to B prompts, and the metrics of their texts."""
        rows = self.replicas.cut_processes(tf.range(prompts.shape[0]))
        scalar = tf.TensorSpec([], tf.float64)
        share, words, distinct = self._scorer(
            [prompts, prompt_lengths, samples.responses, samples.mask, rows],
            [tf.TensorSpec(rows.shape, tf.float32), scalar, scalar],
        )
        (scores,) = self.replicas.gather_processes((share,), axes=(0,))
        return scores, {"text/response_length_mean": words, "text/distinct_2": distinct}

    def _sample_share(self, index: int, prompts: tf.Tensor, prompt_lengths: tf.Tensor, seed: tf.Tensor) -> Samples:
        """The responses to a replica's prompts. It draws the noise of all replicas, and takes its share."""
        noise = gumbel_noise(seed, self.replicas.count * prompts.shape[0], self.policy.model.vocabulary_size)
        return sample(
            self.policy.model,
            prompts,
            prompt_lengths,
            self.text.response_length,
            lambda column: self.replicas.cut(noise(column), index),
            stop_condition=self.stop_condition,
            temperature=self.text.temperature,
        )

    def _policy_share(self, inputs: TokenInputs, responses: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Log-probabilities and values by the policy, [N, R] each."""

        def evaluate(inputs: TokenInputs, responses: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            evaluation = self.policy.evaluate_actions(inputs, responses)
            return evaluation.log_probs, evaluation.values

        log_probs, values = in_chunks(evaluate, inputs, responses, self.chunk, 2)
        return log_probs, values

    def _reference_share(self, inputs: TokenInputs, responses: tf.Tensor) -> tf.Tensor:
        """Log-probabilities by the reference, [N, R]."""

        def evaluate(inputs: TokenInputs, responses: tf.Tensor) -> tuple[tf.Tensor]:
            return (response_log_probs(self.reference, inputs, responses, self.text.temperature),)

        (log_probs,) = in_chunks(evaluate, inputs, responses, self.chunk, 1)
        return log_probs


def in_chunks(
    evaluate: Callable[[TokenInputs, tf.Tensor], tuple[tf.Tensor, ...]],
    inputs: TokenInputs,
    responses: tf.Tensor,
    chunk: int,
    outputs: int,
) -> tuple[tf.Tensor, ...]:
    """Evaluates N responses, `chunk` at a time, which divides N; `outputs` tensors [N, R]."""
    count, length = responses.shape
    if count == chunk:
        return evaluate(inputs, responses)
    pieces = tf.nest.map_structure(lambda x: tf.reshape(x, [-1, chunk, *x.shape[1:]]), (inputs, responses))
    spec = (tf.TensorSpec([chunk, length]),) * outputs
    results = tf.map_fn(lambda piece: evaluate(*piece), pieces, fn_output_signature=spec)
    return tuple(tf.reshape(x, [count, length]) for x in results)


def _metrics(rollout: TextRollout, sampled_log_probs: tf.Tensor) -> dict[str, tf.Tensor]:
    """The metrics of the texts, means over the responses, and how far sampling's log-probabilities [B, R] are from
    those of the full pass."""
    gap = zero_outside(sampled_log_probs - rollout.log_probs, rollout.mask)
    return rollout.metrics | {
        "text/score_mean": tf.reduce_mean(rollout.scores),
        "text/score_std": tf.math.reduce_std(rollout.scores),
        "text/kl": tf.reduce_mean(tf.reduce_sum(rollout.log_ratio, axis=1)),
        "text/response_tokens_mean": tf.reduce_mean(tf.reduce_sum(tf.cast(rollout.mask, tf.float32), axis=1)),
        "text/eos_fraction": tf.reduce_mean(tf.cast(rollout.ended, tf.float32)),
        "text/sampler_gap": tf.reduce_max(tf.abs(gap)),
    }
