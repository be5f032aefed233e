"""How good a tuned language model is, beside the reference that it came from: held-out prompts, answered by both."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfppo.execution.compilation import compiled
from tfppo.ops.random import fold_in
from tfppo.text.config import TextConfig
from tfppo.text.data.codec import PromptCodec
from tfppo.text.data.corpus import DOMAINS
from tfppo.text.data.tokenizer import control_token
from tfppo.text.metrics import distinct_2, mean_words, vader_compound
from tfppo.text.models.language_model import LanguageModel
from tfppo.text.policy import TokenInputs, response_log_probs
from tfppo.text.rewards.callables import Reward, checked_scores
from tfppo.text.sampling import StopCondition, sample
from tfppo.text.tasks import Task

ROWS = 50  # sequences in a forward pass
SEED_OFFSET = 1_000_003  # keeps evaluation's samples apart from those of training


class Responses(NamedTuple):
    """What a language model answered to N prompts; NumPy arrays."""

    token_ids: np.ndarray  # [N, P + R] int32
    prompt_lengths: np.ndarray  # [N] int32
    responses: np.ndarray  # [N, R] int32
    mask: np.ndarray  # [N, R] bool


class Responder:
    """A language model that answers, and is asked what it thinks of answers: programs that are compiled once.

    Args:
      model: the language model.
      text: its response_length and temperature.
      stop_condition: what ends a response.
      mode: "xla", "graph" or "eager".
      **options: `temperature`, `top_k`, `top_p` of `sampling.sample`, for its own answers.
    """

    def __init__(
        self,
        model: LanguageModel,
        text: TextConfig,
        stop_condition: StopCondition,
        *,
        mode: str = "graph",
        **options: Any,
    ):
        options = {"temperature": text.temperature} | options
        self.model = model
        self._draw = compiled(
            lambda ids, lengths, seed: sample(
                model, ids, lengths, text.response_length, seed, stop_condition=stop_condition, **options
            ),
            mode,
        )
        self._log_probs = compiled(functools.partial(response_log_probs, model), mode)

    def respond(self, prompts: tuple[np.ndarray, np.ndarray], seed: int) -> Responses:
        """Samples a response for each prompt: int32 [N, P], padded on the right, and lengths int32 [N]. Two models that
        are given one seed are given the same noise."""
        root = tf.constant([seed, 0xE7A1], tf.int32)
        parts = [
            self._draw(tf.constant(ids), tf.constant(lengths), fold_in(root, number))
            for number, (ids, lengths) in enumerate(_chunks(*prompts))
        ]
        ids, responses, _, mask = (np.concatenate(field)[: len(prompts[1])] for field in zip(*parts, strict=True))
        return Responses(ids, prompts[1], responses, mask)

    def total_log_probs(self, answers: Responses, temperature: float = 1.0) -> np.ndarray:
        """The log-probability of each whole response, float [N]: the sum over its tokens."""
        parts = []
        for ids, lengths, responses, mask in _chunks(*answers):
            inputs = TokenInputs(tf.constant(ids), tf.constant(lengths))
            log_probs = self._log_probs(inputs, tf.constant(responses), temperature).numpy()
            parts.append(np.where(mask, log_probs, 0.0).sum(axis=1))
        return np.concatenate(parts)[: len(answers.prompt_lengths)]


def most_likely_domains(reference: Responder, codec: PromptCodec, texts: Sequence[str]) -> list[str] | None:
    """The domain whose control token makes each text most probable to the language model that knows them all:
    Bayes' rule with equal priors. None where the tokenizer has no control tokens."""
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
        answers = Responses(np.concatenate([control, responses], axis=1), lengths, responses, mask)
        likelihoods.append(reference.total_log_probs(answers))
    return [DOMAINS[best] for best in np.argmax(likelihoods, axis=0)]


def compare(
    policy: LanguageModel,
    reference: LanguageModel,
    codec: PromptCodec,
    task: Task,
    reward: Reward,
    text: TextConfig,
    prompts: Sequence[str],
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The evaluation of a policy beside its reference (see README for each number), and both models' responses.

    Args:
      policy: the tuned language model.
      reference: what it was tuned from.
      codec: the tokenizer of both.
      task: gives the metric.
      reward: scores, unscaled.
      text: length and temperature of the responses.
      prompts: N held-out prompts.
      seed: of the samples.
      progress: told how many of the two models are done.
    """
    encoded = codec.encode(prompts)
    seed = (seed + SEED_OFFSET) % 2**31
    result: dict[str, Any] = {"prompts": len(prompts)}
    texts = {}
    responders = {
        name: Responder(model, text, codec.stop_condition(text))
        for name, model in (("reference", reference), ("policy", policy))
    }
    for done, (name, responder) in enumerate(responders.items()):
        answers = responder.respond(encoded, seed)
        own = responder.total_log_probs(answers, text.temperature)
        under_reference = responders["reference"].total_log_probs(answers, text.temperature)
        texts[name] = codec.decode_masked(answers.responses, answers.mask)
        whole = [prompt + response for prompt, response in zip(prompts, texts[name], strict=True)]
        scores = checked_scores(reward, prompts, texts[name])
        domains = None if task.domain is None else most_likely_domains(responders["reference"], codec, whole)
        measured = {
            "score": {"mean": float(scores.mean()), "std": float(scores.std())},
            "judge": float(vader_compound(whole).mean()),
            "kl": float((own - under_reference).mean()),
            "distinct_2": distinct_2(texts[name]),
            "length": mean_words(texts[name]),
            "domain": None if domains is None else domains.count(task.domain) / len(domains),
            "perplexity": math.exp(-under_reference.sum() / answers.mask.sum()),
            task.metric: task.measure(list(prompts), texts[name]),
        }
        for key, value in measured.items():
            result.setdefault(key, {})[name] = value
        progress(done + 1)
    result["kl"] = result["kl"]["policy"]
    spread = result["score"]["reference"]["std"] or 1.0
    result["gain"] = (result["score"]["policy"]["mean"] - result["score"]["reference"]["mean"]) / spread
    return result, texts


def _chunks(*arrays: np.ndarray) -> Any:
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
