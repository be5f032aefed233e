"""The task music: lengths of bars, rules of a tune, cheats, splits, and the package that it needs."""

import importlib.util

import pytest
from support.refusal import command_refusal

from tfppo.text.data.corpus import SPLITS
from tfppo.text.tasks import MUSIC, music
from tfppo.text.tasks.music import (
    KEY,
    UNITS,
    bars_of,
    distinct_bars,
    endings,
    grouped,
    has_end,
    judged,
    lengths,
    music_reward,
    parts_of,
    right_bars,
    start_of,
    training_windows,
    well_formed,
    windows,
)

PROMPT = "M:6/8\nL:1/8\nK:G\nD|GAB cBA|"  # a pickup of one unit, and a bar
TUNE = "Bcd gdB|cBA BGE|DED EFD|GAB cBA|Bcd gdB|cBA FDF|AGF G2|]"  # the last bar leaves out the pickup
LONG = "GAB cBA|Bcd gdB|cBA BGE|DED EFD|GAB cBA|Bcd gdB|cBA FDF|AGF G2|]"


@pytest.fixture(autouse=True)
def corpus(request, monkeypatch):
    """Only slow tests read the corpus, which takes seconds; for the others there is no tune to copy."""
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr(music, "training_windows", frozenset)
    judged.cache_clear()


def score(response, prompt=PROMPT):
    return music_reward([prompt], [response])[0]


@pytest.mark.parametrize(
    ("meter", "unit", "length"),
    [("6/8", "1/8", 6), ("C", "1/8", 8), ("C|", "1/8", 8), ("3/4", "1/8", 6), ("2/4", "1/16", 8), ("9/8", "1/8", 9)],
)
def test_the_length_of_a_bar_of_a_meter(meter, unit, length):
    assert start_of(f"M:{meter}\nL:{unit}\nK:G\nG|").full == length


@pytest.mark.parametrize(
    ("bar", "length"),
    [
        ("GABc dedB", 8),
        ("A2 A/2 A/ A3/2", 4.5),
        ("A>B c<d", 4),
        ("A2>B2", 4),
        ("(3ABC D", 3),
        ("(3A/B/C/ z", 2),
        ("^F =f' _B, z2", 5),
        ("A/4B/4c/4d/4", 1),
        ("d3/2e/", 2),
    ],
)
def test_the_length_of_a_bar(bar, length):
    assert lengths(["z2", bar, "G"])[bar] == length


@pytest.mark.parametrize(
    "text", ["", "hello", "(3AB", "A>", "A>|B", "A/0", "A/3", "[GB]", "A''", "(4ABcd", "A  B", "H"]
)
def test_other_texts_are_no_bars(text):
    assert lengths([text]) == {"": 0}


def test_a_prompt_is_read():
    assert start_of(PROMPT) == ("G", 6, 3, "D", "GAB cBA")
    assert start_of("M:C|\nL:1/8\nK:Ador\nABcd e4|") == ("A", 8, 4, "", "ABcd e4")


@pytest.mark.parametrize(
    ("bar", "group", "wanted"),
    [
        ("G2AB cdA", 3, "G2A Bcd A"),
        ("GABc dedB", 4, "GABc dedB"),
        ("G A3 (3Bcd", 2, "GA3 (3Bcd"),
        ("GA>BB", 4, "GA>BB"),
    ],
)
def test_notes_are_grouped(bar, group, wanted):
    assert grouped(bar, group, lengths([bar])) == wanted


def test_the_last_bar_may_leave_out_the_pickup_and_no_other_may():
    start, known = start_of(PROMPT), lengths(["D", "GAB cBA", "AGF G2", "G3", "AGF G3"])
    assert right_bars(start, ["GAB cBA", "AGF G2"], known) == right_bars(start, ["GAB cBA", "AGF G3"], known) == 2
    assert right_bars(start, ["AGF G2", "AGF G3"], known) == right_bars(start, ["GAB cBA", "G3"], known) == 1
    assert right_bars(start, ["GAB cBA", "?"], known) == 1


