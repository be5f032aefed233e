"""The task "music": write the rest of a folk tune in ABC notation.

The package music21 has collections of folk tunes: O'Neill's, Ryan's, Aird's and some others. Their files are read in
place. A prompt is the header of a tune (meter, unit of length and key) and its first bar; the response has the seven
bars that follow. Rules which need no judge tell whether the result is a tune: see `music_reward`.
"""

import functools
import importlib.util
import random
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from tfppo.text.data.corpus import SPLITS, Split
from tfppo.text.data.prompts import Prompt
from tfppo.text.tasks.definition.answers import SETTINGS
from tfppo.text.tasks.definition.registry import register_task
from tfppo.text.tasks.definition.splits import split_by
from tfppo.text.tasks.definition.task import Task

FOLDERS = ("oneills1850", "ryansMammoth", "airdsAirs", "miscFolk")  # of music21's corpus
METERS = {  # by name: the lengths of a bar and of a group of notes, in whole notes
    "2/4": (0.5, 0.25),
    "3/4": (0.75, 0.25),
    "4/4": (1.0, 0.5),
    "C": (1.0, 0.5),
    "C|": (1.0, 0.5),
    "6/8": (0.75, 0.375),
    "9/8": (1.125, 0.375),
}
UNITS = {"1/8": 8, "1/16": 16}  # units of length in a whole note
BARS = 8  # of a part of a tune, with the bar that is in the prompt
FIELDS = ("M:", "L:", "K:", "")  # of the four lines of a prompt
COPIED = 4  # so many bars in a row, equal to those of another tune, are a copy
DIFFERENT = 5  # a tune of eight bars has at least so many different ones
PAIRS = 0.35  # smallest share of different pairs among the pairs of neighboring notes

PITCH = r"(?:[_=^]?(?:[A-G],?|[a-g]'?)|z)"  # z is a rest
NOTE = rf"{PITCH}(?:[1-9]\d?)?(?:/[248]?)?"
ITEM = re.compile(rf"\(3(?:{NOTE}){{3}}|{NOTE}(?:[<>]{NOTE})?")  # a triplet, a dotted pair or a note
BAR = re.compile(rf"(?:(?:{ITEM.pattern}) ?)+")
KEY = re.compile(r"([A-G][#b]?) ?(m(?!aj|ix)|dor|mix|maj|$)", re.IGNORECASE)
ORNAMENTS = re.compile(r'"[^"]*"|\{[^}]*\}|![^!]*!|[~.uvTHLMPSORJ`\\)-]|\((?!\d)|\[(?=\d)|(?<=\|)\d')  # and slurs
ENDS = re.compile(r"\|\||\|\]|\[\||\|:|:+\|*:*")  # of the parts of a tune


class Start(NamedTuple):
    """The beginning of a tune, as a prompt has it. Lengths are in units."""

    tonic: str  # letter of the key
    full: float  # length of a bar
    group: float  # length of a group of notes
    pickup: str  # notes before the first bar, or ""
    first: str  # first bar


def start_of(prompt: str) -> Start:
    """Reads a prompt."""
    meter, unit, key, notes = (line.removeprefix(name) for line, name in zip(prompt.split("\n"), FIELDS, strict=True))
    full, group = (UNITS[unit] * length for length in METERS[meter])
    pickup, first = ["", *notes.split("|")[:-1]][-2:]
    return Start(key[0], full, group, pickup, first)


