"""Sentences with human ratings, from Hutto and Gilbert 2014: the real text that everything here is trained on.

The file is vendored (tfppo/assets/NOTICE names its source); `python -m tfppo.text.data.rebuild` makes it again.
"""

import csv
import gzip
from functools import cache
from importlib import resources
from typing import Literal, NamedTuple, cast

Domain = Literal["movie", "amazon", "nyt", "tweet"]
Split = Literal["train", "validation", "test"]

DOMAINS: tuple[Domain, ...] = ("movie", "amazon", "nyt", "tweet")
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
FILE = "sentences.tsv.gz"


class Sentence(NamedTuple):
    """A sentence as people rated it."""

    domain: Domain
    id: str  # as in the source; what stands before an underscore is the document
    split: Split
    rating: float  # mean of 15 to 20 raters (tweets: more), from -4 (extremely negative) to 4
    text: str


@cache
def load_corpus() -> tuple[Sentence, ...]:
    """All sentences, in the order of the source. Domains: movie (Rotten Tomatoes snippets), amazon (product reviews),
    nyt (editorials), tweet."""
    path = resources.files("tfppo.assets").joinpath(FILE)
    with path.open("rb") as packed, gzip.open(packed, "rt", encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return tuple(
            Sentence(cast(Domain, domain), id, cast(Split, split), float(rating), text)
            for domain, id, split, rating, text in rows
        )


def sentences(split: Split, domain: Domain | None = None) -> list[Sentence]:
    """The sentences of a split, of one domain or of all."""
    return [s for s in load_corpus() if s.split == split and domain in (None, s.domain)]
