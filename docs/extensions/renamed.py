"""The directive `renamed`: a table of old and new names, from `tfppo.deprecated`.

    ```{renamed} modules
    ```

The argument is `names`, `settings`, `options` or `modules`.
"""

from sphinx.util.docutils import SphinxDirective

from tfppo import deprecated


def pairs(kind):
    """Returns the old and new names of a kind."""
    if kind == "names":
        return {f"tfppo.{old}": f"tfppo.{new}" for old, new in deprecated.NAMES.items()}
    if kind == "options":
        return {option_of(old): option_of(new) for old, new in deprecated.SETTINGS.items()}
    return {"settings": deprecated.SETTINGS, "modules": dict(sorted(deprecated.MODULES.items()))}[kind]


def option_of(setting):
    """Returns the option of the command line for a setting."""
    return f"--{setting.replace('_', '-')}"


class Renamed(SphinxDirective):
    """Renders one of the tables."""

    required_arguments = 1

    def run(self):
        """Returns the nodes of the table."""
        self.env.note_dependency(deprecated.__file__)  # builds the page again if the module changes
        rows = [f"| `{old}` | `{new}` |" for old, new in pairs(self.arguments[0]).items()]
        return self.parse_text_to_nodes("\n".join(["| Version 0.1 | Version 0.2 |", "|---|---|", *rows]))


def setup(app):
    """Adds the directive to Sphinx."""
    app.add_directive("renamed", Renamed)
    return {"parallel_read_safe": True}
