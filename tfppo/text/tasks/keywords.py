"""The task "keywords": responses that speak of how films are made. Its reward needs no model: a list of words."""

import re
from collections.abc import Sequence
from statistics import fmean

from tfppo.text.tasks.task import Task, movie_prompts, register_task

CRAFT = (  # each with its plural in s; "film" and "movie" would be no craft
    "acting actor actress animation camera cast character choreography cinematographer cinematography comedian "
    "costume dialogue direction director editing editor ending filmmaker lighting makeup montage music narrative "
    "pacing performance photography plot premise producer scene score screenplay screenwriter script sequence "
    "soundtrack storytelling stunt twist"
)
TERMS = tuple(CRAFT.split())
COUNTED = 3  # terms of a response; more earn nothing, so that a list of terms is no better than a sentence
PATTERN = re.compile(rf"\b({'|'.join(TERMS)})s?\b")


def terms_in(text: str) -> set[str]:
    """The film-craft terms in a text: whole words in any case, the plural as the singular."""
    return set(PATTERN.findall(text.casefold()))


def keyword_reward(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """Distinct terms of each response (without its prompt), at most three counted, over three: 0, 1/3, 2/3 or 1."""
    return [min(len(terms_in(response)), COUNTED) / COUNTED for response in responses]


def mean_terms(prompts: Sequence[str], responses: Sequence[str]) -> float:
    """Distinct terms a response, at most three counted: from 0 to 3."""
    return fmean(min(len(terms_in(response)), COUNTED) for response in responses)


KEYWORDS = register_task(
    Task(
        name="keywords",
        description="speak of script, camera, acting: three terms of film craft in a response",
        prompts=movie_prompts,
        make_reward=lambda: keyword_reward,
        measure=mean_terms,
        metric="film_terms",
        target=2.0,
        defaults={"iterations": 100, "response_length": 32},
    )
)
