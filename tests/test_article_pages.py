"""The pages about the article: every name of tfppo that they give exists, and they follow the article's sections."""

import re
from pathlib import Path

import pytest
from support.pages import find

PAGES = sorted((Path(__file__).parents[1] / "docs" / "article").glob("*.md"))
SECTIONS = (
    "1 2 2.1 3 3.1 3.2 3.2.1 3.2.2 3.2.3 3.2.4 3.2.5 3.3 3.4 4 4.1 4.2 4.3 5 5.1 5.2 5.3 6 6.1 6.2 6.3 6.4 "
    "7 7.1 7.2 7.3 8 8.1 8.2 8.3 8.4 9 Q1 Q2 Q3 Q4 Q5 Q6 Q7 Q8"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_names_of_a_page_exist(page):
    names = set(re.findall(r"\btfppo(?:\.[A-Za-z]\w*)+", page.read_text(encoding="utf-8")))
    assert names
    for name in sorted(names):
        find(name)


@pytest.mark.parametrize("name", ["index.md", "zh.md"])
def test_a_companion_has_every_section_of_the_article_in_its_order(name):
    (page,) = [page for page in PAGES if page.name == name]
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert " ".join(re.findall(r"^#{2,4} (\d+(?:\.\d+)*|Q\d)\b", text, re.MULTILINE)) == SECTIONS
