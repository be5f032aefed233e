"""Applies the mutations one at a time to a copy of the repository, and reports whether the named tests catch them.

Usage: python tests/support/run_mutations.py [--group GROUP] [--only N] [--list]

The import of TensorFlow takes longer than most of these tests. It is therefore imported once, and a fork of this
process runs the tests of each row. The process computes nothing before the fork.
"""

import argparse
import compileall
import gc
import importlib
import importlib.util
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pytest
from mutations import MUTATIONS, Mutation

ROOT = Path(__file__).parents[2]
COPIED = ("tfppo", "tests", "pyproject.toml", "setup.cfg")
SHARED = ("hypothesis", "tensorflow", "keras", "keras_hub", "tensorflow_probability", "gymnasium", "matplotlib.pyplot")
FORK = multiprocessing.get_context("fork")
SECONDS = 600  # time limit for the tests of a row; a test that hangs is an error
CAUGHT, NOT_CAUGHT, ERROR = "caught", "NOT CAUGHT", "ERROR"


def copy_tree(folder: Path) -> None:
    """Copies the files that tests need into a folder and compiles them, because most mutations change only one file."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, folder / name)
    compileall.compile_dir(folder / "tfppo", quiet=1)


def run_tests(folder: Path, tests: Sequence[str], seconds: float = SECONDS) -> tuple[str, str]:
    """Runs tests in a copy of the repository.

    Only a failed test counts as caught. If a file cannot be imported or a test does not exist, the outcome is an error.

    Returns:
      The outcome, and the output of pytest.
    """
    printed = folder / "printed"
    process = FORK.Process(target=_pytest, args=(folder, tests, printed))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return ERROR, f"pytest took more than {seconds} seconds"
    text = printed.read_text(errors="replace")
    if process.exitcode == 0:
        return NOT_CAUGHT, text
    # In the error of a single test, :: follows the name of the file.
    collected = not re.search(r"^ERROR \S+\.py( |$)", text, re.MULTILINE)
    return CAUGHT if process.exitcode == 1 and collected else ERROR, text


def _pytest(folder: Path, tests: Sequence[str], printed: Path) -> None:
    """Runs pytest in this process, a fork, and exits with its exit code, or with 99 if it tested other code."""
    with printed.open("w") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    os.chdir(folder)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # plugins of other packages, which no test needs
    os.environ["PYTHONPATH"] = str(folder)  # for the processes that tests start
    sys.path[0] = str(folder)
    sys.dont_write_bytecode = True
    # XLA takes most of the time. Eager mode and plain graphs run the same code without it.
    code = int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-k", "not xla", *tests]))
    package = sys.modules.get("tfppo")
    if code == 1 and package is not None and not Path(package.__file__).is_relative_to(folder):
        code = 99
    sys.exit(code)


def run_row(row: Mutation, tree: Path) -> tuple[str, str]:
    """Applies the mutation of a row to a copy of the repository and runs its tests."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as name:
        folder = Path(name) / "tree"
        shutil.copytree(tree, folder)  # keeps file times, so that compiled files stay valid
        path = folder / row.file
        path.write_text(path.read_text().replace(row.old, row.new))
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)
        return run_tests(folder, row.tests)


def misplaced(rows: Iterable[Mutation]) -> list[str]:
    """Describes the rows with a text that does not occur in its file exactly once, or that change nothing."""
    said = []
    for row in rows:
        path = ROOT / row.file
        count = path.read_text().count(row.old) if path.is_file() else 0
        if count != 1 or row.old == row.new:
            said.append(f"{row.file} contains {row.old!r} {count} times, replacement {row.new!r}; expected once")
    return said


def last_lines(printed: str, pattern: str = r"^(FAILED|ERROR|E  ) ?.*") -> str:
    """Returns the last few lines about failures in the output of pytest."""
    found = [match[0] for match in re.finditer(pattern, printed, re.MULTILINE)]
    return "\n".join(found[-4:] or printed.splitlines()[-4:])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command. Returns 0 if every mutation was caught, excluding known gaps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--group", help="only the rows of this group")
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="only the rows of these numbers, from 1")
    parser.add_argument("--list", action="store_true", help="list the rows and run nothing")
    parser.add_argument("--skip-unmutated", action="store_true", help="do not run the tests without a mutation first")
    parser.add_argument("--verbose", action="store_true", help="show what failed")
    options = parser.parse_args(arguments)
    rows = [
        (number, row)
        for number, row in enumerate(MUTATIONS, 1)
        if options.group in (None, row.group) and (options.only is None or number in options.only)
    ]
    if not rows:
        parser.error("there is no such row")
    if options.list:
        for number, row in rows:
            print(f"{number:3}  {row.group:13}  {row.file}: {row.old!r} -> {row.new!r}")
        return 0
    if wrong := misplaced(row for _, row in rows):
        print("\n".join(wrong))
        return 1
    with tempfile.TemporaryDirectory(prefix="mutations-") as name:
        return run_rows(rows, Path(name) / "tree", options.skip_unmutated, options.verbose)


def run_rows(rows: Sequence[tuple[int, Mutation]], tree: Path, skip_unmutated: bool, verbose: bool) -> int:
    """Makes a copy of the repository and runs numbered rows in it. Prints each outcome. Returns the same as `main`."""
    began = time.perf_counter()
    tree.mkdir()
    copy_tree(tree)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for module in SHARED:
        importlib.import_module(module)
    gc.freeze()  # the garbage collectors of the forks skip imported objects
    if not skip_unmutated:
        tests = list(dict.fromkeys(test for _, row in rows for test in row.tests))
        outcome, printed = run_tests(tree, tests, 10 * SECONDS)
        if outcome != NOT_CAUGHT:
            print(f"the tests fail without a mutation:\n{last_lines(printed)}")
            return 1
        print(f"all {len(tests)} tests pass without a mutation  {time.perf_counter() - began:.0f} s", flush=True)
    outcomes = Counter()
    for number, row in rows:
        start = time.perf_counter()
        outcome, printed = run_row(row, tree)
        if outcome != ERROR and (outcome == CAUGHT) != row.caught:
            outcome = "CAUGHT, NO LONGER A GAP" if outcome == CAUGHT else NOT_CAUGHT
        elif outcome == NOT_CAUGHT:
            outcome = "not caught, a known gap"
        outcomes[outcome] += 1
        print(f"{number:3}  {row.group:13}  {row.file:32}  {outcome}  {time.perf_counter() - start:.0f} s", flush=True)
        if verbose or outcome == ERROR:
            print(last_lines(printed), flush=True)
    summary = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
    print(f"{len(rows)} mutations: {summary}; {time.perf_counter() - began:.0f} s")
    return int(any(outcome.isupper() for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
