"""Makes `sentences.tsv.gz` from the source distribution of vaderSentiment 3.3.2.

Run `make corpus`, or::

    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    python -m tfppo.text.data.rebuild vaderSentiment-3.3.2.tar.gz
"""

import gzip
import hashlib
import html
import io
import sys
import tarfile
from pathlib import Path

from tfppo.errors import UsageError
from tfppo.text.data.corpus import DOMAINS, corpus_path

ARCHIVE_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
# Checksum of the unpacked lines; the bytes of the gzip file depend on the version of zlib.
CORPUS_SHA256 = "c6ae89441bf11a72df04d5e2b391c0e2ba09458d727924ce7c7f9f9b61a5b732"
INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
MEMBERS = {
    "movie": "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
    "amazon": "hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt",
    "nyt": "hutto_ICWSM_2014/nytEditorialSnippets_GroundTruth.txt",
    "tweet": "hutto_ICWSM_2014/tweets_GroundTruth.txt",
}


def build_corpus(archive: Path) -> bytes:
    """Makes the lines of the corpus.

    Args:
      archive: Path of the source distribution.

    Returns:
      Tab-separated lines (domain, id, split, rating, text) in UTF-8. Of sentences that differ only in case the first is
      kept.

    Raises:
      UsageError: If the file cannot be read, or its checksum differs.
    """
    try:
        packed = archive.read_bytes()
    except OSError as error:
        raise UsageError(f"{archive} cannot be read ({error.strerror}): give the path of the archive") from None
    found = hashlib.sha256(packed).hexdigest()
    if found != ARCHIVE_SHA256:
        raise UsageError(
            f"{archive} has the SHA-256 {found}; it must be {ARCHIVE_SHA256}: download the source distribution of "
            "vaderSentiment 3.3.2"
        )
    with tarfile.open(fileobj=io.BytesIO(packed)) as outer:
        inner = _read(outer, INNER)
    seen: set[str] = set()
    lines = []
    with tarfile.open(fileobj=io.BytesIO(inner)) as files:
        for domain in DOMAINS:
            for row in _read(files, MEMBERS[domain]).decode().splitlines():
                identity, rating, text = row.split("\t")
                text = " ".join(html.unescape(text).replace("''", '"').split())
                if text and text.casefold() not in seen:
                    seen.add(text.casefold())
                    split = split_of(domain, identity)
                    lines.append(f"{domain}\t{identity}\t{split}\t{float(rating):.3f}\t{text}\n")
    return "".join(lines).encode()


def _read(archive: tarfile.TarFile, member: str) -> bytes:
    file = archive.extractfile(member)
    assert file is not None, f"{member} is not a file"
    return file.read()


def split_of(domain: str, identity: str) -> str:
    """Chooses the split of a sentence: 92 % of the documents are train, 3 % validation, 5 % test.

    A hash of the document decides, so that the split never changes and a document is never in two splits.

    Args:
      domain: Domain of the sentence.
      identity: Id of the sentence; the part before an underscore is the document.
    """
    document = identity.split("_")[0]
    bucket = int(hashlib.sha256(f"{domain}/{document}".encode()).hexdigest(), 16) % 100
    return "validation" if bucket < 3 else "test" if bucket < 8 else "train"


def main(arguments: list[str]) -> int:
    """Writes the corpus into a file beside this module.

    Args:
      arguments: The path of the source distribution.

    Returns:
      The exit code, which is 0 if the checksum of the corpus is the expected one, 1 if it differs, and 2 after an
      error.
    """
    try:
        if len(arguments) != 1:
            raise UsageError("usage: python -m tfppo.text.data.rebuild vaderSentiment-3.3.2.tar.gz")
        lines = build_corpus(Path(arguments[0]))
    except UsageError as error:
        print(f"tfppo: {error}", file=sys.stderr)
        return 2
    found = hashlib.sha256(lines).hexdigest()
    path = corpus_path()
    path.write_bytes(gzip.compress(lines, 9, mtime=0))
    is_pinned = found == CORPUS_SHA256
    print(f"{path}: {len(lines.splitlines()):,} sentences, SHA-256 {found}, {'as' if is_pinned else 'NOT as'} pinned")
    return 0 if is_pinned else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
