"""Functions of prompts and responses: the order and the names of their parameters."""

import functools

import pytest
from support.refusal import refusal

from tfppo.text.rewards.callables import as_reward, checked_scores
from tfppo.text.rewards.signature import call_with_texts, check_signature

PROMPTS, RESPONSES = ["a", "a"], ["bb", "ccc"]


class Judge:
    def __call__(self, responses, prompts):
        return compare(responses, prompts)

    def in_order(self, first, second):
        return compare(second, first)


def compare(responses, prompts):
    """Scores responses by their length; it fails if it gets the two lists in the wrong order."""
    assert (prompts, responses) == (PROMPTS, RESPONSES)
    return [len(response) for response in responses]


def decorated(function):
    @functools.wraps(function)
    def wrapper(*texts):
        return function(*texts)

    return wrapper


@pytest.mark.parametrize(
    "reward",
    [
        compare,
        lambda prompts, responses: compare(responses, prompts),
        lambda p, r: compare(r, p),
        lambda prompts, responses, /: compare(responses, prompts),
        lambda *texts: compare(*reversed(texts)),
        lambda **texts: compare(**texts),
        lambda *, responses, prompts: compare(responses, prompts),
        lambda responses, **rest: compare(responses, **rest),
        lambda a=None, b=None, responses=None, prompts=None: compare(responses, prompts),
        Judge(),
        Judge().in_order,
        functools.partial(lambda scale, responses, prompts: compare(responses, prompts), 2),
        functools.partial(lambda responses, prompts, scale: compare(responses, prompts), scale=2),
        decorated(lambda prompts, responses: compare(responses, prompts)),
    ],
    ids=range(14),
)
def test_prompts_and_responses_are_found_by_name_or_by_place(reward):
    assert checked_scores(as_reward(reward), PROMPTS, RESPONSES).tolist() == [2, 3]


def test_a_builtin_without_a_signature_is_called_in_order():
    assert as_reward(max) is max  # `inspect.signature(max)` raises an exception
    assert call_with_texts(max, ["a"], ["b"]) == ["b"]


@pytest.mark.fault(
    "A reward function or the measure of a task cannot take prompts and responses",
    "It is refused in one line before the run begins.",
)
@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (lambda: 0, "()"),
        (lambda texts: 0, "(texts)"),
        (lambda prompts, responses, answers: 0, "(prompts, responses, answers)"),
        (lambda prompts, *, key: 0, "(prompts, *, key)"),
        (lambda responses, others: 0, "(responses, others)"),  # it would get the prompts as responses
        (lambda responses, prompts, /: 0, "(responses, prompts, /)"),
        (functools.partial(compare, RESPONSES, PROMPTS), "()"),
    ],
)
def test_other_parameters_are_refused(function, parameters):
    assert refusal(check_signature, function, "it").startswith(f"it has the parameters {parameters}; it must take")
    text = refusal(as_reward, function)
    assert text.startswith("reward ") and f"has the parameters {parameters}" in text