def test_a_tune_scores_1_and_each_broken_rule_costs():
    assert score(TUNE) == score(f" {TUNE}\n") == 1.0
    assert score(TUNE.removesuffix("|]")) == pytest.approx(2 / 3)  # no end
    assert score(TUNE.replace("G2|]", "B2|]")) == score(TUNE.replace("G2|]", "^G2|]")) == pytest.approx(2 / 3)  # tonic
    assert score(TUNE.replace("AGF G2|]", "^GAB G2|]")) == pytest.approx(2 / 3)  # the accidental holds for the bar
    endings = {"AFG2": True, "G12": True, "(3AFG2": False, "(3FFF G2": True, "^g2 G2": False, "G": False, "A>G2": False}
    assert {bar: has_end(start_of(PROMPT), [bar]) for bar in endings} == endings
    assert score(TUNE.replace("AGF G2|]", "GFE DG|]")) == pytest.approx(2 / 3)  # the last note is a short one
    assert score(TUNE.replace("cBA BGE", "cBA BG")) == pytest.approx(6 / 7)  # one bar of seven is short
    assert score(TUNE.replace("cBA BGE", "hello")) == pytest.approx(6 / 7)
    assert score(LONG) == pytest.approx(2 / 3)  # eight bars are one too many
    assert score(LONG.replace("GAB cBA|Bcd", "GAB cB|Bcd", 1)) == pytest.approx(2 / 3 * 7 / 8)
    assert well_formed([PROMPT] * 2, [TUNE, TUNE.replace("G2|]", "B2|]")]) == 0.5
    assert distinct_bars([PROMPT] * 2, [TUNE, TUNE]) == 6 / 14


@pytest.mark.parametrize(
    ("key", "last"), [("G", "G"), ("D", "d"), ("Em", "e"), ("Ador", "A,"), ("Bb", "B"), ("F#m", "f")]
)
def test_the_tonic_of_a_key(key, last):
    prompt = PROMPT.replace("K:G", f"K:{key}")
    assert score(TUNE.replace("G2|]", f"{last}2|]"), prompt) == 1.0
    assert score(TUNE.replace("G2|]", "c2|]"), prompt) == pytest.approx(2 / 3)


