"""The included corpus, and how it is made from its source."""

import gzip
import hashlib
import io
import math
import tarfile
from collections import Counter, defaultdict
from importlib import resources

import pytest

from tfppo.errors import UsageError
from tfppo.text.data import rebuild
from tfppo.text.data.corpus import DOMAINS, FILE, SPLITS, Sentence, load_corpus, sentences

COUNTS = {  # train, validation, test
    "movie": (9769, 322, 512),
    "amazon": (3411, 77, 208),
    "nyt": (4649, 188, 279),
    "tweet": (3769, 138, 233),
}
# Documents 1 and 2 of every domain are in the train split; 12 of movie and 70 of tweet in validation; 13 of movie and
# 11 of nyt in test. This must never change, because the included models were trained on the train split.
ROWS = {
    "movie": [
        "1_1\t2.5\tTom &amp; Jerry:  ''a   hoot''",
        "1_2\t-1.0\tSeen before.",
        "2_1\t3.0\tseen BEFORE.",  # a duplicate: only the first is kept
        "2_2\t0.0\t   ",
        "12_1\t0.12345\tAn open question",
        "13_1\t-3.9\tClich\u00e9s, it's all clich\u00e9s",
    ],
    "amazon": ["1_1\t1\tSeen  before.", "1_2\t1\tWorks"],
    "nyt": ["11\t-0.5\tTaxes rose"],
    "tweet": ["70\t4\t&lt;3 ;)"],
}
LINES = [
    'movie\t1_1\ttrain\t2.500\tTom & Jerry: "a hoot"',
    "movie\t1_2\ttrain\t-1.000\tSeen before.",
    "movie\t12_1\tvalidation\t0.123\tAn open question",
    "movie\t13_1\ttest\t-3.900\tClich\u00e9s, it's all clich\u00e9s",
    "amazon\t1_2\ttrain\t1.000\tWorks",
    "nyt\t11\ttest\t-0.500\tTaxes rose",
    "tweet\t70\tvalidation\t4.000\t<3 ;)",
]


def tarred(files):
    """Returns a .tar.gz archive of files by name, as bytes."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A small archive like the source; its checksum and that of the corpus made from it replace the real ones."""
    members = {rebuild.MEMBERS[domain]: "\r\n".join([*rows, ""]).encode() for domain, rows in ROWS.items()}
    path = tmp_path / "source.tar.gz"
    path.write_bytes(tarred({rebuild.INNER: tarred(members)}))
    monkeypatch.setattr(rebuild, "ARCHIVE_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    expected = "".join(line + "\n" for line in LINES).encode()
    monkeypatch.setattr(rebuild, "CORPUS_SHA256", hashlib.sha256(expected).hexdigest())
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)  # the package's assets
    return path


def test_every_split_has_sentences_of_every_domain():
    counts = Counter((sentence.domain, sentence.split) for sentence in load_corpus())
    assert {d: tuple(counts[d, split] for split in SPLITS) for d in DOMAINS} == COUNTS
    assert counts.total() == sum(map(sum, COUNTS.values()))


def test_no_text_occurs_twice_and_so_in_no_two_splits():
    texts = [sentence.text.casefold() for sentence in load_corpus()]
    assert len(texts) == len(set(texts))


def test_whole_documents_are_in_one_split():
    splits, parts = defaultdict(set), Counter()
    for sentence in load_corpus():
        document = (sentence.domain, sentence.id.split("_")[0])
        splits[document].add(sentence.split)
        parts[document] += 1
    assert all(len(found) == 1 for found in splits.values())
    assert sum(count > 1 for count in parts.values()) > 200  # amazon and nyt have many such documents


def test_ratings_and_texts_are_in_order():
    for sentence in load_corpus():
        assert math.isfinite(sentence.rating) and -4 <= sentence.rating <= 4
        assert sentence.text == " ".join(sentence.text.split()) != ""
    assert any(not sentence.text.isascii() for sentence in load_corpus())


def test_the_shipped_file_is_the_pinned_one():
    packed = resources.files("tfppo.assets").joinpath(FILE).read_bytes()
    assert hashlib.sha256(gzip.decompress(packed)).hexdigest() == rebuild.CORPUS_SHA256


def test_sentences_are_those_of_the_split_and_the_domain_in_their_order():
    movies, everything = sentences("test", "movie"), sentences("test")
    assert {s.domain for s in movies} == {"movie"} and {s.split for s in everything} == {"test"}
    assert movies == [s for s in everything if s.domain == "movie"]
    assert everything == [s for s in load_corpus() if s.split == "test"]
    assert len(everything) == sum(counts[2] for counts in COUNTS.values())


def test_an_archive_becomes_lines(archive):
    assert rebuild.build_corpus(archive).decode().splitlines() == LINES


def test_the_rebuilt_file_is_what_load_corpus_reads(archive, capsys):
    assert rebuild.main([str(archive)]) == 0
    assert "7 sentences" in (printed := capsys.readouterr().out) and ", as pinned" in printed
    read = load_corpus.__wrapped__()
    assert ["\t".join((s.domain, s.id, s.split, f"{s.rating:.3f}", s.text)) for s in read] == LINES
    assert read[0] == Sentence("movie", "1_1", "train", 2.5, 'Tom & Jerry: "a hoot"')


def test_a_rebuilt_file_of_another_content_is_told(archive, monkeypatch, capsys):
    monkeypatch.setattr(rebuild, "CORPUS_SHA256", "0" * 64)
    assert rebuild.main([str(archive)]) == 1
    assert "NOT as pinned" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "wanted"), [("other.tar.gz", "SHA-256"), ("nowhere.tar.gz", "No such file"), (".", "directory")]
)
def test_a_wrong_or_missing_archive_is_refused(tmp_path, name, wanted, capsys):
    (tmp_path / "other.tar.gz").write_bytes(tarred({"a": b"b"}))
    with pytest.raises(UsageError) as caught:
        rebuild.build_corpus(tmp_path / name)
    text = str(caught.value)
    assert str(tmp_path / name) in text and wanted in text and len(text.splitlines()) == 1
    assert rebuild.main([str(tmp_path / name)]) == 2
    assert capsys.readouterr().err == f"tfppo: {text}\n"


@pytest.mark.parametrize("arguments", [[], ["a", "b"]])
def test_the_command_says_how_it_is_used(arguments, capsys):
    assert rebuild.main(arguments) == 2
    assert "usage" in capsys.readouterr().err
