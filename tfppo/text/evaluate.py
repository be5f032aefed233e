"""Evaluation of a tuned language model: it and its reference policy respond to the same held-out prompts."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfppo.errors import UsageError
from tfppo.execution.compilation import compiled
from tfppo.ops.random import fold_in
from tfppo.text.config import TextConfig
from tfppo.text.data.codec import PromptCodec
from tfppo.text.data.corpus import DOMAINS, Domain
from tfppo.text.data.metrics import distinct_2, mean_words, vader_compound
from tfppo.text.data.tokenizer import control_token
from tfppo.text.models.language_model import LanguageModel
from tfppo.text.policy import TokenInputs, response_log_probs
from tfppo.text.rewards.callables import Reward, checked_scores
from tfppo.text.rollouts.sampling import Samples, gumbel_noise, sample
from tfppo.text.tasks import Task

ROWS = 50  # largest number of sequences in a forward pass
NO_SCORE = {"mean": None, "std": None}
SEED_OFFSET = 1_000_003  # the evaluation's seeds differ from those of training


class Responses(NamedTuple):
    """Responses to N prompts as NumPy arrays and as texts."""

    token_ids: np.ndarray  # [N, P + R] int32
    prompt_lengths: np.ndarray  # [N] int32
    responses: np.ndarray  # [N, R] int32
    mask: np.ndarray  # [N, R] bool
    texts: list[str]


class Responder:
    """Samples responses from a language model, and computes the log-probabilities of given responses.

    The prompts of a call are processed in batches of at most 50, all of one size, so that a program is compiled only
    once for each size. Prompts behind a prompt in the first batch do not change its response.

    Args:
      model: Language model.
      codec: Encodes prompts and decodes responses.
      text: response_length, temperature and stop token.
      mode: Compilation: "xla", "graph" or "eager".
      response_length: Largest number of tokens of a response; None uses that of `text`.
      temperature: Temperature of the sampling; None uses that of `text`.
      top_k: As in `sampling.sample`.
      top_p: As in `sampling.sample`.
    """

    def __init__(
        self,
        model: LanguageModel,
        codec: PromptCodec,
        text: TextConfig,
        *,
        mode: str = "graph",
        response_length: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
    ):
        def draw(ids: tf.Tensor, lengths: tf.Tensor, seed: tf.Tensor) -> Samples:
            return sample(
                model,
                ids,
                lengths,
                text.response_length if response_length is None else response_length,
                gumbel_noise(seed, ids.shape[0], model.vocabulary_size),
                stop_condition=stop_condition,
                temperature=text.temperature if temperature is None else temperature,
                top_k=top_k,
                top_p=top_p,
            )

        stop_condition = codec.stop_condition(text)
        self.model = model
        self.codec = codec
        self._draw = compiled(draw, mode)
        self._log_probs = compiled(functools.partial(response_log_probs, model), mode)

    def respond(self, prompts: tuple[np.ndarray, np.ndarray], seed: int) -> Responses:
        """Samples a response to each prompt, and decodes it.

        Args:
          prompts: int32 [N, P], padded on the right, and their lengths int32 [N].
          seed: Seed of the sampling noise, which does not depend on the model.

        Returns:
          The responses.
        """
        root = tf.constant([seed, 0xE7A1], tf.int32)
        parts = [
            self._draw(tf.constant(ids), tf.constant(lengths), fold_in(root, number))
            for number, (ids, lengths) in enumerate(_chunks(*prompts))
        ]
        ids, responses, _, mask = (np.concatenate(field)[: len(prompts[1])] for field in zip(*parts, strict=True))
        return Responses(ids, prompts[1], responses, mask, self.codec.decode_masked(responses, mask))

    def total_log_probs(self, given: Responses, temperature: float = 1.0) -> np.ndarray:
        """Computes the log-probability of each response, which is the sum over its tokens.

        Args:
          given: N responses, of any language model with this tokenizer.
          temperature: Divides the logits.

        Returns:
          Log-probabilities, float [N], in nats.
        """
        parts = []
        for ids, lengths, responses, mask in _chunks(
            given.token_ids, given.prompt_lengths, given.responses, given.mask
        ):
            inputs = TokenInputs(tf.constant(ids), tf.constant(lengths))
            log_probs = self._log_probs(inputs, tf.constant(responses), temperature).numpy()
            parts.append(np.where(mask, log_probs, 0.0).sum(axis=1))
        return np.concatenate(parts)[: len(given.texts)]


def most_likely_domains(reference: Responder, texts: Sequence[str]) -> list[Domain] | None:
    """Classifies texts by domain, with Bayes' rule and equal priors.

    The domain of a text is the one with the control token after which the text is most probable.

    Args:
      reference: A language model that was pretrained with the control tokens.
      texts: N texts.

    Returns:
      The N domains, or None if the tokenizer has no control tokens.
    """
    codec = reference.codec
    vocabulary = codec.tokenizer.get_vocabulary()
    if any(control_token(domain) not in vocabulary for domain in DOMAINS):
        return None
    rows = [[*map(int, ids), codec.end] for ids in codec.tokenizer.tokenize([text or " " for text in texts])]
    context = reference.model.context_length
    if context is not None:
        rows = [row[: context - 1] for row in rows]
    width = max(map(len, rows))
    responses = np.array([row + [codec.pad] * (width - len(row)) for row in rows], np.int32)  # [N, R]
    mask = np.arange(width) < np.array([len(row) for row in rows])[:, None]
    lengths = np.ones(len(rows), np.int32)
    likelihoods = []
    for domain in DOMAINS:
        control = np.full([len(rows), 1], codec.tokenizer.token_to_id(control_token(domain)), np.int32)
        given = Responses(np.concatenate([control, responses], axis=1), lengths, responses, mask, list(texts))
        likelihoods.append(reference.total_log_probs(given))
    return [DOMAINS[best] for best in np.argmax(likelihoods, axis=0)]


def held_out_prompts(task: Task, count: int) -> list[str]:
    """Chooses test prompts of a task. The choice does not depend on the seed of the run.

    Args:
      task: Task of the run.
      count: Largest number of prompts.

    Returns:
      The prompts; fewer than `count` if the task has fewer.

    Raises:
      UsageError: If the task has no test prompts.
    """
    prompts = task.checked_prompts("test")
    if not prompts:
        raise UsageError(
            f"task {task.name} has no test prompts; an evaluation needs at least one: add some to the task, or train "
            "with --eval-prompts 0"
        )
    return [prompts[index] for index in np.random.default_rng(0).permutation(len(prompts))[:count]]


def compare(
    prompts: Sequence[str],
    seed: int,
    *,
    policy: LanguageModel,
    reference: LanguageModel,
    codec: PromptCodec,
    task: Task,
    reward: Reward,
    text: TextConfig,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Evaluates a policy and its reference policy on the same prompts.

    The numbers are, for each of the two models:

    - `score`: mean and standard deviation of the reward's scores, not normalized
    - `judge`: mean VADER compound sentiment of prompt and response
    - `distinct_2`: distinct word bigrams over all word bigrams of the responses
    - `length`: mean number of words of a response
    - `domain`: share of texts that the reference policy assigns to the task's domain, or None
    - `perplexity`: perplexity of the responses under the reference policy at temperature 1, per token; infinite if a
      float cannot hold it
    - the metric of the task under its own name, if the task has one

    and once:

    - `prompts`: N
    - `kl`: mean over the policy's responses of `log pi - log pi_ref` at the temperature of `text`, in nats per response
    - `gain`: increase of the mean score, in standard deviations of the reference policy's scores
    - `failed`: lines that say which numbers could not be computed, and are None; the key is missing if there is no line

    Args:
      prompts: N held-out prompts.
      seed: Seed of the responses.
      policy: Tuned language model.
      reference: Language model before tuning.
      codec: Encodes and decodes for both models.
      task: Gives the metric and the domain.
      reward: Scores the responses.
      text: Length and temperature of the responses.
      progress: Called with the number of models done, 1 and 2.

    Returns:
      The numbers, and the responses by model ("reference" and "policy").

    Raises:
      UsageError: If a prompt is invalid or too long, or if the reward raises or returns no numbers.
    """
    context = policy.context_length
    encoded = codec.encode(prompts, None if context is None else context - text.response_length)
    judge = Responder(reference, codec, text)
    responders = {"reference": judge, "policy": Responder(policy, codec, text)}
    measured, texts, failed = {}, {}, dict[str, None]()
    for done, (name, responder) in enumerate(responders.items()):
        given = responder.respond(encoded, (seed + SEED_OFFSET) % 2**31)
        own, under_reference = (who.total_log_probs(given, text.temperature) for who in (responder, judge))
        untempered = under_reference if text.temperature == 1.0 else judge.total_log_probs(given)
        perplexity = _perplexity(untempered, given.mask)
        measured[name] = _measure(prompts, given, own - under_reference, perplexity, judge, task, reward, failed)
        texts[name] = given.texts
        progress(done + 1)
    old, new = measured["reference"], measured["policy"]
    result = {"prompts": len(prompts)} | {key: {"reference": old[key], "policy": new[key]} for key in old}
    before, after, spread = old["score"]["mean"], new["score"]["mean"], old["score"]["std"]
    gain = None if None in (before, after) else (after - before) / (spread or 1.0)
    return result | {"kl": new["kl"], "gain": gain} | ({"failed": list(failed)} if failed else {}), texts


