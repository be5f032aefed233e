"""The pages about concepts name only what exists: functions, metrics, settings, tests and anchors."""

import dataclasses
import math
import re
from pathlib import Path

import pytest
from support.pages import anchors_of, find

from tfppo.control.config import ControlConfig
from tfppo.errors import UsageError
from tfppo.ppo.config import PPOConfig
from tfppo.ppo.guard import MAX_IN_A_ROW, QUANTITIES, Guard
from tfppo.reporting.diagnoses import CONSTANT_ROWS, POOR_ROWS, DiagnosisWriter
from tfppo.reporting.metrics import METRICS
from tfppo.text.config import TextConfig
from tfppo.text.reward_model.config import RewardModelConfig
from tfppo.text.sft.config import SFTConfig
from tfppo.training.config import RunConfig

ROOT = Path(__file__).parents[1]
CONCEPTS = ROOT / "docs" / "concepts"
DETAILS, PITFALLS, DATA_FLOW = (CONCEPTS / f"{name}.md" for name in ("ppo-details", "pitfalls", "data-flow"))
TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"
PAGES = (DETAILS, PITFALLS, DATA_FLOW, TROUBLESHOOTING)
SECTIONS = {"ppo": PPOConfig, "control": ControlConfig, "text": TextConfig, "run": RunConfig, "sft": SFTConfig}
SECTIONS |= {"reward_model": RewardModelConfig}
LABELS = ("Source", "Function", "Metrics", "Settings", "Tests")


