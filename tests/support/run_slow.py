"""Runs the slow tests in processes of their own, about sixty tests in each.

One process cannot run them all: every program that XLA compiles takes memory maps, which are not given back, and after
65,530 of them (vm.max_map_count of Linux) the process is aborted.

Usage: python tests/support/run_slow.py [--jobs 2] [--keep FOLDER] [arguments of pytest, for example -k families]
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

SIZE = 60  # largest number of tests of a process
PYTEST = [sys.executable, "-m", "pytest"]
SUMMARY = re.compile(r"^=+ .* in [\d.]+s")  # the last line of pytest
COUNTS = re.compile(r"(\d+) (passed|failed|skipped|errors?|xfailed)")


class Outcome(NamedTuple):
    """What came of a group of tests."""

    code: int  # exit code of pytest; negative: the number of the signal that ended it
    counts: dict[str, int]
    seconds: float


def collect(arguments: Sequence[str]) -> list[str]:
    """Returns the IDs of the slow tests, in their order."""
    done = subprocess.run([*PYTEST, "-m", "slow", "-q", "--collect-only", *arguments], capture_output=True, text=True)
    if done.returncode not in (0, 5):  # 5: there is none
        sys.exit(done.stdout + done.stderr)
    return [line for line in done.stdout.splitlines() if "::" in line]


def groups_of(tests: Sequence[str], size: int = SIZE) -> list[list[str]]:
    """Divides tests into groups. A file is divided only if it has more tests than a group."""
    groups: list[list[str]] = [[]]
    for _, members in groupby(tests, key=lambda test: test.partition("::")[0]):
        rest = list(members)
        if len(groups[-1]) + len(rest) > size:
            groups.append([])
        while rest:
            if len(groups[-1]) == size:
                groups.append([])
            room = size - len(groups[-1])
            groups[-1] += rest[:room]
            rest = rest[room:]
    return [group for group in groups if group]


def name_of(group: Sequence[str]) -> str:
    """Returns the first and the last file of a group."""
    first, last = (test.partition("::")[0].removeprefix("tests/") for test in (group[0], group[-1]))
    return first if first == last else f"{first} ... {last}"


def run_group(group: Sequence[str], log: Path) -> Outcome:
    """Runs the tests of a group in a new process, which writes to a file."""
    began = time.perf_counter()
    with log.open("w") as file:
        code = subprocess.run([*PYTEST, "-v", "--tb=short", *group], stdout=file, stderr=subprocess.STDOUT).returncode
    lines = log.read_text(errors="replace").splitlines()  # a library may print lines when the process ends
    summary = [line for line in lines if SUMMARY.search(line)][-1:]
    counts = {word.rstrip("s"): int(count) for count, word in COUNTS.findall("".join(summary))}
    return Outcome(code, counts, time.perf_counter() - began)


def main() -> int:
    """Runs all groups, prints a line for each, and the output of those that failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=1, help="number of groups that run at the same time")
    parser.add_argument("--keep", type=Path, help="folder for the outputs")
    chosen, arguments = parser.parse_known_args()
    groups = groups_of(collect(arguments))
    total: dict[str, int] = {}
    failed = 0
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(chosen.jobs) as pool:
        folder = chosen.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        logs = [folder / f"{number:02}.log" for number in range(1, len(groups) + 1)]
        print(f"{sum(map(len, groups))} slow tests in {len(groups)} processes, {chosen.jobs} at a time", flush=True)
        for number, (group, log, outcome) in enumerate(
            zip(groups, logs, pool.map(run_group, groups, logs), strict=True), start=1
        ):
            for word, count in outcome.counts.items():
                total[word] = total.get(word, 0) + count
            found = ", ".join(f"{count} {word}" for word, count in outcome.counts.items())
            found = f"ended by signal {-outcome.code}" if outcome.code < 0 else found
            print(f"[{number}/{len(groups)}] {name_of(group)}: {found} in {outcome.seconds:.0f} s", flush=True)
            if outcome.code:
                failed += 1
                print(log.read_text(errors="replace"), flush=True)
    print(
        ", ".join(f"{count} {word}" for word, count in total.items()) + (f"; {failed} groups failed" if failed else "")
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
