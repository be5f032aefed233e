"""The documentation is complete: public names, settings, functions of tensors, faults. Nothing is built here."""

import configparser
import dataclasses
import importlib
import re
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from annotated_types import Ge, Interval

import tfppo
from tfppo import deprecated
from tfppo.ppo.config import PPOConfig
from tfppo.settings import Must
from tfppo.training.config import RunConfig

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
REFERENCE = {path.stem: path.read_text() for path in (DOCS / "reference").glob("*.md")}
DIRECTIVES = [
    name
    for text in REFERENCE.values()
    for name in re.findall(r"^\.\. (?:auto\w+|settings|py:data):: (\S+)$", text, re.MULTILINE)
]


@pytest.mark.parametrize("name", tfppo.__all__)
def test_every_public_name_is_described_once_and_listed(name):
    assert DIRECTIVES.count(f"tfppo.{name}") == 1
    assert re.search(rf"\btfppo\.{name}\b", REFERENCE["index"])


@pytest.mark.parametrize("path", sorted((ROOT / "tfppo" / "ops").glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_every_module_of_functions_of_tensors_is_described(path):
    assert f"tfppo.ops.{path.stem}" in DIRECTIVES


def test_every_config_is_described_with_all_its_fields(extension):
    settings = extension("settings")
    described = re.findall(r"^\.\. settings:: (\S+)$", REFERENCE["settings"], re.MULTILINE)
    classes = [getattr(importlib.import_module(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in described]
    rooms = "training ppo control text text.supervised text.sft text.pretrain text.reward_model"
    modules = [importlib.import_module(f"tfppo.{room}.config") for room in rooms.split()]
    found = {
        thing
        for module in modules
        for thing in vars(module).values()
        if isinstance(thing, type) and dataclasses.is_dataclass(thing) and thing.__module__ == module.__name__
    }
    assert set(classes) == found
    parts = {
        "run",
        "ppo",
        "control",
        "text",
        "parts",
        "sft",
        "pretrain",
        "reward_model",
        "model",
    }  # of a run's config: they are described themselves
    for cls in classes:
        fields = settings.fields_of(cls)
        assert [field.name for field in fields] == [field.name for field in dataclasses.fields(cls)]
        assert all(field.text or field.name in parts for field in fields), cls


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (bool, "True or False"),
        (Annotated[int, Ge(1)], "whole number, at least 1"),
        (Annotated[int | None, Ge(1)], "whole number, at least 1, or None"),
        (Annotated[float, Interval(ge=0, lt=1)], "number, at least 0, below 1"),
        (Annotated[str, Must(str.isalpha, "a word")], "a word"),
        (Annotated[str | None, Must(str.isalpha, "a word")], "a word, or None"),
        (Literal["a", "b"], "one of `a`, `b`"),
        (tuple[int, ...], "tuple of whole numbers"),
        (Path | None, "Path or None"),
    ],
)
def test_types_of_settings_in_words(extension, hint, words):
    assert extension("settings").kind_of(hint) == words


def test_defaults_of_settings(extension):
    fields = {f.name: f for cls in (PPOConfig, RunConfig) for f in extension("settings").fields_of(cls)}
    assert (fields["clip_ratio"].default, fields["runs_dir"].default) == ("0.2", "Path('runs')")
    assert fields["name"].default == "None"


def test_comments_behind_fields_are_found(extension):
    comments = extension("docstrings").field_comments("tfppo.ActionEvaluation")
    assert comments["log_probs"] == "[N] or [N, T]" and set(comments) == set(tfppo.ActionEvaluation._fields)
    assert extension("docstrings").field_comments("tfppo.make_actor") == {}
    assert extension("docstrings").field_comments("no.such.Class") == {}


def test_sections_and_equations_become_restructured_text(extension):
    docstrings = extension("docstrings")
    one = ["Adds.", "", "Returns: a tensor [N]: its sums,", "  in order."]
    assert docstrings.with_fields(one) == ["Adds.", "", "", ":returns: a tensor [N]: its sums,", "   in order."]
    several = [
        "Returns:",
        "  loss: a scalar.",
        "  metrics: more",
        "    of them.",
        "",
        "Raises:",
        "  ValueError: never.",
    ]
    assert docstrings.with_fields(several)[:5] == [
        *("", ":returns:", "   - `loss`: a scalar.", "   - `metrics`: more", "     of them."),
    ]
    lines = ["Text.", "A_t = d_t + c A_{t+1}", "More."]
    assert docstrings.with_equations(lines) == ["Text.", "", "| A_t = d_t + c A_{t+1}", "", "More."]


# ----- Results


def test_the_page_of_control_has_the_measured_numbers():
    page = (DOCS / "results" / "control.md").read_text().splitlines()
    _, rows = (ROOT / "benchmarks" / "results" / "control.md").read_text().split(f"|{'---|' * 10}\n")
    for row in rows.splitlines():
        _, _, steps, seeds, *returns, _ = (cell.strip() for cell in row.strip("|").split("|"))
        numbers = f"| {' | '.join([steps, seeds, *returns])} |"
        assert any(line.endswith(numbers) for line in page), numbers


def test_every_picture_of_the_results_is_shown():
    pages = "".join(path.read_text() for path in (DOCS / "results").glob("*.md"))
    for picture in (ROOT / "benchmarks" / "results").glob("*.png"):
        assert f"(../../benchmarks/results/{picture.name})" in pages


# ----- Faults


def test_every_marker_of_a_fault_is_on_a_test_and_has_two_texts(extension):
    faults = extension("faults").collect()
    assert len(faults) > 50
    for fault in faults:
        assert fault.test.startswith("test_"), fault
        assert len(fault.arguments) == 2 and all(isinstance(text, str) and text for text in fault.arguments), fault
        assert not any("|" in text or "\n" in text for text in fault.arguments), fault  # a cell of a table


def test_no_marker_is_overlooked(extension):
    marked = sum(path.read_text().count("@pytest.mark.fault(") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(extension("faults").collect()) == marked - Path(__file__).read_text().count("@pytest.mark.fault(")


def test_the_page_shows_every_folder_with_faults_once(extension):
    faults = extension("faults")
    shown = " ".join(re.findall(r"^```\{faults\} (.*)$", (DOCS / "reliability.md").read_text(), re.MULTILINE)).split()
    assert sorted(shown) == sorted({faults.folder_of(fault) for fault in faults.collect()})


def test_equal_faults_are_one_row(extension, tmp_path):
    faults = extension("faults")
    mark = "@pytest.mark.fault('a', 'b')\n"
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "test_it.py").write_text(f"import pytest\n{mark}def test_it():\n    pass\n")
    found = faults.collect(tmp_path)
    assert [fault.test for fault in found] == ["test_it"] * 2
    assert faults.rows(found) == [("a", "b", "`one/test_it.py`, `other/test_it.py`")]


# ----- Versions


def test_the_tables_of_renamed_names_are_complete(extension):
    renamed = extension("renamed")
    shown = re.findall(r"^```\{renamed\} (\w+)$", (DOCS / "migration.md").read_text(), re.MULTILINE)
    assert sorted(shown) == ["modules", "names", "options", "settings"]
    assert renamed.pairs("modules") == deprecated.MODULES and renamed.pairs("settings") == deprecated.SETTINGS
    assert renamed.pairs("names")["tfppo.Evaluation"] == "tfppo.ActionEvaluation"
    assert len(renamed.pairs("names")) == len(deprecated.NAMES)
    assert renamed.pairs("options")["--kl-rule"] == "--kl-controller"
    assert len(renamed.pairs("options")) == len(deprecated.SETTINGS)


def test_one_version_is_stated_everywhere():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    changelog = re.findall(r"^## (\S+) \((.+)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    versions = {tfppo.__version__, setup["metadata"]["version"], changelog[0][0], citation["version"]}
    assert len(versions) == 1
    assert changelog[0][1] == str(citation["date-released"])
    assert citation["license"] == setup["metadata"]["license"]
