"""How good a tuned language model is, beside the reference that it came from: held-out prompts, answered by both."""

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
from tfppo.text.sampling import Samples, gumbel_noise, sample
from tfppo.text.tasks import Task

ROWS = 50  # sequences in a forward pass
SEED_OFFSET = 1_000_003  # keeps evaluation's samples apart from those of training


class Responses(NamedTuple):
    """Responses to N prompts; NumPy arrays, and their texts."""

    token_ids: np.ndarray  # [N, P + R] int32
    prompt_lengths: np.ndarray  # [N] int32
    responses: np.ndarray  # [N, R] int32
    mask: np.ndarray  # [N, R] bool
    texts: list[str]


class Responder:
    """A language model that responds to prompts, and gives probabilities to responses; its programs are compiled once.

    Args:
      model: the language model.
      codec: its tokenizer.
      text: its response_length, its temperature, and what ends a response.
      mode: "xla", "graph" or "eager".
      temperature: of its own responses; None: that of `text`.
      top_k: as in `sampling.sample`, for its own responses.
      top_p: as in `sampling.sample`, for its own responses.
    """

    def __init__(
        self,
        model: LanguageModel,
        codec: PromptCodec,
        text: TextConfig,
        *,
        mode: str = "graph",
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
    ):
        def draw(ids: tf.Tensor, lengths: tf.Tensor, seed: tf.Tensor) -> Samples:
            return sample(
                model,
                ids,
                lengths,
                text.response_length,
                gumbel_noise(seed, ROWS, model.vocabulary_size),
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
        """Samples a response for each prompt, and decodes it. Two models with the same seed get the same noise.

        Args:
          prompts: int32 [N, P], padded on the right, and their lengths int32 [N].
          seed: of the noise.
        """
        root = tf.constant([seed, 0xE7A1], tf.int32)
        parts = [
            self._draw(tf.constant(ids), tf.constant(lengths), fold_in(root, number))
            for number, (ids, lengths) in enumerate(_chunks(*prompts))
        ]
        ids, responses, _, mask = (np.concatenate(field)[: len(prompts[1])] for field in zip(*parts, strict=True))
        return Responses(ids, prompts[1], responses, mask, self.codec.decode_masked(responses, mask))

    def total_log_probs(self, given: Responses, temperature: float = 1.0) -> np.ndarray:
        """Computes the log-probability of each whole response, float [N]: the sum over its tokens."""
        parts = []
        for ids, lengths, responses, mask in _chunks(
            given.token_ids, given.prompt_lengths, given.responses, given.mask
        ):
            inputs = TokenInputs(tf.constant(ids), tf.constant(lengths))
            log_probs = self._log_probs(inputs, tf.constant(responses), temperature).numpy()
            parts.append(np.where(mask, log_probs, 0.0).sum(axis=1))
        return np.concatenate(parts)[: len(given.texts)]


def most_likely_domains(reference: Responder, texts: Sequence[str]) -> list[Domain] | None:
    """Finds the domain whose control token makes each text most probable to the language model that knows them all:
    Bayes' rule with equal priors. None where the tokenizer has no control tokens."""
    codec = reference.codec
    vocabulary = codec.tokenizer.get_vocabulary()
    if any(control_token(domain) not in vocabulary for domain in DOMAINS):
        return None
    rows = [[*map(int, ids), codec.end] for ids in codec.tokenizer([text or " " for text in texts])]
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
    """Chooses test prompts of a task, the same for every seed.

    Raises:
      UsageError: if the task has none.
    """
    prompts = task.prompts("test")
    if not prompts:
        raise UsageError(f"task {task.name} has no test prompts: give it some, or train with --eval-prompts 0")
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
    """Evaluates a policy beside its reference (see README for each number). Returns the numbers, and the responses of
    both.

    Args:
      prompts: N held-out prompts.
      seed: of the samples.
      policy: the tuned language model.
      reference: what it was tuned from.
      codec: the tokenizer of both.
      task: gives the metric.
      reward: scores, unscaled.
      text: length and temperature of the responses.
      progress: told how many of the two models are done.
    """
    encoded = codec.encode(prompts)
    judge = Responder(reference, codec, text)
    responders = {"reference": judge, "policy": Responder(policy, codec, text)}
    measured, texts = {}, {}
    for done, (name, responder) in enumerate(responders.items()):
        given = responder.respond(encoded, (seed + SEED_OFFSET) % 2**31)
        own, under_reference = (who.total_log_probs(given, text.temperature) for who in (responder, judge))
        measured[name] = _measure(prompts, given, own, under_reference, judge, task, reward)
        texts[name] = given.texts
        progress(done + 1)
    old, new = measured["reference"], measured["policy"]
    result = {"prompts": len(prompts)} | {key: {"reference": old[key], "policy": new[key]} for key in old}
    gain = (new["score"]["mean"] - old["score"]["mean"]) / (old["score"]["std"] or 1.0)
    return result | {"kl": new["kl"], "gain": gain}, texts


def _measure(
    prompts: Sequence[str],
    given: Responses,
    own: np.ndarray,
    under_reference: np.ndarray,
    reference: Responder,
    task: Task,
    reward: Reward,
) -> dict[str, Any]:
    """Measures responses to N prompts, whose log-probabilities [N] are `own` under the model that gave them."""
    whole = [prompt + response for prompt, response in zip(prompts, given.texts, strict=True)]
    scores = checked_scores(reward, prompts, given.texts)
    domains = None if task.domain is None else most_likely_domains(reference, whole)
    return {
        "score": {"mean": float(scores.mean()), "std": float(scores.std())},
        "judge": float(vader_compound(whole).mean()),
        "kl": float((own - under_reference).mean()),
        "distinct_2": distinct_2(given.texts),
        "length": mean_words(given.texts),
        "domain": None if domains is None else sum(found == task.domain for found in domains) / len(domains),
        "perplexity": math.exp(-under_reference.sum() / given.mask.sum()),
        task.metric: task.measure(list(prompts), given.texts),
    }


def _chunks(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Pieces of ROWS rows of arrays [N, ...], all of one shape: the last is filled up with the last row."""
    count = len(arrays[0])
    rows = np.minimum(np.arange(-(-count // ROWS) * ROWS), count - 1).reshape(-1, ROWS)
    for piece in rows:
        yield tuple(array[piece] for array in arrays)


def describe(evaluation: dict[str, Any]) -> str:
    """An evaluation as a small table."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    lines = [f"{evaluation['prompts']} held-out prompts    reference    policy"]
    for name, value in evaluation.items():
        if isinstance(value, dict) and "policy" in value:
            old, new = (v["mean"] if isinstance(v, dict) else v for v in (value["reference"], value["policy"]))
            lines.append(f"{name:<22}{number(old):>12}{number(new):>10}")
    gain, kl = evaluation["gain"], evaluation["kl"]
    lines.append(f"score {gain:+.2f} standard deviations of the reference's, at a KL of {kl:.2f} nats a response")
    lines.append(f"weights {evaluation['weights']} (SHA-256)")
    return "\n".join(lines)
