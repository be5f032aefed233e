"""Trains one run per seed, one after the other, and summarizes their results (`tfppo train ... --seeds 1,2,3`)."""

import functools
import math
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
from tfppo.training import new_folder, run_folder

Settings = TypeVar("Settings", ControlRunConfig, TextRunConfig)
LARGEST = 2**31 - 1
CONTROL_SCORES = {"greedy mean": ("mean",), "stochastic mean": ("stochastic", "mean")}
TEXT_SCORES = {"score": ("score", "policy", "mean"), "gain": ("gain",), "KL": ("kl",)}
"""Columns of the table that are summarized over the seeds, and their keys in `evaluation.json`."""


def parse_seeds(text: str) -> tuple[int, ...]:
    """Parses a list of seeds such as "1,2,3".

    Args:
      text: Different integers from 0 to 2**31 - 1, separated by commas.

    Returns:
      The seeds.

    Raises:
      UsageError: If the text is something else, or a seed appears twice.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,10}", part) and int(part) <= LARGEST for part in parts):
        raise UsageError(f"seeds is {text!r}; it must be integers from 0 to {LARGEST}, such as 1,2,3")
    seeds = tuple(map(int, parts))
    twice = [str(seed) for seed in dict.fromkeys(seeds) if seeds.count(seed) > 1]
    if twice:
        raise UsageError(f"seeds is {text!r}, which has {', '.join(twice)} more than once: give each seed once")
    return seeds


def train_seeds(
    train: Callable[[Settings, float], Path | None], config: Settings, seeds: Sequence[int], task: str
) -> list[Path]:
    """Trains one run per seed, prints a table of the results, and plots the mean of the runs.

    Each run gives the same weights, bit for bit, as a run that is trained alone. If the user stops a run, it writes its
    checkpoint, and the remaining seeds are not trained.

    Args:
      train: Function that trains a run. It takes the settings and the seconds spent on imports, and returns the folder
        of the run.
      config: Settings of the runs. If they have a name, the folders are `<name>-seed<seed>`.
      seeds: Seeds of the runs, in the order of training.
      task: First part of the folders' names, `<task>-seed<seed>`, if the settings have no name.

    Returns:
      The folders of the finished runs.

    Raises:
      UsageError: If `config` has a name and one of the folders exists, before any training. Also if `train` raises it.
    """
    configs = [_with_seed(config, seed) for seed in seeds]
    for one in configs:
        new_folder.refuse_taken_name(one.run)
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
    """Computes the interquartile mean: the mean of the middle half of the scores.

    The floor(n / 4) lowest and the floor(n / 4) highest of n scores are left out. With fewer than four scores, the
    result is the mean.

    Source: Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice". The result
    equals `scipy.stats.trim_mean(scores, 0.25)`.

    Args:
      scores: At least one score.

    Returns:
      The interquartile mean.
    """
    ordered = sorted(scores)
    cut = len(ordered) // 4
    return statistics.fmean(ordered[cut : len(ordered) - cut])


def _with_seed(config: Settings, seed: int) -> Settings:
    name = config.run.name and f"{config.run.name}-seed{seed}"
    return with_settings(config, {"seed": seed, "name": name})


def _tell_stopped(seed: int, rest: Sequence[int]) -> None:
    if rest:
        print(f"stopped in seed {seed}; train the remaining seeds with --seeds {','.join(map(str, rest))}", flush=True)
    else:
        print(f"stopped in seed {seed}, the last one", flush=True)


def _print_table(folders: dict[int, Path]) -> None:
    """Prints a table with the evaluation of each seed, and below it the means over the seeds."""
    from rich.console import Console
    from rich.table import Table

    evaluations: dict[int, dict[str, Any]] = {}
    for seed, folder in folders.items():
        evaluation: dict[str, Any] | None = run_folder.read_evaluation(folder)
        if evaluation is None:
            print("the seeds were not evaluated, so there is no table of results")
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
        "(+-: sample standard deviation over the seeds, n - 1; interquartile mean: mean of the middle half, without "
        f"the {cut} lowest and the {cut} highest)"
    )


def _at(evaluation: dict[str, Any], path: Sequence[str]) -> float:
    found: Any = functools.reduce(operator.getitem, path, evaluation)
    return math.nan if found is None else float(found)  # null stands for a number that is not finite


def _draw(folders: Sequence[Path], runs_dir: Path, name: str) -> None:
    from tfppo.cli.comparison import plot_runs

    # The name must not match runs/<name>-seed*, a common argument of `tfppo plot`, which accepts only folders of runs.
    pictures = (runs_dir / f"{numbered}.png" for numbered in run_folder.numbered(f"plot-{name}"))
    picture = next(picture for picture in pictures if not picture.exists())
    try:
        plot_runs(folders, picture)
    except UsageError as error:  # very short runs have no finished episode; do not fail after the training
        print(f"no picture of the seeds: {error}")
    else:
        print(f"{picture} shows the mean and the sample standard deviation of the seeds")
