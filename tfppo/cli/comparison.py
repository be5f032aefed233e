"""Plots several runs in one picture, for `tfppo plot` and `--seeds`.

Runs that differ only in their seed form a group. Each group is labeled with the settings in which the groups differ.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfppo.control.config import ControlRunConfig
from tfppo.errors import UsageError
from tfppo.reporting.csv_writer import SCORE, SCORE_STD, has_normalized_scores
from tfppo.reporting.curves import Band, band_of, plot_bands, read_metrics
from tfppo.text.config import TextRunConfig
from tfppo.training import run_folder

CONTROL_AXES = ("rollout/env_steps", ["rollout/episode_return_mean"])  # horizontal axis, and one metric per panel
TEXT_AXES = ("iteration", [SCORE, "text/kl"])
SUBJECTS = ("env", "task")  # settings that change the defaults of other settings
MAX_NAMED = 3  # largest number of settings in a label


class Group(NamedTuple):
    """A group of runs that differ only in their seed."""

    label: str  # the settings in which it differs from the other groups; empty if it is the only group
    folders: list[Path]
    settings: dict[str, Any]  # without the seed


def plot_runs(folders: Sequence[Path], picture: Path, metric: str | None = None) -> list[Group]:
    """Plots runs over environment steps (control) or iterations (text).

    Runs that differ only in their seed are drawn as their mean, with a band of one sample standard deviation (n - 1)
    on each side. Runs are interpolated linearly between their rows. A line covers the range in which all its runs have
    values.

    Args:
      folders: Folders of the runs, either all of control or all of text.
      picture: Path of the picture. Its ending, .png, .svg or .pdf, selects the format. An existing file is overwritten.
      metric: Column of `metrics.csv`. None: the mean return (control), or the mean score and the KL (text).

    Returns:
      The groups of runs.

    Raises:
      UsageError: If there are no runs, a run is given twice, a folder is not a run, a run has no values of the metric,
        or control and text are mixed. Also if the runs have scores in different units, or if the picture cannot be
        written, has another ending, or would overwrite a picture that belongs to a run.
    """
    _check_picture(picture)
    groups = group_runs(folders)
    x, metrics = TEXT_AXES if run_folder.kind_of(folders[0]) == "text" else CONTROL_AXES
    metrics = metrics if metric is None else [metric]
    if {SCORE, SCORE_STD} & set(metrics):
        _check_units(folders)
    panels = {name: [_band(group, x, name) for group in groups] for name in metrics}
    subjects = {_subject(group.settings) for group in groups}
    try:
        plot_bands(panels, picture, x, subjects.pop() if len(subjects) == 1 else "")
    except OSError as error:
        raise UsageError(f"cannot write {picture} ({error.strerror}): choose another file with --out") from None
    return groups


def only_runs(folders: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Returns the folders that are runs, and the others.

    A pattern such as runs/* also finds pictures and other files. A folder that stands alone is returned as it is.

    Raises:
      UsageError: If folders are given and none of them is a run.
    """
    runs = [folder for folder in folders if (folder / run_folder.CONFIG).exists()]
    others = [folder for folder in folders if folder not in runs]
    if len(folders) < 2:
        return list(folders), []
    if not runs:
        raise UsageError(f"none of {', '.join(map(str, others))} is the folder of a run: give the folders of runs")
    return runs, others


def _subject(settings: dict[str, Any]) -> str:
    """Returns the environment or the task of a run, or the name of the file with its prompts."""
    named = [settings[name] for name in SUBJECTS if settings.get(name) is not None]
    prompts = settings.get("prompts")
    return str(named[0]) if named else Path(prompts).stem if prompts is not None else ""