def names(page):
    """What a page has between backticks, without blocks of code."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`([^`\n]+)`", text)


def is_metric(name):
    return re.fullmatch(r"[a-z]+/[a-z0-9_]+", name) is not None


def is_setting(name):
    return re.fullmatch(rf"({'|'.join(SECTIONS)})\.[a-z_]+", name) is not None


def check_test(name):
    file, _, function = name.partition("::")
    text = (ROOT / file).read_text()
    assert not function or f"def {function}(" in text


def check_setting(name):
    section, field = name.split(".")
    assert field in {field.name for field in dataclasses.fields(SECTIONS[section])}


def check(name):
    """Raises an error if the name looks like one of ours and there is no such thing."""
    if name.startswith("tfppo."):
        find(name)
    elif name.startswith("tests/"):
        check_test(name)
    elif is_metric(name):
        assert name in METRICS
    elif is_setting(name):
        check_setting(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_names_exists(page):
    missing = []
    for name in names(page):
        try:
            check(name)
        except (AssertionError, AttributeError, OSError):
            missing.append(name)
    assert missing == []


@pytest.mark.parametrize(
    "name",
    [
        "tfppo.ops.losses.no_such_loss",
        "tfppo.no_such_module.f",
        "tfppo.ppo.learner.PPOLearner.no_such_method",
        "tests/ops/test_losses.py::test_no_such",
        "tests/ops/test_no_such.py::test_anything",
        "loss/no_such",
        "ppo.no_such_setting",
        "text.clip_ratio",
    ],
)
def test_what_does_not_exist_is_found(name):
    with pytest.raises((AssertionError, AttributeError, OSError)):
        check(name)


def test_the_details_name_every_metric_and_every_setting_of_ppo():
    named = set(names(DETAILS))
    assert set(METRICS) - named == set()
    assert {f"ppo.{field.name}" for field in dataclasses.fields(PPOConfig)} - named == set()


def test_every_detail_has_its_source_function_metrics_settings_and_tests():
    sections = re.split(r"^### ", DETAILS.read_text(), flags=re.MULTILINE)[1:]
    assert len(sections) > 40
    for section in sections:
        title, _, text = section.partition("\n")
        assert tuple(re.findall(r"^- \*\*(\w+):\*\*", text, flags=re.MULTILINE)) == LABELS, title
        assert "`tfppo." in text and "`tests/" in text, title


def test_every_pitfall_says_what_happens_how_it_looks_what_tfppo_does_and_names_a_test():
    sections = re.split(r"^## ", PITFALLS.read_text(), flags=re.MULTILINE)[1:]
    assert len(sections) >= 12
    for section in sections:
        title, _, text = section.partition("\n")
        labels = re.findall(r"^\*\*([^*]+):\*\*", text, flags=re.MULTILINE)
        assert labels == ["What happens", "In the curves", "In tfppo", "Tests"], title
        assert "`tests/" in text, title


# ----- Troubleshooting


def guard_with(index, skipped):
    guard = Guard()
    guard.found.assign(index)
    guard.in_a_row.assign(skipped)
    return guard


@pytest.fixture
def printed(capsys):
    """Every line that a run prints about a problem: all kinds of diagnoses, and the end of the run."""
    config = PPOConfig(kl_controller="schulman", kl_coeff=0.1, adaptive_kl_target=0.01, target_kl=0.01)
    well = {
        "guard/skipped_updates": 0.0,
        "loss/kl": 0.01,
        "policy/approx_kl": 0.01,
        "policy/first_ratio_max": 1.0,
        "policy/entropy": 0.69,
        "value/explained_variance": 0.5,
        "rollout/episode_return_mean": -200.0,
        "text/eos_fraction": 0.9,
    }
    bad = {"loss/kl": 1.0, "policy/approx_kl": 1.0, "policy/first_ratio_max": 99.0, "policy/entropy": 0.001}
    bad |= {"guard/skipped_updates": 1.0, "value/explained_variance": -9.0}
    bad |= {"text/response_tokens_mean": 1.0, "text/eos_fraction": 1.0, "text/response_length_mean": 0.0}
    masked = {"text/eos_fraction": 0.0, "policy/entropy": math.nan}
    for index in range(-1, len(QUANTITIES)):
        writer = DiagnosisWriter(config, "loss/kl", "rollout/episode_return_mean", True, guard_with(index, 0), True)
        for iteration in range(max(POOR_ROWS, CONSTANT_ROWS) + 1):
            writer.write(iteration, well | (bad if iteration else {}))
        writer.write(iteration + 1, well | bad | masked)
    ends = []
    for index in range(len(QUANTITIES)):
        with pytest.raises(UsageError) as error:
            guard_with(index, MAX_IN_A_ROW).check(7)
        ends.append(str(error.value))
    return [*capsys.readouterr().out.splitlines(), *ends]


def test_every_line_ends_with_a_section_of_the_page_that_quotes_it(printed):
    page, there = TROUBLESHOOTING.read_text(), anchors_of(TROUBLESHOOTING)
    pointers = [re.search(r" \(docs/troubleshooting\.md#([a-z0-9-]+)\)$", line) for line in printed]
    assert None not in pointers, [line for line, pointer in zip(printed, pointers, strict=True) if pointer is None]
    headings = re.findall(r"^#{2,4} (.+)$", page, flags=re.MULTILINE)
    assert len(headings) == len(set(headings))
    named = {pointer.group(1) for pointer in pointers}
    assert named <= set(there) and len(named) == 10
    own = page.partition("## Lines that a run prints")[2].partition("\n## ")[0]
    quoted = set(re.findall(r"^\*\*Line:\*\* `(.+)`$", own, flags=re.MULTILINE))
    assert len(quoted) == len(re.findall("^### ", own, flags=re.MULTILINE)) == 10
    plain = [re.sub(r"[-+]?[0-9.]+(?=[^a-z]|$)", "#", line) for line in printed]
    for line in quoted:
        assert any(re.sub(r"[-+]?[0-9.]+(?=[^a-z]|$)", "#", line) in other for other in plain), line


def test_every_quantity_of_the_guard_has_a_row():
    rows = TROUBLESHOOTING.read_text()
    named = {name.strip() for row in re.findall(r"^\| ([^|]+) \|", rows, flags=re.MULTILINE) for name in row.split(",")}
    assert {quantity.words for quantity in QUANTITIES} <= named


# ----- Formulas


@pytest.fixture
def to_mathml(extension):
    return extension("mathml").to_mathml


def test_a_formula_becomes_mathml(to_mathml):
    text = to_mathml(r"\begin{aligned} a &= \operatorname{clip}(\log \pi, 1) \end{aligned}", "block")
    assert text.startswith("<math ") and 'display="block"' in text and "aligned" not in text
    assert "<mi>clip</mi>" in text and '<mi>log</mi><mspace width="0.167em" />' in text


@pytest.mark.parametrize(
    "latex",
    [r"\nosuch x", "{a", "a & b", r"\begin{nosuch} a & b \end{nosuch}", r"\left( a", r"\frac{a}", "x^", "a_b_c"],
)
def test_a_formula_that_cannot_be_converted_is_an_error(latex, to_mathml):
    with pytest.raises(ValueError, match="."):
        to_mathml(latex, "inline")
