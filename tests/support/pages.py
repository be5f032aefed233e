"""Helpers for tests of README and docs/: names that pages give, anchors of their headings, and Sphinx extensions."""

import importlib
import itertools
import re
from functools import reduce
from typing import NamedTuple

from markdown_it import MarkdownIt

PARSER = MarkdownIt("commonmark").enable("table")


def find(name):
    """Returns the object that a dotted name gives: the longest part that is a module, then attributes.

    Raises:
      AttributeError: If there is no such object.
    """
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        module = ".".join(parts[:length])
        try:
            return reduce(getattr, parts[length:], importlib.import_module(module))
        except ModuleNotFoundError as error:
            if not f"{module}.".startswith(f"{error.name}."):
                raise
    raise AttributeError(f"there is no {name}")


def anchors_of(page):
    """Returns the anchors of a page's headings, as GitHub and MyST make them, and those that are written out."""
    anchors, tokens = set(), PARSER.parse(page.read_text())
    for opening, inline in itertools.pairwise(tokens):
        if opening.type == "heading_open":
            text = "".join(child.content for child in inline.children if child.type in ("text", "code_inline"))
            slug = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
            names = itertools.chain([slug], (f"{slug}-{number}" for number in itertools.count(1)))
            anchors.add(next(name for name in names if name not in anchors))
    written = re.findall(r"""(?:id|name)=["']([^"']+)|^\(([\w-]+)\)=$""", page.read_text(), re.MULTILINE)
    return anchors | {name for names in written for name in names if name}


class Block(NamedTuple):
    language: str
    code: str
    line: int  # of its first line in the page, from 0
    marker: str  # what the comment above it says; empty: there is none


def blocks(page):
    """Returns the fenced blocks of a page."""
    found, marker = [], ""
    for token in PARSER.parse(page.read_text()):
        if token.type == "fence":
            found.append(Block(token.info.strip(), token.content, token.map[0] + 1, marker))
        comment = re.fullmatch(r"\s*<!-- test: (.*?) -->\s*", token.content if token.type == "html_block" else "")
        marker = comment[1] if comment else ""
    return found
