"""Functions of prompts and responses: the order and the names of their parameters."""

import functools

import pytest
from support.refusal import refusal

from tfppo.text.data.prompts import as_prompts
from tfppo.text.rewards.callables import as_reward, checked_scores
from tfppo.text.rewards.signature import call_with_texts, check_labels, check_signature
from tfppo.text.rewards.weighted import combined

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


# ----- Labels

LABELLED = as_prompts([{"prompt": "a", "capital": "Paris", "n": 1}, {"prompt": "a", "capital": "Rome"}], "prompts")


def seen(*texts, **labels):
    assert texts == (PROMPTS, RESPONSES)
    return labels


@pytest.mark.parametrize(
    ("function", "labels"),
    [
        (lambda prompts, responses: {}, {}),
        (lambda prompts, responses, capital: seen(prompts, responses, capital=capital), {"capital": ["Paris", "Rome"]}),
        (lambda capital, responses, prompts: seen(prompts, responses, capital=capital), {"capital": ["Paris", "Rome"]}),
        (lambda p, r, *, capital: seen(p, r, capital=capital), {"capital": ["Paris", "Rome"]}),
        (lambda p, r, n=None, other=3: seen(p, r, n=n, other=other), {"n": [1, None], "other": 3}),
        (lambda p, r, **columns: seen(p, r, **columns), {"capital": ["Paris", "Rome"], "n": [1, None]}),
        (
            lambda prompts, responses, n, **rest: seen(prompts, responses, n=n, **rest),
            {"capital": ["Paris", "Rome"], "n": [1, None]},
        ),
        (
            lambda **all: seen(all.pop("prompts"), all.pop("responses"), **all),
            {"capital": ["Paris", "Rome"], "n": [1, None]},
        ),
        (lambda n, capital: {}, {}),  # the first two parameters are the texts, whatever their names
    ],
    ids=range(9),
)
def test_labels_are_found_by_name(function, labels):
    check_signature(function, "it")
    assert call_with_texts(function, LABELLED, RESPONSES) == labels


def test_arguments_that_a_partial_fixes_are_no_labels():
    def scaled(prompts, responses, scale, **columns):
        assert "scale" not in columns
        return [scale] * len(responses)

    prompts = as_prompts([{"prompt": "a", "scale": 7, "other": 1}] * 2, "prompts")
    partial = functools.partial(scaled, scale=2)
    for reward in (partial, combined([partial], (), 60.0)):  # the other one is wrapped
        assert call_with_texts(reward, prompts, RESPONSES) == [2, 2]
    assert call_with_texts(scaled, prompts, RESPONSES) == [[7, 7]] * 2


def test_a_function_may_change_its_labels():
    call_with_texts(lambda p, r, capital: capital.clear(), LABELLED, RESPONSES)
    assert LABELLED[0].labels["capital"] == "Paris"


@pytest.mark.fault("A reward needs a label that the prompts lack", "It is refused in one line before the run begins.")
def test_a_missing_label_is_refused():
    check_labels(lambda p, r, capital: 0, "it", LABELLED)
    said = refusal(check_labels, lambda p, r, answers: 0, "it", LABELLED)
    assert said.startswith(
        "it has the parameter answers; it must be prompts, responses or a label of the prompts, which "
    )
    assert "have capital, n: add a column answers" in said
    assert "which have no labels" in refusal(check_labels, lambda p, r, answers: 0, "it", PROMPTS)
    assert "needs the label n, and row 1 of prompts has none (1 of 2" in refusal(
        check_labels, lambda p, r, n: 0, "it", LABELLED
    )