def _measure(
    prompts: Sequence[str],
    given: Responses,
    log_ratio: np.ndarray,
    perplexity: float,
    reference: Responder,
    task: Task,
    reward: Reward,
    failed: dict[str, None],
) -> dict[str, Any]:
    """Measures the responses of one model to N prompts.

    Args:
      prompts: N prompts.
      given: The responses.
      log_ratio: Log-probabilities [N] of the responses under this model, minus those under the reference policy.
      perplexity: Perplexity of the responses under the reference policy.
      reference: The reference policy.
      task: Gives the metric and the domain.
      reward: Scores the responses.
      failed: Gets a line, as a key, for each number that cannot be computed.

    Returns:
      The numbers of one model, see `compare`.
    """
    whole = reference.codec.join(prompts, given.texts)
    scores = checked_scores(reward, prompts, given.texts, must_be_finite=False)
    finite = scores[np.isfinite(scores)]
    if len(finite) < len(scores):
        failed[f"{len(scores) - len(finite)} of {len(scores)} scores are not finite and are left out"] = None
    try:
        metric = task.checked_measure(prompts, given.texts)
    except UsageError as error:  # the other numbers are still of use
        metric = None
        failed[str(error)] = None
    domains = None if task.domain is None else most_likely_domains(reference, whole)
    return {
        "score": {"mean": float(finite.mean()), "std": float(finite.std())} if len(finite) else NO_SCORE,
        "judge": float(vader_compound(whole).mean()),
        "kl": float(log_ratio.mean()),
        "distinct_2": distinct_2(given.texts),
        "length": mean_words(given.texts),
        "domain": None if domains is None else sum(found == task.domain for found in domains) / len(domains),
        "perplexity": perplexity,
    } | ({} if task.metric is None else {task.metric: metric})


