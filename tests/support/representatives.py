"""The mark `representatives`: of the similar cases of a test, some are quick and the others slow."""

import zlib
from collections import defaultdict
from collections.abc import Sequence

import pytest


def mark_slow_cases(items: Sequence[pytest.Item]) -> None:
    """Makes the cases of a test slow, but for as many as its mark `representatives` says."""
    cases = defaultdict(list)
    for item in items:
        if item.get_closest_marker("representatives") and not item.get_closest_marker("slow"):
            cases[item.path, item.originalname].append(item)
    for same in cases.values():
        (count,) = same[0].get_closest_marker("representatives").args
        same.sort(key=lambda item: zlib.crc32(item.name.encode()))  # so the first ones differ in all respects
        for item in same[count:]:
            item.add_marker(pytest.mark.slow)
