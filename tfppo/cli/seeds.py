"""Several seeds of one run, trained one after the other, and what they reach together."""

import functools
import operator
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tfppo.cli.startup import seconds_since_start
from tfppo.control.config import ControlRunConfig
from tfppo.errors import UsageError
from tfppo.settings import with_settings
from tfppo.text.config import TextRunConfig
from tfppo.training import run_folder

Settings = TypeVar("Settings", ControlRunConfig, TextRunConfig)
LARGEST = 2**31 - 1
CONTROL_SCORES = {"greedy mean": ("mean",), "stochastic mean": ("stochastic", "mean")}
TEXT_SCORES = {"score": ("score", "policy", "mean"), "gain": ("gain",), "KL": ("kl",)}
"""Columns of the table that are summarised over the seeds, and where they are in evaluation.json."""


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds from "1,2,3". Raises UsageError unless they are different whole numbers."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,10}", part) and int(part) <= LARGEST for part in parts):
        raise UsageError(f"seeds must be whole numbers from 0 to {LARGEST} such as 1,2,3, not {text!r}")
    seeds = tuple(map(int, parts))
    twice = [str(seed) for seed in dict.fromkeys(seeds) if seeds.count(seed) > 1]
    if twice:
        raise UsageError(f"seeds {text!r} names {', '.join(twice)} more than once: name each seed once")
    return seeds


def train_seeds(
    train: Callable[[Settings, float], Path | None], config: Settings, seeds: Sequence[int], task: str
) -> list[Path]:
    """Trains a run for each seed, prints a table of what they reached and draws their mean; returns their folders.

    The runs are those that would be trained alone, bit for bit. One that is stopped is the last: its checkpoint is
    written as always, and the others are not begun.

    Args:
      train: trains a run with the settings, after so many seconds of imports, and returns its folder.
      config: the settings, a ControlRunConfig or a TextRunConfig. With a name in it the folders are
        `<name>-seed<s>`.
      seeds: of the runs, in this order.
      task: the folders are `<task>-seed<s>` where there is no name.

    Raises:
      UsageError: before anything is trained if a folder exists under a name that was given; and what `train` raises.
    """
    configs = [_with_seed(config, seed) for seed in seeds]
    for one in configs:
        run_folder.refuse_taken_name(one.run)
    folders: list[Path] = []
    for number, (seed, one) in enumerate(zip(seeds, configs, strict=True)):
        print(f"seed {seed}, {number + 1} of {len(seeds)}", flush=True)
        try:
            folder = train(one, 0.0 if folders else seconds_since_start())
        except KeyboardInterrupt:
            _tell_stopped(seed, seeds[number + 1 :])
            raise
        if folder is None or not run_folder.is_finished(folder):
            _tell_stopped(seed, seeds[number + 1 :])
            break
        folders.append(folder)
    if folders:
        _print_table(dict(zip(seeds, folders, strict=False)))
    if len(folders) == len(seeds):
        _draw(folders, config.run.runs_dir, config.run.name or task)
    return folders


def interquartile_mean(scores: Iterable[float]) -> float:
    """The mean of the middle half of n scores: of those in order, the floor(n / 4) lowest and as many highest are left
    out. With fewer than four it is the mean.

    Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice", there by
    `scipy.stats.trim_mean(scores, 0.25)`, which this equals.
    """
    ordered = sorted(scores)
    cut = len(ordered) // 4
    return statistics.fmean(ordered[cut : len(ordered) - cut])


def _with_seed(config: Settings, seed: int) -> Settings:
    name = config.run.name and f"{config.run.name}-seed{seed}"
    return with_settings(config, {"seed": seed, "name": name})


def _tell_stopped(seed: int, rest: Sequence[int]) -> None:
    if rest:
        print(f"stopped in seed {seed}; not run: --seeds {','.join(map(str, rest))}", flush=True)
    else:
        print(f"stopped in seed {seed}, the last", flush=True)


def _print_table(folders: dict[int, Path]) -> None:
    """What each seed's evaluation says, and below it means over the seeds."""
    from rich.console import Console
    from rich.table import Table

    evaluations: dict[int, dict[str, Any]] = {}
    for seed, folder in folders.items():
        evaluation: dict[str, Any] | None = run_folder.read_evaluation(folder)
        if evaluation is None:
            print("no seed was evaluated, so there is no table")
            return
        evaluations[seed] = evaluation
    is_text = all(run_folder.kind_of(folder) == "text" for folder in folders.values())
    scores = TEXT_SCORES if is_text else CONTROL_SCORES
    table = Table("seed", *scores, *([] if is_text else ["env steps"]), "seconds")
    for column in table.columns:
        column.justify = "right"
    for seed, evaluation in evaluations.items():
        steps = [] if is_text else [f"{evaluation['env_steps']:,}"]
        reached = [f"{_at(evaluation, path):.2f}" for path in scores.values()]
        table.add_row(str(seed), *reached, *steps, f"{evaluation['seconds']['total']:.1f}")
    Console(highlight=False).print(table)
    for name, path in scores.items():
        values = [_at(evaluation, path) for evaluation in evaluations.values()]
        spread = f" +- {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        mean, middle = statistics.fmean(values), interquartile_mean(values)
        print(f"{name} over {len(values)} seeds: {mean:.2f}{spread}, interquartile mean {middle:.2f}")
    cut = len(evaluations) // 4
    print(
        "(+-: sample standard deviation over the seeds, n - 1; interquartile mean: the mean of the middle half, "
        f"without the {cut} lowest and the {cut} highest)"
    )


def _at(evaluation: dict[str, Any], path: Sequence[str]) -> float:
    found: Any = functools.reduce(operator.getitem, path, evaluation)
    return float(found)


def _draw(folders: Sequence[Path], runs_dir: Path, name: str) -> None:
    from tfppo.cli.comparison import plot_runs

    # Not <name>-seeds.png: `tfppo plot runs/<name>-seed*` would take it for a run.
    pictures = (runs_dir / f"{numbered}.png" for numbered in run_folder.numbered(f"plot-{name}"))
    picture = next(picture for picture in pictures if not picture.exists())
    try:
        plot_runs(folders, picture)
    except UsageError as error:  # so short that no episode finished: no reason to fail after the training
        print(f"no picture of the seeds: {error}")
    else:
        print(f"{picture} shows the seeds' mean and sample standard deviation")
