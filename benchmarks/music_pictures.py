"""Draws tunes of the task music before and after PPO, as notes on staves.

Usage: python benchmarks/music_pictures.py TABLE [--picture benchmarks/results/music.png]

TABLE is the file that `benchmarks/tasks.py --tasks music --table TABLE` writes. The tunes are those of
the first three prompts whose meters differ, one draw each. The bar of the prompt is gray. A bar of the wrong length is
red, with its length in units. Staves are for the treble clef.
"""

import argparse
import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, Rectangle
from music21 import converter, key

from tfppo.text.tasks.music import KEY, NOTE, bars_of, lengths, music_reward, start_of

TUNES = 3
BOTTOM = 31  # line of the staff for E4; music21 numbers the lines and the spaces of staves
HEAD = (0.085, 1.55)  # width in bars and height in half spaces of the head of a note
MARKS = {"^": "♯", "_": "♭", "=": "♮"}
SHARPS, FLATS = (39, 36, 40, 37, 34, 38, 35), (35, 38, 34, 37, 33, 36, 32)  # lines of the key's accidentals
RED = "#b2182b"


def draw_note(axes: Any, x: float, line: int, length: float, mark: str, stem: float | None) -> None:
    """Draws the head of a note, its accidental, ledger lines, dot and stem.

    Args:
      axes: Axes of the staff.
      x: Position, in bars.
      line: Line or space of the staff.
      length: Length in quarters.
      mark: Its accidental in ABC notation, or "".
      stem: Line where its stem ends, or None: it has no stem.
    """
    for ledger in (*range(29, line - 1, -2), *range(41, line + 1, 2)):
        axes.plot([x - 0.07, x + 0.07], [ledger] * 2, color="black", linewidth=0.8)
    is_open = length >= 2
    axes.add_patch(Ellipse((x, line), *HEAD, facecolor="white" if is_open else "black", edgecolor="black", zorder=3))
    if stem is not None:
        side = x + (HEAD[0] if stem > line else -HEAD[0]) * 0.46
        axes.plot([side] * 2, [line, stem], color="black", linewidth=0.9)
    if Fraction(length).limit_denominator(16).numerator == 3:
        axes.plot([x + 0.065], [line + 0.5 * (line % 2)], ".", color="black", markersize=2)
    axes.text(x - 0.05, line, MARKS.get(mark, ""), ha="right", va="center_baseline", fontsize=9)


def draw_group(axes: Any, group: list[tuple[float, int, float, str]]) -> None:
    """Draws notes that ABC notation writes without a space, with beams between those shorter than a quarter."""
    up = sum(line for _, line, *_ in group) < 35 * len(group)
    short = [note for note in group if note[2] < 1]
    lines = [note[1] for note in short]
    level = (max(lines) + 5.5 if up else min(lines) - 5.5) if short else 0.0
    for x, line, length, mark in group:
        end = level if length < 1 else line + (6 if up else -6)
        draw_note(axes, x, line, length, mark, None if length >= 4 else end)
    shift = (HEAD[0] if up else -HEAD[0]) * 0.46
    for beam, limit in enumerate((1, 0.5, 0.25)):
        bottom = level - (1.1 if up else -1.1) * beam
        for index, (x, _, length, _) in enumerate(short):
            if length < limit:
                neighbors = short[max(index - 1, 0) : index] + short[index + 1 : index + 2]
                ends = [note[0] for note in neighbors if note[2] < limit]
                ends = ends or [(note[0] + x) / 2 for note in neighbors[:1]] or [x + 0.06]
                for end in ends:
                    axes.add_patch(Rectangle((x + shift, bottom), end - x, 0.6, color="black", linewidth=0.3))


def draw_bar(axes: Any, header: str, bar: str, left: float, width: float) -> None:
    """Draws the notes of a valid bar."""
    notes = list(converter.parse(f"X:1\n{header}\n{bar}|\n", format="abc").recurse().notesAndRests)
    total = float(sum(note.quarterLength for note in notes))
    texts = [(text, number) for number, group in enumerate(bar.split(" ")) for text in re.findall(NOTE, group)]
    groups: dict[int, list[tuple[float, int, float, str]]] = {}
    at = 0.0
    for note, (text, group) in zip(notes, texts, strict=True):
        length = float(note.quarterLength)
        x = left + width * (0.09 + 0.86 * (at / total + 0.25 / len(notes)))
        at += length
        if note.isRest:
            axes.text(x, 35, "z", ha="center", va="center_baseline", fontsize=9, style="italic")
            continue
        mark = text[0] if text[0] in MARKS else ""
        groups.setdefault(group, []).append((x, note.pitch.diatonicNoteNum, length, mark))
    for notes_of_group in groups.values():
        draw_group(axes, notes_of_group)


