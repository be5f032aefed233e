"""Rollouts of text: samples responses to prompts, scores them, and computes log-probabilities and values."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
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
from tfppo.text.rollouts.sampling import Samples, StopCondition, gumbel_noise, sample
from tfppo.text.rollouts.scoring import Scorer

SCALE_ROLLOUTS = 4  # batches of responses that the scores are normalized by


class TextRollout(NamedTuple):
    """B prompts with their responses, scores, log-probabilities and values; one element of the tf.data pipeline."""

    token_ids: tf.Tensor  # [B, P + R] int32
    prompt_lengths: tf.Tensor  # [B] int32
    responses: tf.Tensor  # [B, R] int32
    mask: tf.Tensor  # [B, R] bool, True up to and including the token that ends the response
    log_probs: tf.Tensor  # [B, R] under the policy that sampled
    reference_log_probs: tf.Tensor  # [B, R] under the reference policy
    values: tf.Tensor | tuple[()]  # [B, R], empty without a value function
    scores: tf.Tensor  # [B], normalized and clipped, as in the token rewards
    raw_scores: tf.Tensor  # [B], as the reward returned them
    prompt_indices: tf.Tensor  # [B] int32, rows of the training prompts
    ended: tf.Tensor  # [B] bool, False where the response was cut at R tokens
    kl_coeff: tf.Tensor  # scalar, beta in the rewards
    metrics: dict[str, tf.Tensor]  # scalars, named as in reporting.metrics.METRICS

    def guarded(self) -> dict[Quantity, Masked]:
        """Returns the quantities that the learner's guard must check in addition to those of the batch."""
        return {Quantity.SCORE: Masked(self.scores)}

    @property
    def log_ratio(self) -> tf.Tensor:
        """Log-ratio `log pi - log pi_ref` of each token, [B, R]; 0 outside the mask."""
        return zero_outside(self.log_probs - self.reference_log_probs, self.mask)