def lengths(texts: Iterable[str]) -> dict[str, float]:
    """Returns the lengths of the valid bars among texts, and of the items in them, in units. The empty text has none.

    music21 reads the notes. It skips what it cannot read, so only bars of notes, rests, triplets (three notes in the
    time of two) and dotted pairs are valid here.
    """
    from music21 import abcFormat

    bars = {text: ITEM.findall(text) for text in texts if BAR.fullmatch(text)}
    items = list(dict.fromkeys(item for found in bars.values() for item in found))
    handler = abcFormat.ABCHandler()
    handler.process("L:1/4\n" + "|\n".join(items))  # music21 counts in quarters
    sums = [0.0]
    for token in handler.tokens:
        if isinstance(token, abcFormat.ABCBar):
            sums.append(0.0)
        elif isinstance(token, abcFormat.ABCNote):
            sums[-1] += token.quarterLength * (token.activeTuplet.tupletMultiplier() if token.activeTuplet else 1)
    known = dict(zip(items, sums, strict=False))  # without items there is one sum
    return {"": 0.0} | known | {bar: round(sum(known[item] for item in found), 6) for bar, found in bars.items()}


def grouped(bar: str, group: float, known: dict[str, float]) -> str:
    """Writes a space after each group of notes of a valid bar, as of three eighths in 6/8, and nowhere else."""
    text, length = "", 0.0
    for item in ITEM.findall(bar):
        length += known[item]
        text += item if length % group else f"{item} "
    return text.rstrip()


def bars_of(text: str) -> list[str]:
    """Returns the bars of a text, without white space at their ends."""
    return [bar.strip() for bar in text.strip().removesuffix("|]").split("|")]


def right_bars(start: Start, bars: Sequence[str], known: dict[str, float]) -> int:
    """Counts the bars of the right length. The last bar may leave out the length of the pickup."""
    last = start.full - known.get(start.pickup, 0)
    return sum(known.get(bar) == start.full for bar in bars[:-1]) + (known.get(bars[-1]) in (start.full, last))


@functools.lru_cache(maxsize=100_000)
def plain(bar: str) -> str:
    """Writes the notes of a bar without spaces, and each length in one way: G, G1 and G2/2 become G."""

    def shortest(found: re.Match[str]) -> str:
        pitch, count, slash, parts = found.groups()
        length = Fraction(int(count or 1), int(parts or 2) if slash else 1)
        return pitch + ("" if length == 1 else str(length))

    return re.sub(rf"({PITCH})([1-9]\d?)?(?:(/)([248])?)?", shortest, bar.replace(" ", ""))


def windows(start: Start, bars: Sequence[str]) -> set[tuple[str, ...]]:
    """Returns each four bars in a row of a tune, in the spelling of `plain`."""
    tune = [plain(bar) for bar in (start.first, *bars)]
    return {tuple(tune[at : at + COPIED]) for at in range(len(tune) - COPIED + 1)}


def tune_parts() -> Iterator[tuple[str, str, list[str]]]:
    """Yields the parts of the tunes in music21: an id of the tune, the header, and the bars."""
    spec = importlib.util.find_spec("music21")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'music21'", name="music21")
    corpus = Path(spec.origin).with_name("corpus")
    for path in sorted(path for folder in FOLDERS for path in (corpus / folder).glob("*.abc")):
        for number, tune in enumerate(re.split(r"(?m)^(?=X:)", path.read_text("utf-8", "replace"))):
            for header, bars in parts_of(tune):
                yield f"{path.parent.name}/{path.name}/{number}", header, bars


def parts_of(tune: str) -> Iterator[tuple[str, list[str]]]:
    """Yields the header and the bars of each part of a tune with one voice, one meter and one key.

    Ornaments, chords, slurs and second endings are left out.
    """
    fields: dict[str, list[str]] = defaultdict(list)
    notes = []
    for line in re.sub("%.*", "", tune).splitlines():
        if found := re.match(r"([A-Za-z]):(.*)", line):
            fields[found[1]].append(found[2].strip())
        elif "K" in fields:
            notes.append(line)
    key = KEY.match(" ".join(fields["K"]))
    meter, unit = " ".join(fields["M"]), " ".join(fields["L"])  # several make no valid one
    if meter not in METERS or unit not in UNITS or key is None or len(fields["K"]) > 1 or "V" in fields:
        return
    header = f"M:{meter}\nL:{unit}\nK:{key[1]}{key[2].lower().replace('maj', '')}\n"
    for part in ENDS.split(ORNAMENTS.sub("", " ".join(notes))):
        yield header, [" ".join(bar.split()) for bar in part.split("|") if bar.strip()]