def _perplexity(log_probs: np.ndarray, mask: np.ndarray) -> float:
    """Computes the perplexity per token of responses with log-probabilities [N] and tokens [N, R]."""
    try:
        return math.exp(-log_probs.sum() / mask.sum())
    except OverflowError:
        return math.inf


def _chunks(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Cuts arrays [N, ...] into as few pieces of at most ROWS rows as possible.

    All pieces have the same number of rows. The last row is repeated until the last piece is full.
    """
    count = len(arrays[0])
    pieces = -(-count // ROWS)
    size = -(-count // pieces)
    rows = np.minimum(np.arange(pieces * size), count - 1).reshape(pieces, size)
    for piece in rows:
        yield tuple(array[piece] for array in arrays)


def describe(evaluation: dict[str, Any]) -> str:
    """Formats an evaluation as a small table.

    Args:
      evaluation: The numbers of `compare`, `weights`, the checksum of the policy's weights, and for prompts of the user
        `split`, the split whose prompts were used.

    Returns:
      A text of several lines.
    """

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    count = evaluation["prompts"]
    kind = "training" if evaluation.get("split") == "train" else "held-out"
    lines = [f"{f'{count} {kind} prompt' + 's' * (count != 1):<22}{'reference':>12}{'policy':>10}"]
    for name, value in evaluation.items():
        if isinstance(value, dict) and "policy" in value:
            old, new = (v["mean"] if isinstance(v, dict) else v for v in (value["reference"], value["policy"]))
            lines.append(f"{name:<22}{number(old):>12}{number(new):>10}")
    gain = "unknown" if evaluation["gain"] is None else f"{evaluation['gain']:+.2f}"
    kl = evaluation["kl"]
    lines.append(f"gain {gain} standard deviations of the reference scores, KL {kl:.2f} nats per response")
    lines += [f"not computed: {reason}" for reason in evaluation.get("failed", ())]
    lines.append(f"weights {evaluation['weights']} (SHA-256)")
    return "\n".join(lines)
