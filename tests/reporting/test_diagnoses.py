"""Tests the diagnoses: one line for each problem, printed once, and no line for a normal run."""

from types import SimpleNamespace

import pytest

from tfppo.ppo.config import PPOConfig
from tfppo.ppo.guard import Guard, Quantity
from tfppo.reporting.diagnoses import CONSTANT_ROWS, POOR_ROWS, DiagnosisWriter

NAN = float("nan")
WELL = {
    "guard/skipped_updates": 0.0,
    "policy/first_ratio_max": 1.0,
    "policy/approx_kl": 0.01,
    "policy/entropy": 0.69,
    "value/explained_variance": 0.5,
    "loss/kl": 0.01,
    "score": 1.0,
}
ADAPTIVE = PPOConfig(kl_controller="schulman", kl_coeff=0.1, adaptive_kl_target=0.01)


@pytest.fixture
def told(capsys):
    """Returns the printed lines for rows. A row is given by its differences from a row of a normal run."""

    def told(*rows, ppo=ADAPTIVE, has_choices=True, guard=None, should_end=False):
        writer = DiagnosisWriter(ppo, "loss/kl", "score", has_choices, guard or Guard(), should_end)
        for iteration, row in enumerate(rows):
            writer.write(iteration, WELL | {"score": float(iteration)} | row)
            writer.flush()
        writer.close()
        return capsys.readouterr().out.splitlines()

    return told


def test_a_run_that_is_well_is_left_in_peace(told):
    assert told(*[{}] * 50) == []
    assert told(*[{"score": NAN}] * 50) == []  # no episode has finished yet
    assert told({"policy/entropy": 0.008}, {}) == []  # the entropy was small from the start
    worst = {"loss/kl": 0.09, "policy/first_ratio_max": 9, "policy/entropy": 0.0071, "value/explained_variance": -0.99}
    assert told({}, *[worst] * 30) == []


@pytest.mark.fault(
    "The KL, the first ratio or the entropy leaves its normal range", "One line with the iteration is printed, once."
)
@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"loss/kl": 0.11}, "loss/kl is 0.11, more than 10 times adaptive_kl_target = 0.01"),
        ({"policy/first_ratio_max": 12.5}, "policy/first_ratio_max is 12.5"),
        ({"policy/entropy": 0.0068}, "policy/entropy has collapsed from 0.69 to 0.0068"),
    ],
)
def test_each_kind_is_told_once_with_its_iteration(told, row, words):
    (line,) = told({}, {}, row, row, {}, row)
    assert line.startswith("iteration 3: ") and words in line


def test_a_kl_is_held_against_the_target_that_there_is(told):
    far = {"loss/kl": 9.0, "policy/approx_kl": 9.0}
    assert told(far, ppo=PPOConfig()) == []
    (line,) = told(far, ppo=PPOConfig(target_kl=0.5))
    assert "policy/approx_kl is 9, more than 10 times target_kl = 0.5" in line
    assert len(told(far, ppo=PPOConfig(target_kl=0.5, kl_controller="ziegler", kl_coeff=1.0))) == 2


def test_the_entropy_of_a_density_may_be_anything(told):
    assert told({"policy/entropy": 1.4}, {"policy/entropy": -3.0}, has_choices=False) == []


@pytest.mark.fault("The explained variance of the values stays below -1", "One line is printed, once.")
def test_poor_values_are_told_of_when_they_stay_poor(told):
    poor = {"value/explained_variance": -1.5}
    assert told(*[poor] * (POOR_ROWS - 1), {}, *[poor] * (POOR_ROWS - 1)) == []
    (line,) = told({}, *[poor] * (POOR_ROWS + 3))
    assert line.startswith(f"iteration {POOR_ROWS + 1}: ") and "explained_variance" in line


@pytest.mark.fault("The return or the score does not change from the start of the run", "One line is printed, once.")
def test_a_score_that_never_moved_is_told_of_but_not_one_that_has_arrived(told):
    still = {"score": -200.0}
    (line,) = told({"score": NAN}, *[still] * (CONSTANT_ROWS + 5))
    assert line.startswith(f"iteration {CONSTANT_ROWS + 1}: ") and f"-200 in all {CONSTANT_ROWS} rows" in line
    assert told({"score": 20.0}, *[{"score": 500.0}] * 60) == []


@pytest.mark.fault("Every response of a text run is empty", "One line is printed, once.")
def test_responses_that_are_all_empty_are_told_of(told):
    empty = {"text/response_tokens_mean": 1.0, "text/eos_fraction": 1.0, "text/response_length_mean": 0.0}
    (line,) = told({}, empty, empty)
    assert line.startswith("iteration 2: every response is empty, because the policy ends it at once")
    for other in (
        {"text/response_tokens_mean": 1.02},  # one response is longer
        {"text/eos_fraction": 0.98},  # one response is a token that does not end it
        {"text/response_length_mean": 0.02},  # the stop token is a word
    ):
        assert told(empty | other) == []


@pytest.mark.fault("No response of a text run with `mask_truncated` ends", "One line is printed, once.")
def test_responses_that_are_all_left_out_of_the_loss_are_told_of(told):
    masked = {"text/eos_fraction": 0.0, "policy/entropy": NAN}
    (line,) = told({}, masked, masked)
    assert line.startswith("iteration 2: no response ended within response_length, and mask_truncated leaves all")
    for other in ({"text/eos_fraction": 0.1}, {"policy/entropy": 0.5}):
        assert told({}, masked | other) == []


def test_skipped_updates_are_told_of_by_name_and_not_those_of_before_a_resume(told):
    guard = SimpleNamespace(skipped=Guard().skipped, culprit=Quantity.REWARD)
    rows = [{"guard/skipped_updates": float(count)} for count in (0, 1, 2, 2)]
    (line,) = told(*rows, guard=guard)
    assert line.startswith("iteration 2: a reward was not finite")
    guard.skipped.assign(2)
    assert told(*rows, guard=guard) == []
    guard.culprit = Quantity.RETURNS
    assert "returns were not finite" in told({"guard/skipped_updates": 3.0}, guard=guard)[0]
    guard.culprit = None  # the latest update was finite again
    assert "something" in told({"guard/skipped_updates": 3.0}, guard=guard)[0]


@pytest.mark.fault("Most answers of a conversation are cut at `response_length`", "One line is printed, once.")
def test_answers_that_are_cut_are_told_of_where_they_should_end(told):
    cut, enough = {"text/eos_fraction": 0.03125}, {"text/eos_fraction": 0.5}
    (line,) = told(enough, cut, cut, should_end=True)
    assert line.startswith("iteration 2: 3% of the answers ended within response_length; the others were cut")
    assert told(cut) == []
