"""The list of mutations fits the code: the texts to replace occur once, and the named tests exist."""

from collections import Counter
from pathlib import Path

import pytest
from support.mutations import GROUPS, MUTATIONS

ROOT = Path(__file__).parents[1]


def test_what_is_changed_stands_in_its_file_exactly_once():
    counts = {(row.file, row.old): (ROOT / row.file).read_text().count(row.old) for row in MUTATIONS}
    assert {place: count for place, count in counts.items() if count != 1} == {}
    assert all(row.old != row.new for row in MUTATIONS)
    assert len({(row.file, row.old, row.new) for row in MUTATIONS}) == len(MUTATIONS) >= 64


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_has_mutations_that_are_caught(group):
    assert Counter(row.group for row in MUTATIONS if row.caught)[group] >= 5


def test_the_tests_that_are_named_are_there():
    """Looks for the names in the text of the test files. Nothing is imported."""
    for row in MUTATIONS:
        assert row.tests, row
        for test in row.tests:
            file, _, function = test.partition("::")
            assert f"def {function.partition('[')[0]}(" in (ROOT / file).read_text(), test
