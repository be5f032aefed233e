"""The task "length": responses of eight words. Its reward needs no model and is easy to verify."""

from functools import partial
from statistics import fmean

from tfppo.errors import UsageError
from tfppo.text.data.metrics import word_count
from tfppo.text.rewards.callables import Reward
from tfppo.text.tasks.definition.beginnings import movie_prompts
from tfppo.text.tasks.definition.registry import register_task
from tfppo.text.tasks.definition.task import Task

WORDS = 8
PROMPT_WORDS = (3,)  # no token marks the end of a prompt; with a fixed length the model knows where the response starts
SETTINGS = {
    "iterations": 150,
    "response_length": 24,
    "learning_rate": 4e-4,
    "num_epochs": 4,
    "value_coeff": 0.5,  # the return depends on the number of words so far, which the values must learn
    "entropy_coeff": 0.0,  # short responses score low, so no bonus is needed to prevent them
    "adaptive_kl_target": 12.0,
    "kl_horizon": 600,
    "minibatch_size": 32,
}


def length_reward(words: int = WORDS) -> Reward:
    """Makes a reward for responses of a given number of words.

    The score of a response with `n` words is `max(-1, 1 - |n - words| / words)`; the words of the prompt do not count.

    Args:
      words: The wanted number of words.

    Returns:
      The reward function.
    """

    def score(prompts: list[str], responses: list[str]) -> list[float]:
        return [max(-1.0, 1.0 - abs(word_count(response) - words) / words) for response in responses]

    return score


def length_task(words: int = WORDS) -> Task:
    """Makes the task of responding in a given number of words.

    Args:
      words: The wanted number of words.

    Returns:
      The task, which is not registered. Its name is "length" for eight words, else for example "length-12".

    Raises:
      UsageError: If `words` is not an integer of at least 1.
    """
    if not isinstance(words, int) or isinstance(words, bool) or words < 1:
        raise UsageError(f"words is {words!r}; it must be an integer of at least 1")

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
