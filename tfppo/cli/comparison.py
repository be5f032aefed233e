"""Several runs in one picture: which belong together, what tells the groups apart, and their means over the seeds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfppo.control.config import ControlRunConfig
from tfppo.errors import UsageError
from tfppo.reporting.curves import Band, band_of, plot_bands, read_metrics
from tfppo.text.config import TextRunConfig
from tfppo.training import run_folder

CONTROL_AXES = ("rollout/env_steps", ["rollout/episode_return_mean"])  # horizontal, and a panel each
TEXT_AXES = ("iteration", ["text/score_mean", "text/kl"])
SUBJECTS = ("env", "task")  # settings that bring other settings with them: recipes, and a task's defaults
MAX_NAMED = 3  # settings in a label


class Group(NamedTuple):
    """Runs that differ only in their seed."""

    label: str  # the settings that tell it from the other groups; empty where there is no other
    folders: list[Path]
    settings: dict[str, Any]  # without the seed


def plot_runs(folders: Sequence[Path], picture: Path, metric: str | None = None) -> list[Group]:
    """Draws runs over environment steps (control) or iterations (text), and returns their groups.

    Runs that differ only in their seed are one line, their mean, with a band of one standard deviation (of a sample:
    n - 1) to both sides. Between its rows a run is interpolated linearly; a line is drawn where all its runs have
    values.

    Args:
      folders: of the runs, all of control or all of text.
      picture: the file, as PNG, SVG or PDF by its ending; one that exists is overwritten.
      metric: a column of metrics.csv; None: the mean return, or the mean score and below it the KL.

    Raises:
      UsageError: if there is no run, one is given twice, is none or has no values, or control is mixed with text; if
        there is no such metric; or if the picture cannot be written or would take the place of a run's own.
    """
    _check_picture(picture)
    groups = group_runs(folders)
    x, metrics = TEXT_AXES if run_folder.kind_of(folders[0]) == "text" else CONTROL_AXES
    metrics = metrics if metric is None else [metric]
    panels = {name: [_band(group, x, name) for group in groups] for name in metrics}
    subjects = {group.settings[name] for group in groups for name in SUBJECTS if name in group.settings}
    try:
        plot_bands(panels, picture, x, subjects.pop() if len(subjects) == 1 else "")
    except OSError as error:
        raise UsageError(f"cannot write {picture} ({error.strerror}): choose another --out") from None
    return groups


def group_runs(folders: Sequence[Path]) -> list[Group]:
    """Runs that differ only in their seed, their name and where they are kept, put together; in order of appearance.

    Raises:
      UsageError: if there is no run, one is given twice or is none, or control is mixed with text.
    """
    if not folders:
        raise UsageError("there is no run: give the folders of some, such as runs/cartpole-seed1")
    kinds: dict[bool, Path] = {}
    seen: set[Path] = set()
    found: dict[tuple[tuple[str, object], ...], list[Path]] = {}
    for folder in folders:
        if folder.resolve() in seen:
            raise UsageError(f"{folder} is given twice: name each run once")
        seen.add(folder.resolve())
        is_text = run_folder.kind_of(folder) == "text"
        kinds.setdefault(is_text, folder)
        if len(kinds) == 2:
            raise UsageError(
                f"{kinds[False]} is a control run and {kinds[True]} a text run, which have no metric to be compared "
                "by: plot them apart"
            )
        config_class: type[TextRunConfig | ControlRunConfig] = TextRunConfig if is_text else ControlRunConfig
        settings = run_folder.flat_settings(run_folder.read_config(folder, config_class))
        del settings["seed"]
        found.setdefault(tuple(settings.items()), []).append(folder)
    groups = [dict(items) for items in found]
    return [Group(*group) for group in zip(_labels(groups), found.values(), groups, strict=True)]


def _labels(groups: list[dict[str, Any]]) -> list[str]:
    """What differs between groups of settings: all of it but what hangs on the environment or the task alone. Where
    that is much, it is as many settings as are needed to tell the groups apart, and dots."""

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
        raise UsageError(f"{folders} have {metric} at no {x} in common: plot them apart") from None


def _curve(folder: Path, x: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Where a run has finite values of a metric, and which: two arrays [N]."""
    rows = read_metrics(folder / run_folder.METRICS)
    if not rows:
        raise UsageError(f"{folder / run_folder.METRICS} has no rows: train the run for at least one iteration")
    if metric not in rows[0]:
        raise UsageError(f"{folder} has no metric {metric}; its metrics are {', '.join(rows[0])}")
    points = np.array([(row[x], row[metric]) for row in rows])
    points = points[np.isfinite(points[:, 1])]  # no episode has finished at first
    if not len(points):
        raise UsageError(f"{folder} has no value of {metric} so far: train it for longer, or leave it out")
    return points[:, 0], points[:, 1]


def _check_picture(picture: Path) -> None:
    if picture.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UsageError(f"the picture must end in .png, .svg or .pdf, not {picture.name!r}: choose another --out")
    own = picture.resolve()
    if own.name in (run_folder.CURVE, run_folder.FRONTIER) and (own.parent / run_folder.CONFIG).exists():
        raise UsageError(f"{picture} is a run's own picture: choose another --out")
