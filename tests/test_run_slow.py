"""Slow tests run in several processes; a crash of one of them is a failure and not the end."""

import pytest
from support import run_slow


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
