"""Follows a model's opinion of two companies over time, from a stream of headlines, and draws it.

Train the task "finance" first (`make task NAME=finance`), then:

    python examples/finance_stream.py runs/finance-seed1

The headlines are those of the test split, with the names of the two companies. Each company has good and bad times: its
mood, a random walk, chooses how many of a day's headlines are positive or negative. The model reads every headline and
answers positive, negative or neutral. The picture opinion.png in the run's folder shows the mean over a week of the
answers, beside that of the labels.
"""

import argparse
import random
import sys
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tfppo.cli.startup import import_tensorflow
from tfppo.errors import UsageError
from tfppo.text.tasks.finance import COMPANIES, finance_rows

SHOWN = ("Fjord Energy", "Garnet Bank")
DAYS, A_DAY, WEEK = 90, 6, 7
VALUES = {"positive": 1.0, "neutral": 0.0, "negative": -1.0}


def stream(company: str, days: int, seed: int) -> list[list[dict[str, str]]]:
    """Returns the headlines of each day about a company, with their labels."""
    draw = random.Random(f"{company} {seed}")
    rows = {label: [row for row in finance_rows("test") if row["answer"] == label] for label in VALUES}
    mood, found = draw.uniform(-0.5, 0.5), []
    for _ in range(days):
        mood = max(-1.0, min(1.0, mood + draw.gauss(0.0, 0.2)))
        labels = draw.choices(list(VALUES), weights=(1 + mood, 0.5, 1 - mood), k=A_DAY)
        found.append([{**draw.choice(rows[label])} for label in labels])
        for row in found[-1]:
            (other,) = [name for name in COMPANIES if name in row["prompt"]]
            row["prompt"] = row["prompt"].replace(other, company)
    return found


def weekly(values: np.ndarray) -> np.ndarray:
    """Computes the mean over the last seven days, for each day; over fewer at the beginning."""
    daily = values.mean(axis=1)
    return np.array([daily[max(0, day + 1 - WEEK) : day + 1].mean() for day in range(len(daily))])


def draw_opinions(opinions: dict[str, tuple[np.ndarray, np.ndarray]], path: Path) -> None:
    """Draws the weekly opinion of the model and of the labels for each company.

    Args:
      opinions: For each company the values of the model's answers and of the labels, arrays [days, headlines].
      path: File of the picture.
    """
    figure = Figure(figsize=(9, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(opinions), 1, sharex=True, sharey=True)
    for axis, (company, (model, labels)) in zip(axes, opinions.items(), strict=True):
        axis.axhline(0, color="0.7", linewidth=0.8)
        axis.plot(weekly(labels), color="0.4", linestyle="--", label="labels of the lexicon")
        axis.plot(weekly(model), color="C0", label="answers of the model")
        axis.set(title=company, ylabel="opinion", ylim=(-1.05, 1.05))
    axes[0].legend(loc="upper right", ncols=2)
    axes[-1].set_xlabel(f"day (mean over a week, {A_DAY} headlines a day)")
    figure.savefig(path, dpi=110)


def main(run: Path, days: int = DAYS, seed: int = 1) -> Path:
    """Reads the stream with the model of a run, and draws the picture.

    Returns:
      The path of the picture.
    """
    import tfppo

    streams = {company: stream(company, days, seed) for company in SHOWN}
    prompts = [row["prompt"] for found in streams.values() for rows in found for row in rows]
    print(f"reading {len(prompts)} headlines ...", flush=True)
    answers = iter(tfppo.generate(run, prompts, temperature=0))
    opinions = {}
    for company, found in streams.items():
        said = [[next(answers).strip().removesuffix(".") for _ in rows] for rows in found]
        labels = [[row["answer"] for row in rows] for rows in found]
        right = np.mean(np.array(said) == np.array(labels))
        model, wanted = ([[VALUES.get(word, 0.0) for word in row] for row in rows] for rows in (said, labels))
        opinions[company] = np.array(model), np.array(wanted)
        print(f"{company}: {right:.0%} of the headlines are judged as the lexicon does")
    path = run / "opinion.png"
    draw_opinions(opinions, path)
    print(f"drew {path}")
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a finished run of the task finance")
    arguments = parser.parse_args()
    import_tensorflow(language_model=True)
    try:
        main(arguments.run)
    except UsageError as error:
        sys.exit(f"{parser.prog}: {error}")
