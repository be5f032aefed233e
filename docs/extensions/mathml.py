"""A Sphinx extension that writes formulas as MathML, which browsers show without a script and without a network.

latex2mathml passes on what it does not know: an unknown command comes out as text, and an open brace is closed without
a message. This extension reports both as warnings, which `make docs` turns into errors.
"""

import re
from xml.etree import ElementTree

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.typing import ExtensionMetadata
from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)

PARENTHESIS = r"(?:<mrow>)?<mo [^>]*>(?:\(|&#x00028;)"
BASE = r"(?<!<msub>)(?<!<msup>)(?<!<munder>)(?<!<msubsup>)(?<!<munderover>)"
CALLED = re.compile(rf"{BASE}<mo>([A-Za-z]{{2,}})</mo>(?={PARENTHESIS})")  # clip(x): no space before the parenthesis
NAMED = re.compile(rf"{BASE}<mi>([a-z]{{2,}})</mi>(?!{PARENTHESIS})")  # log x: a space behind the name
PARTS = dict.fromkeys(("mfrac", "msub", "msup", "munder", "mover", "mroot"), 2) | {"msubsup": 3, "munderover": 3}


def to_mathml(latex: str, display: str) -> str:
    """Converts a formula.

    Args:
      latex: the formula, without dollar signs.
      display: "inline" or "block".

    Raises:
      ValueError: if a brace has no partner, or latex2mathml does not know a command or an environment.
    """
    braces = re.sub(r"\\[{}\\]", "", latex)
    if braces.count("{") != braces.count("}"):
        raise ValueError(f"{braces.count('{')} opening and {braces.count('}')} closing braces")
    try:
        # It knows `split`, which is `aligned` by another name.
        mathml = convert(re.sub(r"\\(begin|end)\{aligned\}", r"\\\1{split}", latex), display=display)
    except Exception as error:  # its exceptions have no common base
        raise ValueError(f"{type(error).__name__} {error}".strip()) from error
    try:
        root = ElementTree.fromstring(mathml)
    except ElementTree.ParseError as error:
        raise ValueError(f"the result is not XML ({error}): is & outside of a known environment?") from error
    unknown = [text for text in root.itertext() if "\\" in text]
    if unknown:
        raise ValueError(f"unknown {', '.join(unknown)}")
    incomplete = [_name(element) for element in root.iter() if len(element) != PARTS.get(_name(element), len(element))]
    if incomplete:
        raise ValueError(f"an argument is missing in {', '.join(incomplete)}")
    mathml = CALLED.sub(r"<mi>\1</mi>", mathml)
    return NAMED.sub(r'<mi>\1</mi><mspace width="0.167em" />', mathml)


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _converted(translator: HTML5Translator, node: nodes.math | nodes.math_block, display: str) -> str:
    try:
        return to_mathml(node.astext(), display)
    except ValueError as error:
        logger.warning("cannot convert the formula %r: %s", node.astext(), error, location=node, type="mathml")
        return translator.encode(node.astext())


def visit_inline(translator: HTML5Translator, node: nodes.math) -> None:
    """Writes a formula within a line."""
    translator.body.append(_converted(translator, node, "inline"))
    raise nodes.SkipNode


def visit_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    """Writes a formula on lines of its own; a wide one is scrolled."""
    translator.body.append(f'<div class="math-wrapper">{_converted(translator, node, "block")}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> ExtensionMetadata:
    """Registers the renderer; the configuration chooses it by `html_math_renderer = "mathml"`."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