split_of = functools.partial(split_by, validation=10, test=15)  # of the id of a tune


@functools.cache
def endings() -> dict[Split, dict[str, str]]:
    """Returns the prompts of each split with the rest of the tune.

    A prompt is in one split only. A tune is left out if four bars in a row are those of a tune before it: of its own
    split, or of the training split, or, for the test, of the validation split.
    """
    parts = [part for part in tune_parts() if len(part[2]) in (BARS, BARS + 1)]
    known = lengths(bar for *_, bars in parts for bar in bars)
    found: dict[str, tuple[Split, list[str]]] = {}
    for tune, header, bars in parts:
        if not known.keys() >= set(bars):
            continue
        group = start_of(f"{header}|").group
        tidy = [grouped(bar, group, known) for bar in bars]
        known.update(zip(tidy, [known[bar] for bar in bars], strict=True))
        prompt = header + "".join(f"{bar}|" for bar in tidy[: 1 - BARS])
        start, rest = start_of(prompt), tidy[1 - BARS :]
        is_right = known.get(start.first) == start.full > known.get(start.pickup, start.full)
        if is_right and right_bars(start, rest, known) == len(rest):
            found.setdefault(prompt, (split_of(tune), rest))
    rows: dict[Split, dict[str, str]] = {split: {} for split in SPLITS}
    seen: set[tuple[str, ...]] = set()
    for prompt, (split, bars) in sorted(found.items(), key=lambda item: SPLITS.index(item[1][0])):
        here = windows(start_of(prompt), bars)
        if seen.isdisjoint(here):
            rows[split][prompt] = "|".join(bars) + "|]"
        seen |= here
    return rows


def music_prompts(split: Split) -> list[str]:
    """Returns the prompts of a split, ordered by a checksum, so that the first ones are from all collections."""
    return sorted(endings()[split], key=lambda prompt: zlib.crc32(prompt.encode()))


@functools.cache
def training_windows() -> frozenset[tuple[str, ...]]:
    """Returns each four bars in a row of the training tunes."""
    rows = endings()["train"]
    return frozenset(w for prompt, rest in rows.items() for w in windows(start_of(prompt), bars_of(rest)))


def has_end(start: Start, bars: Sequence[str]) -> bool:
    """Returns True if the last note is the tonic of the key in any octave, of at least two whole units.

    It must not be in a triplet, nor in a bar with an accidental before the tonic, which holds to the end of the bar.
    """
    last = re.search(f"(?<![_=^<>]){start.tonic}[,']?(?:[2-9]|[1-9]\\d)$", bars[-1], re.IGNORECASE)
    is_altered = re.search(f"[_=^]{start.tonic}", bars[-1], re.IGNORECASE) is not None
    return last is not None and not is_altered and not ITEM.findall(bars[-1])[-1].startswith("(3")


def is_dull(start: Start, bars: Sequence[str]) -> bool:
    """Returns True for a tune of few bars that return all the time, of few notes, or of the same few notes."""
    tune = [plain(bar) for bar in (start.first, *bars)]
    notes = re.findall(NOTE, "|".join(tune[1:]))
    pairs = list(pairwise(notes))
    different = len({*tune}) / len(tune)
    return (
        different < DIFFERENT / BARS
        or sum("z" not in note for note in notes) < start.full * len(bars) / 2
        or len(set(pairs)) < PAIRS * len(pairs)
    )


