"""Slow tests run in several processes; a crash of one of them is a failure and not the end."""

from dataclasses import dataclass, field

import pytest
from support import run_slow
from support.representatives import mark_slow_cases


@dataclass
class Item:
    """A case of a test, as pytest collects it."""

    originalname: str
    name: str
    marks: list = field(default_factory=list)
    path: str = "test_it.py"

    def get_closest_marker(self, name):
        return next((mark.mark for mark in self.marks if mark.name == name), None)

    def add_marker(self, mark):
        self.marks.append(mark)


def test_representatives_are_quick_and_the_other_cases_slow():
    few, slow = pytest.mark.representatives(2), pytest.mark.slow
    cases = [Item("test_a", f"test_a[{number}]", [few]) for number in range(6)]
    others = [Item("test_b", "test_b[0]", [few, slow]), Item("test_b", "test_b[1]", [few]), Item("test_c", "test_c")]
    mark_slow_cases([*cases, *others])
    assert sum(item.get_closest_marker("slow") is None for item in cases) == 2
    assert [item.get_closest_marker("slow") is None for item in others] == [False, True, True]
    again = [Item("test_a", item.name, [few]) for item in reversed(cases)]
    mark_slow_cases(again)  # whatever their order is, for processes must agree on them
    assert {i.name for i in again if len(i.marks) == 1} == {i.name for i in cases if len(i.marks) == 1}


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"a": 2, "b": 2, "c": 1}, [4, 1]),  # a file is kept together
        ({"a": 9}, [4, 4, 1]),
        ({"a": 1, "b": 6, "c": 2}, [1, 4, 4]),
        ({"a": 4, "b": 4}, [4, 4]),
        ({}, []),
    ],
)
def test_groups_are_small_and_have_every_test_once(counts, expected):
    tests = [f"tests/{name}.py::test[{number}]" for name, count in counts.items() for number in range(count)]
    groups = run_slow.groups_of(tests, 4)
    assert [len(group) for group in groups] == expected
    assert [test for group in groups for test in group] == tests


@pytest.mark.parametrize(
    ("body", "code", "counts"),
    [
        pytest.param("assert number", 1, {"failed": 1, "passed": 1}, marks=pytest.mark.slow),
        ("import os; os.abort()", -6, {}),
    ],
)
def test_a_group_is_a_process(tmp_path, monkeypatch, body, code, counts):
    (tmp_path / "test_it.py").write_text(
        "import pytest\n\n@pytest.mark.slow\n@pytest.mark.parametrize('number', [0, 1])\n"
        f"def test_it(number):\n    {body}\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    monkeypatch.chdir(tmp_path)
    tests = run_slow.collect([])
    assert tests == ["test_it.py::test_it[0]", "test_it.py::test_it[1]"]
    outcome = run_slow.run_group(tests, tmp_path / "log")
    assert outcome[:2] == (code, counts)
