"""The task "keywords": responses with terms of film-making. Its reward is a list of words and needs no model."""

import re
from collections.abc import Sequence
from statistics import fmean

from tfppo.text.tasks.definition.beginnings import movie_prompts
from tfppo.text.tasks.definition.registry import register_task
from tfppo.text.tasks.definition.task import Task

CRAFT = (  # plurals in s count, too; "film" and "movie" are no terms of film-making
    "acting actor actress animation camera cast character choreography cinematographer cinematography comedian "
    "costume dialogue direction director editing editor ending filmmaker lighting makeup montage music narrative "
    "pacing performance photography plot premise producer scene score screenplay screenwriter script sequence "
    "soundtrack storytelling stunt twist"
)
TERMS = tuple(CRAFT.split())
COUNTED = 3  # largest number of terms that earn a reward, so that a list of terms scores no more than a sentence
PATTERN = re.compile(rf"\b({'|'.join(TERMS)})s?\b")


def terms_in(text: str) -> set[str]:
    """Finds the film-making terms in a text.

    Args:
      text: Any text; a term must be a whole word, in upper or lower case, singular or plural.

    Returns:
      The terms in lower case and singular.
    """
    return set(PATTERN.findall(text.casefold()))


def keyword_reward(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """Scores responses by their number of distinct film-making terms.

    Args:
      prompts: N prompts; their terms do not count.
      responses: N responses.

    Returns:
      N scores, which are 0, 1/3, 2/3 or 1 for no, one, two, and three or more terms.
    """
    return [min(len(terms_in(response)), COUNTED) / COUNTED for response in responses]


def mean_terms(prompts: Sequence[str], responses: Sequence[str]) -> float:
    """Computes the mean number of distinct film-making terms in a response; at most three of a response count.

    Args:
      prompts: N prompts; their terms do not count.
      responses: N responses.

    Returns:
      A number from 0 to 3.
    """
    return fmean(min(len(terms_in(response)), COUNTED) for response in responses)


KEYWORDS = register_task(
    Task(
        name="keywords",
        description="mention script, camera, acting: three film-making terms in a response",
        prompts=movie_prompts,
        make_reward=lambda: keyword_reward,
        measure=mean_terms,
        metric="film_terms",
        target=2.0,
        defaults={
            "iterations": 100,
            "response_length": 32,
            "minibatch_size": 32,
            "adaptive_kl_target": 10.5,
            "kl_horizon": 600,
        },
    )
)
