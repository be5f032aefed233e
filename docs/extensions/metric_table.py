"""A Sphinx extension with the directive `metric-table`: all metrics of a run, from the table that the code uses."""

from itertools import groupby

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

from tfppo.reporting import metrics


class MetricTable(SphinxDirective):
    """Writes a table for each group of metrics, in the order of `tfppo.reporting.metrics.METRICS`."""

    def run(self) -> list[nodes.Node]:
        """Makes the tables. The page depends on the module: a change of it builds the page again."""
        self.env.note_dependency(metrics.__file__)
        groups = groupby(metrics.METRICS.items(), key=lambda item: item[0].partition("/")[0])
        return [_table(name, dict(items)) for name, items in groups]


def _table(title: str, rows: dict[str, str]) -> nodes.table:
    body = nodes.tbody()
    for name, meaning in rows.items():
        row = nodes.row(ids=[anchor(name)])
        row += nodes.entry("", nodes.paragraph("", "", nodes.literal(text=name)))
        row += nodes.entry("", nodes.paragraph(text=meaning))
        body += row
    heading = nodes.row()
    heading += [nodes.entry("", nodes.paragraph(text=text)) for text in ("Metric", "Meaning")]
    columns = [nodes.colspec(colwidth=width) for width in (35, 65)]
    table = nodes.table("", nodes.title(text=title), nodes.tgroup("", *columns, nodes.thead("", heading), body, cols=2))
    table["align"] = "left"
    return table


def anchor(metric: str) -> str:
    """Returns the anchor of a metric's row, such as metric-text-kl."""
    return "metric-" + nodes.make_id(metric.replace("/", "-"))


def setup(app: Sphinx) -> ExtensionMetadata:
    """Registers the directive."""
    app.add_directive("metric-table", MetricTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