def group_runs(folders: Sequence[Path]) -> list[Group]:
    """Groups runs that differ only in their seed, their name and their folder.

    Args:
      folders: Folders of the runs, either all of control or all of text.

    Returns:
      The groups, in the order of their first runs.

    Raises:
      UsageError: If there are no runs, a run is given twice, a folder is not a run, or control and text are mixed.
    """
    if not folders:
        raise UsageError("no run is given: give the folders of runs, such as runs/cartpole-seed1")
    kinds: dict[bool, Path] = {}
    seen: set[Path] = set()
    found: dict[tuple[tuple[str, object], ...], list[Path]] = {}
    for folder in folders:
        if folder.resolve() in seen:
            raise UsageError(f"{folder} is given twice: give each run once")
        seen.add(folder.resolve())
        is_text = run_folder.refuse_without_policy(folder) == "text"
        kinds.setdefault(is_text, folder)
        if len(kinds) == 2:
            raise UsageError(
                f"{kinds[False]} is a control run and {kinds[True]} is a text run, which have no common metric: plot "
                "them separately"
            )
        config_class: type[TextRunConfig | ControlRunConfig] = TextRunConfig if is_text else ControlRunConfig
        settings = run_folder.flat_settings(run_folder.read_config(folder, config_class))
        del settings["seed"]
        found.setdefault(tuple(settings.items()), []).append(folder)
    groups = [dict(items) for items in found]
    return [Group(*group) for group in zip(_labels(groups), found.values(), groups, strict=True)]


def _labels(groups: list[dict[str, Any]]) -> list[str]:
    """Returns a label per group with the settings in which the groups differ.

    Settings that depend only on the environment or the task are left out. If more than `MAX_NAMED` settings differ, the
    label has the few settings that distinguish the groups, and an ellipsis.
    """

    def told_apart(names: Sequence[str]) -> int:
        return len({tuple(group[name] for name in names) for group in groups})

    differing = [name for name in groups[0] if told_apart([name]) > 1]
    for subject in SUBJECTS:
        if subject in differing:
            apart = told_apart([subject])
            others = [name for name in differing if told_apart([subject, name]) > apart]
            differing = [subject, *others]
    if len(differing) > MAX_NAMED:
        named: list[str] = []
        while told_apart(named) < len(groups):
            named.append(max(differing, key=lambda name: told_apart([*named, name])))
        return [_label(group, named) + ", ..." for group in groups]
    return [_label(group, differing) for group in groups]


def _label(settings: dict[str, Any], names: Sequence[str]) -> str:
    def plain(value: Any) -> str:
        if isinstance(value, tuple):
            return "x".join(map(str, value)) or "none"
        return value.name if isinstance(value, Path) else f"{value:g}" if isinstance(value, float) else str(value)

    return ", ".join(f"{name}={plain(settings[name])}" for name in names)


def _band(group: Group, x: str, metric: str) -> Band:
    curves = [_curve(folder, x, metric) for folder in group.folders]
    try:
        return band_of(curves, group.label)
    except ValueError:
        folders = ", ".join(map(str, group.folders))
        raise UsageError(f"{folders} have no {x} in common at which all have {metric}: plot them separately") from None


def _curve(folder: Path, x: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the finite values of a run's metric as two arrays [N]: the values of `x`, and those of the metric."""
    rows = read_metrics(folder / run_folder.METRICS)
    if not rows:
        raise UsageError(f"{folder / run_folder.METRICS} has no rows: train the run for at least one iteration")
    if metric not in rows[0]:
        raise UsageError(f"{folder} has no metric {metric}: choose one of {', '.join(rows[0])}")
    points = np.array([(row[x], row[metric]) for row in rows])
    points = points[np.isfinite(points[:, 1])]  # the mean return is NaN until the first episode has finished
    if not len(points):
        raise UsageError(f"{folder} has no value of {metric} so far: train the run for longer, or leave it out")
    return points[:, 0], points[:, 1]


def _check_units(folders: Sequence[Path]) -> None:
    """Checks that the scores of all runs are raw, or those of all runs normalized, as in version 0.2."""
    kinds: dict[bool, Path] = {}
    for folder in folders:
        for row in read_metrics(folder / run_folder.METRICS)[:1]:
            kinds.setdefault(has_normalized_scores(row), folder)
    if len(kinds) == 2:
        raise UsageError(
            f"{kinds[True]} has the normalized scores of version 0.2 or earlier, and {kinds[False]} has raw scores; a "
            "picture must have one unit: plot the runs separately, or give --metric text/reward_mean"
        )


def _check_picture(picture: Path) -> None:
    if picture.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UsageError(f"the picture is {picture.name!r}; it must end in .png, .svg or .pdf: choose another --out")
    own = picture.resolve()
    if own.name in (run_folder.CURVE, run_folder.FRONTIER) and (own.parent / run_folder.CONFIG).exists():
        raise UsageError(f"{picture} belongs to a run and is not overwritten: choose another --out")
