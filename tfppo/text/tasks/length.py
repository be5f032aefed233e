"""The task "length": responses of eight words. Its reward needs no model, so it can be verified word by word."""

from functools import partial
from statistics import fmean

from tfppo.errors import UsageError
from tfppo.text.data.metrics import word_count
from tfppo.text.rewards.callables import Reward
from tfppo.text.tasks.task import Task, movie_prompts, register_task

WORDS = 8
PROMPT_WORDS = (3,)  # nothing marks where a prompt ends: were its length not known, nor would the response's be
SETTINGS = {
    "iterations": 150,
    "response_length": 24,
    "learning_rate": 4e-4,
    "num_epochs": 4,
    "value_coeff": 0.5,  # each token depends on how many words there are, which the values must learn to see
    "entropy_coeff": 0.0,  # a response cannot be cheated short here
    "adaptive_kl_target": 12.0,
}


def length_reward(words: int = WORDS) -> Reward:
    """1 - |n - words| / words, at least -1, where n is the number of words of the response (without the prompt)."""

    def score(prompts: list[str], responses: list[str]) -> list[float]:
        return [max(-1.0, 1.0 - abs(word_count(response) - words) / words) for response in responses]

    return score


def length_task(words: int = WORDS) -> Task:
    """The task of responding in so many words: "length" with eight, "length-12" with twelve.

    Raises:
      UsageError: if `words` is no whole number of at least 1.
    """
    if not isinstance(words, int) or isinstance(words, bool) or words < 1:
        raise UsageError(f"words of a length task must be a whole number of at least 1, not {words!r}")

    def share_within_one_word(prompts: list[str], responses: list[str]) -> float:
        return fmean(abs(word_count(response) - words) <= 1 for response in responses)

    return Task(
        name="length" if words == WORDS else f"length-{words}",
        description=f"respond in {words} words",
        prompts=partial(movie_prompts, words=PROMPT_WORDS),
        make_reward=lambda: length_reward(words),
        measure=share_within_one_word,
        metric="within_one_word",
        target=0.8,
        defaults=dict(SETTINGS),
    )


LENGTH = register_task(length_task())