class TextCollector(tf.Module):
    """Collects rollouts: samples responses, scores them in Python, and evaluates them in full forward passes.

    PPO's ratios start from the log-probabilities of the full forward pass that also computes the values, so that the
    first ratio is exactly 1. The metric `text/sampler_gap` compares them with the log-probabilities of the sampler.

    Args:
      policy: Samples the responses.
      reference: Reference policy, to which the KL is measured.
      scorer: Scores the responses on the host.
      text: Lengths and temperature.
      kl_coeff: beta of the current iteration, scalar.
      stop_condition: Decides which token ends a response.
      chunk: Number of sequences in a full forward pass, which bounds the memory. It must divide the number of
        prompts of a replica.
      part_names: Names of the rewards whose sum is the score, if there are several; the scorer returns their scores.
      seed: Together with the iteration it determines all random numbers.
      sampling_mode: Compilation of the sampling: "xla", "graph" or "eager".
      mode: Compilation of the full forward passes.
      replicas: Each replica samples responses to its share of the prompts, and each process scores a share. Every
        replica gets the whole rollout.
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
        part_names: Sequence[str] = (),
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
        self.part_names = tuple(part_names)
        self._scorer = HostFunction(scorer, stateful=False)
        self._sample = compiled(self._sample_share, sampling_mode)
        self._evaluate_policy = compiled(self._policy_share, mode)
        self._evaluate_reference = compiled(self._reference_share, mode)

    def raising_own_errors(self) -> AbstractContextManager[None]:
        """Returns a context in which an exception of the scorer is raised unchanged.

        Without it TensorFlow raises an error of its own, which holds only the text of the exception.
        """
        return self._scorer.reraising()

    def collect(
        self, iteration: tf.Tensor, prompts: tf.Tensor, prompt_lengths: tf.Tensor, prompt_indices: tf.Tensor
    ) -> TextRollout:
        """Collects the rollout of an iteration.

        Args:
          iteration: Number of the iteration, int64 scalar.
          prompts: int32 [B, P], padded on the right.
          prompt_lengths: int32 [B].
          prompt_indices: int32 [B], by which the scorer finds the texts of the prompts.

        Returns:
          The rollout.
        """
        # ----- Sample
        samples = self.sample_responses(iteration, prompts, prompt_lengths)
        slots = tf.range(self.text.response_length)
        ended = tf.reduce_any(self.stop_condition(samples.responses, slots) & samples.mask, axis=1)  # [B]

        # ----- Score. The forward passes do not depend on it, so the Python reward runs at the same time
        raw_scores, scores, text_metrics = self.score_responses(prompt_indices, samples)

        # ----- Evaluate with the policy and the reference policy
        def evaluate(index: int) -> tuple[tf.Tensor, ...]:
            inputs = TokenInputs(samples.token_ids, prompt_lengths)
            share = self.replicas.cut((inputs, samples.responses), index)
            return *self._evaluate_policy(*share), self._evaluate_reference(*share)

        axes = (0,) * (self._policy_outputs + 1)
        log_probs, *values, reference_log_probs = self.replicas.gather(evaluate, axes)  # [B, R] each

        # ----- Assemble
        rollout = TextRollout(
            token_ids=samples.token_ids,
            prompt_lengths=prompt_lengths,
            responses=samples.responses,
            mask=samples.mask,
            log_probs=log_probs,
            reference_log_probs=reference_log_probs,
            values=values[0] if values else (),
            scores=scores,
            raw_scores=raw_scores,
            prompt_indices=prompt_indices,
            ended=ended,
            kl_coeff=tf.convert_to_tensor(self.kl_coeff),
            metrics=text_metrics,
        )
        return rollout._replace(metrics=_metrics(rollout, samples.log_probs))

    def sample_responses(self, iteration: tf.Tensor, prompts: tf.Tensor, prompt_lengths: tf.Tensor) -> Samples:
        """Samples the responses of an iteration.

        Args:
          iteration: Number of the iteration, int64 scalar; determines the random numbers.
          prompts: int32 [B, P], padded on the right.
          prompt_lengths: int32 [B].

        Returns:
          The samples of all replicas.
        """
        seed = fold_in(self.seed, iteration)

        def share(index: int) -> tuple[Samples]:
            return (self._sample(index, *self.replicas.cut((prompts, prompt_lengths), index), seed),)

        (samples,) = self.replicas.gather(share, axes=(0,))
        return samples

    def score_responses(
        self, prompt_indices: tf.Tensor, samples: Samples
    ) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        """Scores responses, and computes the metrics of their texts.

        Args:
          prompt_indices: int32 [B].
          samples: The responses.

        Returns:
          Raw scores float32 [B], the same scores normalized and clipped, and the metrics by name.
        """
        rows = self.replicas.cut_processes(tf.range(prompt_indices.shape[0]))
        share, scalar = tf.TensorSpec(rows.shape, tf.float32), tf.TensorSpec([], tf.float64)
        raw, scaled, words, distinct, *parts = self._scorer(
            [prompt_indices, samples.responses, samples.mask, rows],
            [share, share, scalar, scalar, *[share] * len(self.part_names)],
        )
        raw, scaled, *parts = self.replicas.gather_processes((raw, scaled, *parts), axes=(0,) * (2 + len(parts)))
        metrics = {f"reward/{name}": tf.reduce_mean(part) for name, part in zip(self.part_names, parts, strict=True)}
        return raw, scaled, {"text/response_length_mean": words, "text/distinct_2": distinct} | metrics

    def first_scores(self, source: tf.data.Dataset) -> np.ndarray:
        """Scores responses of the policy before the training, by which the scores of the training are normalized.

        Args:
          source: Batches of prompts, their lengths and their indices.

        Returns:
          Raw scores float32 [N] of SCALE_ROLLOUTS batches.
        """
        scores = []
        with self.raising_own_errors():
            for number, (prompts, lengths, indices) in enumerate(source.take(SCALE_ROLLOUTS)):
                samples = self.sample_responses(tf.constant(-1 - number, tf.int64), prompts, lengths)
                scores.append(self.score_responses(indices, samples)[0].numpy())
        return np.concatenate(scores)

    def _sample_share(self, index: int, prompts: tf.Tensor, prompt_lengths: tf.Tensor, seed: tf.Tensor) -> Samples:
        """Samples responses to the prompts of a replica.

        The noise is drawn for all replicas and then cut, so that the number of replicas does not change the samples.
        """
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

    @property
    def _policy_outputs(self) -> int:
        """Number of tensors that the policy computes for each token: log-probabilities, and values if it has them."""
        return 1 if self.policy.value_head is None else 2

    def _policy_share(self, inputs: TokenInputs, responses: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Returns the policy's log-probabilities and values, [N, R] each, or only the former if it has no values."""

        def evaluate(inputs: TokenInputs, responses: tf.Tensor) -> tuple[tf.Tensor, ...]:
            evaluation = self.policy.evaluate_actions(inputs, responses)
            return (evaluation.log_probs, evaluation.values)[: self._policy_outputs]

        return in_chunks(evaluate, inputs, responses, self.chunk, self._policy_outputs)

    def _reference_share(self, inputs: TokenInputs, responses: tf.Tensor) -> tf.Tensor:
        """Returns the reference policy's log-probabilities [N, R]."""

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
    """Applies a function to N responses in chunks, to bound the memory.

    Args:
      evaluate: Function of the inputs and responses of a chunk; returns float32 tensors [chunk, R].
      inputs: Of N sequences.
      responses: int [N, R].
      chunk: Number of sequences in a chunk; must divide N.
      outputs: Number of tensors that `evaluate` returns.

    Returns:
      The results for all responses, [N, R] each.
    """
    count, length = responses.shape
    if count == chunk:
        return evaluate(inputs, responses)
    pieces = tf.nest.map_structure(lambda x: tf.reshape(x, [-1, chunk, *x.shape[1:]]), (inputs, responses))
    spec = (tf.TensorSpec([chunk, length]),) * outputs
    results = tf.map_fn(lambda piece: evaluate(*piece), pieces, fn_output_signature=spec)
    return tuple(tf.reshape(x, [count, length]) for x in results)


def _metrics(rollout: TextRollout, sampled_log_probs: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns the metrics of a rollout: means over responses, and the sampler gap.

    Args:
      rollout: Holds the metrics of the texts, and the log-probabilities of the full forward pass.
      sampled_log_probs: Log-probabilities [B, R] of the sampler.
    """
    gap = zero_outside(sampled_log_probs - rollout.log_probs, rollout.mask)
    return rollout.metrics | {
        "text/score_mean": tf.reduce_mean(rollout.raw_scores),
        "text/score_std": tf.math.reduce_std(rollout.raw_scores),
        "text/scaled_score_mean": tf.reduce_mean(rollout.scores),
        "text/kl": tf.reduce_mean(tf.reduce_sum(rollout.log_ratio, axis=1)),
        "text/response_tokens_mean": tf.reduce_mean(tf.reduce_sum(tf.cast(rollout.mask, tf.float32), axis=1)),
        "text/eos_fraction": tf.reduce_mean(tf.cast(rollout.ended, tf.float32)),
        "text/sampler_gap": tf.reduce_max(tf.abs(gap)),
    }
