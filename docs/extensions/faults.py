"""The directive `faults`: a table of what can go wrong, collected from markers on the tests.

    ```{faults} training cli
    ```

shows the markers `@pytest.mark.fault("what goes wrong", "what happens")` of `tests/training/` and `tests/cli/`;
`.` stands for the files directly below `tests/`. The tests are read with `ast` and not imported.
"""

import ast
from pathlib import Path
from typing import NamedTuple

from sphinx.util.docutils import SphinxDirective

TESTS = Path(__file__).parents[2] / "tests"


class Fault(NamedTuple):
    """A marker on a test."""

    path: str  # of the file, below tests/
    test: str  # the name of the function
    arguments: list[str]  # what goes wrong, and what happens


def folder_of(fault):
    """Returns the folder below tests/ that a fault's test is in; "." for tests/ itself."""
    return fault.path.split("/")[0] if "/" in fault.path else "."


def collect(folder=TESTS):
    """Returns all faults that the tests below a folder are marked with, by file and line."""
    return [
        Fault(str(path.relative_to(folder)), node.name, [ast.literal_eval(argument) for argument in marker.args])
        for path in sorted(folder.rglob("test_*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef)
        for marker in node.decorator_list
        if isinstance(marker, ast.Call) and ast.unparse(marker.func) == "pytest.mark.fault"
    ]


def rows(faults):
    """Returns the rows of the table: equal faults of several tests become one row with all files."""
    files = {}
    for fault in faults:
        files.setdefault(tuple(fault.arguments), []).append(f"`{fault.path}`")
    return [(*arguments, ", ".join(dict.fromkeys(paths))) for arguments, paths in files.items()]


class Faults(SphinxDirective):
    """Renders the table of some folders."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self):
        """Returns the nodes of the table."""
        folders = self.arguments[0].split()
        faults = [fault for fault in collect() if folder_of(fault) in folders]
        if not faults:
            raise self.error(f"no test below {', '.join(folders)} has the marker fault")
        for fault in faults:
            self.env.note_dependency(str(TESTS / fault.path))
        lines = ["| What goes wrong | What happens | Test |", "|---|---|---|"]
        return self.parse_text_to_nodes("\n".join(lines + [f"| {' | '.join(row)} |" for row in rows(faults)]))


def setup(app):
    """Adds the directive to Sphinx."""
    app.add_directive("faults", Faults)
    return {"parallel_read_safe": True}