def draw_tune(axes: Any, prompt: str, response: str, title: str) -> None:
    """Draws a tune with its ABC notation below."""
    header, _, notes = prompt.rpartition("\n")
    start, bars = start_of(prompt), bars_of(response)
    cells = [(bar, True) for bar in (start.pickup, start.first) if bar] + [(bar, False) for bar in bars]
    known = lengths(bar for bar, _ in cells)
    right = {start.full, start.full - known[start.pickup]}
    letters = KEY.match(header.rpartition("K:")[2])
    assert letters is not None
    mode = {"": "major", "m": "minor", "dor": "dorian", "mix": "mixolydian"}[letters[2].lower()]
    sharps = key.Key(letters[1].replace("b", "-"), mode).sharps
    axes.set(xlim=(-0.6, 9.1), ylim=(22, 50))
    axes.axis("off")
    meter = header.partition("M:")[2].partition("\n")[0]
    axes.text(
        -0.55, 35, meter.replace("/", "\n"), fontsize=11, va="center", ha="center", weight="bold", linespacing=0.85
    )
    for place, line in enumerate((SHARPS if sharps > 0 else FLATS)[: abs(sharps)]):
        axes.text(-0.38 + 0.08 * place, line, "♯" if sharps > 0 else "♭", fontsize=9, va="center_baseline", ha="center")
    x = 0.0
    for number, (bar, is_given) in enumerate(cells[:9]):
        width = 0.4 if number == 0 and start.pickup else 1.0
        length = known.get(bar)
        is_last = number == len(cells) - 1
        is_right = is_given or length == start.full or (is_last and length in right)
        if is_given:
            axes.axvspan(x, x + width, 5 / 28, 21 / 28, color="#e8e8e8", linewidth=0)
        elif not is_right:
            axes.axvspan(x, x + width, 5 / 28, 21 / 28, color=RED, alpha=0.15, linewidth=0)
            shown = f"{float(length):g} of {start.full:g}" if length is not None else "not valid"
            axes.text(x + width / 2, 44.5, shown, color=RED, fontsize=8, ha="center")
        if length:
            draw_bar(axes, header, bar, x, width)
        x += width
        axes.plot([x] * 2, [BOTTOM, BOTTOM + 8], color="black", linewidth=1)
    if response.rstrip().endswith("|]"):
        axes.plot([x - 0.05] * 2, [BOTTOM, BOTTOM + 8], color="black", linewidth=0.8)
        axes.plot([x] * 2, [BOTTOM, BOTTOM + 8], color="black", linewidth=2.5)
    for line in range(BOTTOM, BOTTOM + 10, 2):
        axes.plot([-0.45, x], [line] * 2, color="#777777", linewidth=0.6, zorder=0)
    axes.text(-0.6, 47.5, title, fontsize=10, weight="bold")
    axes.text(-0.6, 23, f"{notes} {response.strip()}", fontsize=7.5, family="DejaVu Sans Mono", color="#444444")


def main() -> None:
    """Draws three tunes before and after PPO."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--picture", type=Path, default=Path(__file__).parent / "results" / "music.png")
    arguments = parser.parse_args()
    rows_of_table = [json.loads(line) for line in arguments.table.read_text().splitlines()]
    found = next((row for row in rows_of_table if row["task"] == "music"), None)
    if found is None:
        parser.error(f"{arguments.table} has no row of the task music; it must have one: run benchmarks/tasks.py first")
    prompts = [row["prompt"] for row in found["answers"]]
    scores = {who: music_reward(prompts, found[f"answers of {who}"]) for who in ("sft", "ppo")}
    by_meter: dict[str, int] = {}
    for number, prompt in enumerate(prompts):
        by_meter.setdefault(prompt.partition("\n")[0], number)
    chosen = list(by_meter.values())[:TUNES]
    figure = Figure(figsize=(13, 1.75 * 2 * TUNES), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    rows = iter(figure.subplots(2 * TUNES, 1))
    for number in chosen:
        letter = prompts[number].rpartition("K:")[2].partition("\n")[0]
        for who, name in (("sft", "before PPO"), ("ppo", "after PPO")):
            title = f"Key {letter}, {name}: reward {scores[who][number]:.2f}"
            draw_tune(next(rows), prompts[number], found[f"answers of {who}"][number], title)
    arguments.picture.parent.mkdir(exist_ok=True)
    figure.savefig(arguments.picture)
    print(arguments.picture)


if __name__ == "__main__":
    main()
