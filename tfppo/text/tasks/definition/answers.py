"""Tasks with short answers that are right or wrong: their examples, their reward, their metrics and their baselines."""

import random
import re
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

from tfppo.errors import UsageError
from tfppo.text.data.archives import Archive
from tfppo.text.data.corpus import Split
from tfppo.text.data.prompts import Prompt
from tfppo.text.tasks.definition.registry import register_task
from tfppo.text.tasks.definition.task import Task

Row = dict[str, str]  # with the keys "prompt" and "answer"
SETTINGS: Mapping[str, Any] = {  # of PPO; the reward is from 0 to 1 already, and variety is not wanted
    "entropy_coeff": 0.0,
    "kl_controller": "fixed",
    "kl_coeff": 0.02,
    "normalize_scores": False,
    "stop_token": None,
    "stop_after": 0,
}
RELATIVE: Mapping[str, Any] = {  # for rewards that depend on the prompt above all: RLOO, Ahmadian et al. 2024
    "advantages": "rloo",
    "responses_per_prompt": 4,
    "normalize_advantages": False,
    "value_coeff": 0.0,
}


def normalized(text: str) -> str:
    """Returns a text in lower case, without white space at its ends and doubled within, and without a final period."""
    return re.sub(r"\s+", " ", text).strip().removesuffix(".").rstrip().casefold()


def words_of(text: str) -> list[str]:
    """Returns the words of an answer as SQuAD compares them: in small letters, without punctuation and articles."""
    text = re.sub(r"[^\w\s]", " ", text.lower())
    return [word for word in text.split() if word not in ("a", "an", "the")]


def token_f1(response: str, answer: str) -> float:
    """Computes the F1 of the words of a response (Rajpurkar et al. 2016)."""
    given, wanted = words_of(response), words_of(answer)
    common = sum((Counter(given) & Counter(wanted)).values())
    return 2 * common / (len(given) + len(wanted)) if common else 0.0


def exact_match(prompts: Sequence[str], responses: Sequence[str], answer: Sequence[str]) -> list[float]:
    """Scores each response with 1 if it is the answer and nothing else, otherwise with 0.

    Args:
      prompts: N prompts.
      responses: N responses.
      answer: The N right answers.
    """
    return [float(normalized(given) == normalized(right)) for given, right in zip(responses, answer, strict=True)]


def accuracy(prompts: Sequence[str], responses: Sequence[str], answer: Sequence[str]) -> float:
    """Computes the share of responses that are the answer and nothing else."""
    return fmean(exact_match(prompts, responses, answer))


def macro_f1(prompts: Sequence[str], responses: Sequence[str], answer: Sequence[str]) -> float:
    """Computes the mean over the classes of the F1 of each. A response that is no class counts as a wrong one.

    Args:
      prompts: N prompts.
      responses: N responses.
      answer: The N right classes.
    """
    pairs = [(normalized(given), normalized(right)) for given, right in zip(responses, answer, strict=True)]
    hits = Counter(right for given, right in pairs if given == right)
    given, right = (Counter(pair[side] for pair in pairs) for side in (0, 1))
    return fmean(2 * hits[name] / (given[name] + right[name]) for name in right)


def examples_of(rows: Callable[[Split], list[Row]], split: Split) -> list[Row]:
    """Returns prompts with their answers as responses, for supervised fine-tuning."""
    return [{"prompt": row["prompt"], "response": f" {row['answer']}"} for row in rows(split)]


def half_of(rows: Callable[[Split], list[Row]], field: str, half: int, split: Split) -> list[Row]:
    """Returns one of two halves of the training split, chosen by a checksum of a field, or all of another split."""
    return [row for row in rows(split) if split != "train" or zlib.crc32(row[field].encode()) % 2 == half]


def most_frequent(rows: Callable[[Split], list[Row]], prompts: Sequence[Prompt]) -> list[str]:
    """Answers each prompt with the most frequent answer of the training split."""
    (answer, _), *_ = Counter(row["answer"] for row in rows("train")).most_common(1)
    return [answer] * len(prompts)


def drawn(rows: Callable[[Split], list[Row]], prompts: Sequence[Prompt]) -> list[str]:
    """Answers each prompt with one of the answers of the training split, drawn with the same probabilities."""
    return random.Random(1).choices(sorted({row["answer"] for row in rows("train")}), k=len(prompts))


def answer_task(
    name: str,
    description: str,
    rows: Callable[[Split], list[Row]],
    *,
    reward: Callable[..., list[float]] = exact_match,
    measure: Callable[..., float] = accuracy,
    metric: str = "accuracy",
    needs: Sequence[str] = (),
    archives: Sequence[Archive] = (),
    judges: Mapping[str, Callable[..., float]] | None = None,
    baselines: Mapping[str, Callable[[Sequence[Prompt]], list[str]]] | None = None,
    shares_prompts: bool = True,
    divided_by: str = "prompt",
    defaults: Mapping[str, Any] | None = None,
    sft_defaults: Mapping[str, Any] | None = None,
) -> Task:
    """Makes and registers a task with short answers.

    Args:
      name: Name of the task.
      description: One line for the list of tasks.
      rows: Returns the prompts of a split with their answers.
      reward: Scores responses; gets the label `answer`.
      measure: Computes the metric; gets the label `answer`.
      metric: Name of the metric. A `measure` of your own needs one.
      needs: Modules that the task imports and that tfppo does not need.
      archives: Packages whose data are read in place.
      judges: Other metrics, which the reward does not optimize; they get the label `answer`.
      baselines: Answers without a language model. None: the most frequent answer, and chance.
      shares_prompts: True: the examples are all training prompts with their answers. False: they are one half of
        them, and PPO gets the other half. A small model learns a few thousand examples by heart, and PPO then finds
        nothing to improve on the same prompts.
      divided_by: Field of the rows by which the halves are chosen: rows with the same value are in the same half.
      defaults: Settings of `tfppo train text`, besides SETTINGS.
      sft_defaults: Settings of `tfppo sft`.
    """
    if measure is not accuracy and metric == "accuracy":
        raise UsageError(
            f"task {name} has a measure of its own, and metric is accuracy; it must say what is measured: give metric"
        )
    halves = [rows, rows] if shares_prompts else [partial(half_of, rows, divided_by, half) for half in (0, 1)]
    learned, tuned = halves
    simple = {"majority": partial(most_frequent, rows), "chance": partial(drawn, rows)}
    return register_task(
        Task(
            name=name,
            description=description,
            prompts=tuned,
            make_reward=lambda: reward,
            measure=measure,
            metric=metric,
            domain=None,
            defaults={**SETTINGS, **(defaults or {})},
            examples=partial(examples_of, learned),
            sft_defaults=sft_defaults or {},
            baselines=simple if baselines is None else baselines,
            needs=needs,
            archives=archives,
            judges=judges or {},
        )
    )
