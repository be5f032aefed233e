"""Rules that end a run early."""

import math
import operator

import pytest

from tfppo.text.stop_rules import StopRule


def reasons(rule, values):
    """Returns the reason after each iteration."""
    found = []
    for value in values:
        rule.record({"score": value})
        found.append(rule.reason)
    return found


def test_the_mean_of_the_window_decides():
    rule = StopRule("score", operator.ge, 2.0, 3, words="{mean} of {bound}")
    assert rule.reason is None
    assert reasons(rule, [9.0, 9.0, 0.0, 0.0, 3.0, 3.0]) == [None, None, "6 of 2", "3 of 2", None, "2 of 2"]


@pytest.mark.parametrize(("passes", "equal"), [(operator.gt, None), (operator.ge, "12 of 12")])
def test_a_bound_is_exceeded_or_reached(passes, equal):
    rule = StopRule("score", passes, 12.0, words="{mean} of {bound}")
    assert reasons(rule, [11.5, 12.0, 12.25]) == [None, equal, "12.25 of 12"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_never_ends_a_run(value):
    rule = StopRule("score", operator.gt, 1.0, 2, words="{mean}")
    assert reasons(rule, [value, 3.0, 3.0]) == [None, None, "3"]


def test_a_restored_rule_continues():
    """The variable is all that a checkpoint holds."""
    one, other = (StopRule("score", operator.ge, 2.0, 3, words="{mean}") for _ in range(2))
    reasons(one, [1.0, 2.0])
    other.latest.assign(one.latest)
    assert reasons(other, [3.0]) == reasons(one, [3.0]) == ["2"]