CHEATS = {
    "nothing": "",
    "an end": "|]",
    "the prompt": PROMPT,
    "its bar, repeated": "GAB cBA|" * 6 + "GAB cBA|]",
    "one bar, repeated": "Bcd gdB|" * 6 + "GFE G2|]",
    "two bars, repeated": "Bcd gdB|cBA BGE|" * 3 + "GFE G2|]",
    "one long note in each bar": "G6|A6|B6|c6|G6|A6|G5|]",
    "rests": "z6|" * 6 + "G5|]",
    "notes and long rests": "Gz5|Az5|Bz5|cz5|dz5|Gz5|G5|]",
    "one note": "GGGGGG|" * 6 + "GGGGG|]",
    "one note in each bar, repeated": "GGGGGG|AAAAAA|BBBBBB|cccccc|GGGGGG|AAAAAA|GGGGG|]",
    "two bars in two spellings": "Bcd gdB|cBA BGE|Bcdg dB|cBAB GE|Bcdgd B|cBABG E|AGF G2|]",
    "two bars in other lengths": "Bcd gdB|cBA BGE|B1cd gdB|c1BA BGE|B2/2cd gdB|c2/2BA BGE|AGF G2|]",
    "bars without end": "|".join(["GAB cBA", "Bcd gdB", "cBA BGE", "DED EFD"] * 9),
    "words": "It is a tune in G",
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_cheat_pays_nothing(cheat):
    assert score(CHEATS[cheat]) < 0.34
    assert well_formed([PROMPT], [CHEATS[cheat]]) == 0.0


@pytest.mark.slow
def test_a_copy_pays_nothing():
    prompt, rest = next(iter(endings()["train"].items()))
    assert score(rest, prompt) == 0.0
    inside = "|".join([*bars_of(TUNE)[:3], *bars_of(rest)[2:6]]) + "|]"  # four bars of another tune
    assert windows(start_of(PROMPT), bars_of(inside)) & training_windows() and score(inside) == 0.0


def test_the_same_response_to_another_prompt_pays_nothing():
    other = "M:6/8\nL:1/8\nK:G\nD|EFG AFD|"
    assert music_reward([PROMPT, other], [TUNE, TUNE]) == [0.0, 0.0]
    assert music_reward([PROMPT, PROMPT], [TUNE, TUNE]) == [1.0, 1.0]  # to the same prompt: a prompt may come twice


def test_a_tune_is_simplified():
    text = "X:1\nT:None\nM:6/8\nL:1/8\nK:E Minor\n"
    first = '|:"Em".B|~(EFG) {A}B3|c2B (3ABc d \\\n|1 e2d e3:|2 e6||\n% a comment\nGAB d3|]'
    assert list(parts_of(text + first))[1:] == [
        ("M:6/8\nL:1/8\nK:Em\n", ["B", "EFG B3", "c2B (3ABc d", "e2d e3"]),
        ("M:6/8\nL:1/8\nK:Em\n", ["e6"]),
        ("M:6/8\nL:1/8\nK:Em\n", ["GAB d3"]),
        ("M:6/8\nL:1/8\nK:Em\n", []),
    ]
    assert list(parts_of(text + "GAB d3|\nK:G\nGAB d3|]")) == list(parts_of(text.replace("6/8", "5/4"))) == []


@pytest.mark.slow
def test_splits_share_no_prompt_and_no_four_bars():
    seen, prompts = set(), set()
    for split in SPLITS:
        rows = endings()[split]
        found = {window for prompt, rest in rows.items() for window in windows(start_of(prompt), bars_of(rest))}
        assert len(rows) > 300 and not found & seen and not set(rows) & prompts
        assert sorted(map(str, MUSIC.checked_prompts(split))) == sorted(rows)
        seen |= found
        prompts |= set(rows)
    examples = MUSIC.checked_examples("validation")
    assert {row["prompt"]: row["response"] for row in examples} == endings()["validation"]


@pytest.mark.slow
def test_music21_agrees_about_every_tune_of_the_test():
    """Its converter, which knows bars, keys and accidentals, finds the same lengths and the same last notes."""
    from music21 import converter

    for prompt, rest in list(endings()["test"].items())[::20]:
        start, bars = start_of(prompt), bars_of(rest)
        score = converter.parse(f"X:1\n{prompt}{rest}\n", format="abc")
        notes = list(score.recurse().notesAndRests)
        measures = list(score.recurse().getElementsByClass("Measure"))
        assert len(measures) == 8 + bool(start.pickup)
        unit = 4 / UNITS[prompt.split("\n")[1].removeprefix("L:")]  # in quarters
        known = lengths(bars)
        assert [m.duration.quarterLength for m in measures[-7:]] == [known[bar] * unit for bar in bars], rest
        tonic = KEY.match(prompt.split("\n")[2].removeprefix("K:"))[1].replace("b", "-")
        is_tonic = not notes[-1].isRest and notes[-1].pitch.name == tonic
        assert has_end(start, bars) == (is_tonic and notes[-1].quarterLength >= 2 * unit), (prompt, rest)


@pytest.mark.slow
def test_baselines_are_in_their_order():
    values = MUSIC.judged_baselines("validation")
    assert set(values) == {"corpus", "shuffled"} and 0 < values["shuffled"] + 0.1 < values["corpus"] < 1


def test_without_music21_the_error_is_one_line(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "music21" else find(name))
    monkeypatch.setattr(music, "endings", music.endings.__wrapped__)
    error = command_refusal(capsys, "tasks", "music")
    assert "task music needs the package music21, which is not installed: run make setup EXTRAS=tasks" in error