@functools.lru_cache(maxsize=10_000)  # intervals of a metric judge the same responses again and again
def judged(prompt: str, response: str) -> tuple[float, frozenset[tuple[str, ...]]]:
    """Scores a response without regard to other responses, and returns its four bars in a row, too."""
    start, bars = start_of(prompt), bars_of(response)
    found = windows(start, bars)
    if is_dull(start, bars) or not found.isdisjoint(training_windows()):
        return 0.0, frozenset(found)
    rules = (len(bars) == BARS - 1 and response.rstrip().endswith("|]"), has_end(start, bars))
    share = right_bars(start, bars, lengths([start.pickup, *bars])) / max(BARS - 1, len(bars))
    return share * (1 + sum(rules)) / 3, frozenset(found)


def music_reward(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """Scores responses by the rules of a tune, from 0 to 1.

    The score is the share of the bars of the right length, among the seven that are wanted or among more if there are
    more. It is multiplied by 1/3, and 1/3 more for each of these:

    - There are seven bars, and `|]` ends them.
    - The last note is the tonic, of at least two units (see `has_end`). A short one often ends a tune on its way.

    It is 0 for a tune that is dull (see `is_dull`), and for a copy: if four bars in a row are those of a tune of the
    training split, or of the response to another prompt among these.

    Args:
      prompts: N prompts.
      responses: N responses.
    """
    judgements = [judged(str(prompt), response) for prompt, response in zip(prompts, responses, strict=True)]
    by_prompt: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for prompt, (_, found) in zip(prompts, judgements, strict=True):
        by_prompt[prompt] |= found
    written = Counter(window for found in by_prompt.values() for window in found)
    return [0.0 if any(written[window] > 1 for window in found) else score for score, found in judgements]


def well_formed(prompts: Sequence[str], responses: Sequence[str]) -> float:
    """Computes the share of responses that follow all rules of the reward."""
    return fmean(score == 1.0 for score in music_reward(prompts, responses))


def distinct_bars(prompts: Sequence[str], responses: Sequence[str]) -> float:
    """Computes the number of different bars of all responses, divided by that of all bars."""
    bars = [plain(bar) for response in responses for bar in bars_of(response)]
    return len(set(bars)) / len(bars)


def real(prompts: Sequence[Prompt]) -> list[str]:
    """Answers with the bars of the real tunes."""
    rest = {prompt: bars for rows in endings().values() for prompt, bars in rows.items()}
    return [rest[prompt] for prompt in prompts]


def shuffled(prompts: Sequence[Prompt]) -> list[str]:
    """Answers with bars of training tunes with the same meter, unit and key, drawn; the last one ended a tune."""
    ends: dict[str, list[list[str]]] = defaultdict(list)
    for prompt, rest in endings()["train"].items():
        ends[prompt.rpartition("\n")[0]].append(bars_of(rest))
    draw = random.Random(1)

    def drawn(header: str) -> str:
        tunes = ends.get(header, [tune for found in ends.values() for tune in found])
        return "|".join(draw.choice(tunes)[at] for at in range(BARS - 1)) + "|]"

    return [drawn(prompt.rpartition("\n")[0]) for prompt in prompts]


MUSIC = register_task(
    Task(
        name="music",
        description="write the rest of a folk tune in ABC notation",
        prompts=music_prompts,
        make_reward=lambda: music_reward,
        measure=well_formed,
        metric="well_formed",
        judges={"distinct_bars": distinct_bars},
        domain=None,
        defaults={
            **SETTINGS,
            "prompt_length": None,
            "response_length": 80,
            "iterations": 200,
            "learning_rate": 4e-4,
            "kl_coeff": 0.01,
        },
        examples=lambda split: [{"prompt": prompt, "response": rest} for prompt, rest in endings()[split].items()],
        sft_defaults={
            "epochs": 14,
            "batch_size": 16,
            "learning_rate": 2e-3,
            "dropout": 0.0,
            "vocabulary_size": 512,
            "num_layers": 2,
            "hidden_dim": 128,
            "context_length": 160,
        },
        baselines={"corpus": real, "shuffled": shuffled},
        needs=("music21",),
    )
)
