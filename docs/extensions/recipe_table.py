"""A Sphinx extension with the directive `recipe-table`: all recipes, from the table that the code uses."""

from itertools import groupby

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

from tfppo.control import recipes
from tfppo.control.config import ControlRunConfig
from tfppo.settings import with_settings

HEADINGS = ("Environments", "Source", "Steps", "Copies x rollout", "Minibatch, epochs", "Learning rate", "gamma")
WIDTHS = (30, 20, 12, 13, 11, 8, 6)


class RecipeTable(SphinxDirective):
    """Writes a row for each recipe; environments with the same recipe share a row."""

    def run(self) -> list[nodes.Node]:
        """Makes the table. The page depends on the module: a change of it builds the page again."""
        self.env.note_dependency(recipes.__file__)
        known = [*recipes.RECIPES.items(), (f"all of Atari ({recipes.EVERY_ATARI}...)", recipes.ATARI)]
        rows = [(recipe, [env for env, _ in group]) for recipe, group in groupby(known, key=lambda item: item[1])]
        body = nodes.tbody("", *(_row(recipe, envs) for recipe, envs in rows))
        heading = nodes.row("", *(nodes.entry("", nodes.paragraph(text=text)) for text in HEADINGS))
        columns = [nodes.colspec(colwidth=width) for width in WIDTHS]
        table = nodes.table(
            "", nodes.tgroup("", *columns, nodes.thead("", heading), body, cols=len(HEADINGS)), classes=["recipes"]
        )
        table["align"] = "left"
        return [table]


def _row(recipe: recipes.Recipe, envs: list[str]) -> nodes.row:
    config = with_settings(ControlRunConfig(), recipe.settings)
    control, ppo = config.control, config.ppo
    falls = " to 0" if ppo.learning_rate_schedule == "linear" else ""
    texts = (
        recipe.source,
        f"{control.total_steps:,}",
        f"{control.num_envs} x {control.rollout_length:,}",
        f"{ppo.minibatch_size}, {ppo.num_epochs}",
        f"{ppo.learning_rate:g}{falls}",
        f"{ppo.gamma:g}",
    )
    names = nodes.paragraph()
    for env in envs:
        names += [nodes.Text(", ")] * (env != envs[0]) + [
            nodes.literal(text=env) if "(" not in env else nodes.Text(env)
        ]
    return nodes.row("", nodes.entry("", names), *(nodes.entry("", nodes.paragraph(text=text)) for text in texts))


def setup(app: Sphinx) -> ExtensionMetadata:
    """Registers the directive."""
    app.add_directive("recipe-table", RecipeTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
