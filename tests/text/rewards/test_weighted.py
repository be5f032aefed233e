"""Sums of several rewards, and the limit on the time of a reward."""

import functools
import threading

import numpy as np
import pytest
from support.refusal import refusal

from tfppo.text.data.prompts import as_prompts
from tfppo.text.rewards.callables import checked_scores, reward_name
from tfppo.text.rewards.weighted import WeightedRewards, as_rewards, combined, parts_of_reward

PROMPTS, RESPONSES = as_prompts([{"prompt": "a", "wanted": 1}, {"prompt": "b", "wanted": 3}], "prompts"), ["x", "xyz"]


def length(prompts, responses):
    return [len(response) for response in responses]


def right(prompts, responses, wanted):
    return [len(response) == count for response, count in zip(responses, wanted, strict=True)]


class Judge:
    def __call__(self, prompts, responses):
        return [5, np.nan]


def test_the_sum_is_weighted_and_its_parts_are_kept():
    reward = combined([length, right, Judge()], (0.5, 2.0, 1.0), None)
    assert isinstance(reward, WeightedRewards) and reward.names == ("length", "right", "Judge")
    np.testing.assert_array_equal(reward.parts(PROMPTS, RESPONSES), [[1, 3], [1, 1], [5, np.nan]])
    np.testing.assert_array_equal(checked_scores(reward, PROMPTS, RESPONSES, must_be_finite=False), [7.5, np.nan])
    watched = combined([length, Judge()], (2.0, 0.0), None)  # it has a curve, and counts nothing
    assert checked_scores(watched, PROMPTS, RESPONSES).tolist() == [2, 6]
    assert "all 0" in refusal(combined, [length, right], (0.0, 0.0), None)
    assert combined([length, length], (), None).names == ("length_1", "length_2")
    length_1 = functools.wraps(length)(lambda prompts, responses: length(prompts, responses))
    length_1.__qualname__ = "length_1"
    assert combined([length, length, length_1], (), None).names == ("length_2", "length_3", "length_1")
    assert combined([length], (), None) is length and list(parts_of_reward(length)) == [length]
    assert checked_scores(combined([length], (3.0,), None), PROMPTS, RESPONSES).tolist() == [3, 9]


def test_the_number_of_weights_is_that_of_the_rewards():
    assert "reward_weights has 2 values, and the run has 1 reward: give one weight" in refusal(
        combined, [length], (1, 2), None
    )


def test_an_error_of_one_of_several_names_it_once():
    def fails(prompts, responses):
        raise ValueError("no")

    for reward, said in ((fails, "fails raised ValueError: no: fix it"), (lambda p, r: [1], "returned 1 scores for 2")):
        text = refusal(checked_scores, combined([length, reward], (), None), PROMPTS, RESPONSES)
        assert said in text and text.count("reward ") <= 2 and "WeightedRewards" not in text


def test_names_and_lists_become_rewards():
    assert as_rewards(f"{__name__}:length, {__name__}:right") == [length, right]
    assert as_rewards([length, f"{__name__}:right"]) == [length, right] and as_rewards(length) == [length]
    assert "reward is an empty list" in refusal(as_rewards, [])


@pytest.mark.fault("A reward does not answer", "After reward_timeout seconds the run ends with one line that names it.")
@pytest.mark.parametrize("kind", ["function", "object", "partial", "label"])
def test_a_reward_that_does_not_answer_is_named(kind):
    stop = threading.Event()

    def waits(prompts, responses):
        stop.wait(60)

    class Waiting:
        __call__ = staticmethod(waits)

    def with_label(prompts, responses, wanted):
        assert wanted == [1, 3]
        stop.wait(60)

    reward = {"function": waits, "object": Waiting(), "partial": functools.partial(waits), "label": with_label}[kind]
    timed = combined([reward], (), 0.05)
    said = refusal(checked_scores, timed, PROMPTS, RESPONSES)
    stop.set()
    name = {"object": "Waiting", "label": "with_label"}.get(kind, "waits")
    assert f"{name} raised TimeoutError: no answer within 0.05 seconds (reward_timeout)" in said, said


def test_a_reward_that_answers_in_time_is_unchanged():
    timed = combined([right], (), 60.0)
    assert checked_scores(timed, PROMPTS, RESPONSES).tolist() == [1, 1] and reward_name(timed) == reward_name(right)

    def stops(prompts, responses):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        combined([stops], (), 60.0)(PROMPTS, RESPONSES)
