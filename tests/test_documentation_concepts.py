"""The pages about concepts name only what exists: functions, metrics, settings, tests and anchors."""

import dataclasses
import functools
import importlib
import re
from pathlib import Path

import pytest

from tfppo.control.config import ControlConfig
from tfppo.ppo.config import PPOConfig
from tfppo.reporting.metrics import METRICS
from tfppo.text.config import TextConfig
from tfppo.training.config import RunConfig

ROOT = Path(__file__).parents[1]
CONCEPTS = ROOT / "docs" / "concepts"
DETAILS, PITFALLS, DATA_FLOW = (CONCEPTS / f"{name}.md" for name in ("ppo-details", "pitfalls", "data-flow"))
PAGES = (DETAILS, PITFALLS, DATA_FLOW)
SECTIONS = {"ppo": PPOConfig, "control": ControlConfig, "text": TextConfig, "run": RunConfig}
LABELS = ("Source", "Function", "Metrics", "Settings", "Tests")


def names(page):
    """What a page has between backticks, without blocks of code."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`([^`\n]+)`", text)


def is_metric(name):
    return re.fullmatch(r"[a-z]+/[a-z0-9_]+", name) is not None


def is_setting(name):
    return re.fullmatch(rf"({'|'.join(SECTIONS)})\.[a-z_]+", name) is not None


def check_import(name):
    """Finds a dotted name: the longest part of it that is a module, then attributes or a class's annotations."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        functools.reduce(getattr, parts[count:], found)
        return
    raise AttributeError(name)


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
        check_import(name)
    elif name.startswith("tests/"):
        check_test(name)
    elif is_metric(name):
        assert name in METRICS
    elif is_setting(name):
        check_setting(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_names_exists(page):
    for name in names(page):
        try:
            check(name)
        except (AssertionError, AttributeError, OSError) as error:
            raise AssertionError(f"{page.name} names `{name}`, which does not exist ({error})") from None


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
