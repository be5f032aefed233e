"""The corpus: sentences with human sentiment ratings (Hutto and Gilbert 2014).

The included models were trained on it. The file is part of the package; `tfppo/assets/NOTICE` names its source and
license, and the module `rebuild` makes it from the source.
"""

import csv
import gzip
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal, NamedTuple, cast

Domain = Literal["movie", "amazon", "nyt", "tweet"]
Split = Literal["train", "validation", "test"]

DOMAINS: tuple[Domain, ...] = ("movie", "amazon", "nyt", "tweet")
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
FILE = "sentences.tsv.gz"


class Sentence(NamedTuple):
    """A sentence with its rating."""

    domain: Domain
    id: str  # as in the source; the part before an underscore is the document
    split: Split
    rating: float  # mean of 15 to 20 raters (tweets: more), from -4 (extremely negative) to 4 (extremely positive)
    text: str


def corpus_path() -> Path:
    """Returns the path of the corpus file, which is one of the package's assets."""
    return Path(str(resources.files("tfppo.assets").joinpath(FILE)))


@cache
def load_corpus() -> tuple[Sentence, ...]:
    """Loads all sentences, in the order of the source.

    The domains are movie (snippets of Rotten Tomatoes reviews), amazon (product reviews), nyt (editorials of the New
    York Times) and tweet.
    """
    with gzip.open(corpus_path(), "rt", encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return tuple(
            Sentence(cast(Domain, domain), id, cast(Split, split), float(rating), text)
            for domain, id, split, rating, text in rows
        )


def sentences(split: Split, domain: Domain | None = None) -> list[Sentence]:
    """Returns the sentences of a split.

    Args:
      split: "train", "validation" or "test".
      domain: Returns only sentences of this domain; None returns those of all.
    """
    return [s for s in load_corpus() if s.split == split and domain in (None, s.domain)]
