"""Run folders and presets that version 0.1 wrote can be evaluated, resumed, exported and plotted.

The tests use the command line only, so they do not depend on module names.
"""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tfppo.cli import main
from tfppo.ppo.objective import MEAN_METRICS

OLD = Path(__file__).with_name("data") / "version_0_1"
EXPECTED = json.loads((OLD / "expected.json").read_text())
UNFINISHED = ["control", "gymnasium", "text"]  # six iterations, a checkpoint after four
DONE, LENGTH = 4, 6
FEW = {"control": ["--episodes", "1"], "gymnasium": ["--episodes", "1"], "text": ["--prompts", "2"]}
FEW["finished"] = FEW["control"]
RAW = ("text/score_mean", "text/score_std")  # of the reward's own scores; version 0.1 recorded the normalized ones


@pytest.fixture
def copy(tmp_path):
    """`copy(name)`: a copy of an old run that is to be run here."""

    def copy(name):
        folder = Path(shutil.copytree(OLD / name, tmp_path / "runs" / name))
        path = folder / "config.yaml"
        text = re.sub(r"^  preset: .*/(\w+)$", rf"  preset: {OLD}/presets/\1", path.read_text(), flags=re.MULTILINE)
        # The machine that wrote it had two cores; in this process TensorFlow has as many threads as it has.
        path.write_text(re.sub(r"^  threads: 2$", "  threads: 0", text, flags=re.MULTILINE))
        return folder

    return copy


def rows_of(folder):
    """The rows of metrics.csv, but for times."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def with_present_names(row):
    """Returns a row of a text run with its normalized mean score under the name that it has today."""
    return row | dict.fromkeys(RAW, "nan") | {"text/scaled_score_mean": row["text/score_mean"]}


def steps_on_tensorboard(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return [event.step for event in events.Scalars("loss/total")]


@pytest.mark.representatives(2)
@pytest.mark.parametrize("name", EXPECTED)
def test_a_checkpoint_holds_the_weights_that_version_0_1_saw_in_it(name, copy, capsys):
    folder = copy(name)
    before = sorted(folder.rglob("*"))
    assert main(["evaluate", str(folder), *FEW[name]]) == 0
    assert f"weights {EXPECTED[name]} " in capsys.readouterr().out
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    "name", ["control", *(pytest.param(name, marks=pytest.mark.slow) for name in UNFINISHED if name != "control")]
)
def test_a_run_goes_on_as_it_did_in_version_0_1(name, copy):
    folder = copy(name)
    old = rows_of(folder)
    old_steps = steps_on_tensorboard(folder)
    assert len(old) == LENGTH and max(int(path.name) for path in (folder / "checkpoints").iterdir()) == DONE
    assert main(["resume", str(folder)]) == 0
    new = rows_of(folder)
    if name == "text":
        old = [with_present_names(row) for row in old]
    assert new[:DONE] == old[:DONE] and [int(row["iteration"]) for row in new] == list(range(LENGTH))
    assert list(new[DONE]) == list(old[DONE])
    # To the bit on one machine (tests/support/record.py); another processor adds in another order.
    for metric, value in old[DONE].items():
        if metric in RAW:  # version 0.1 did not record it
            assert np.isfinite(float(new[DONE][metric]))
            continue
        if metric in MEAN_METRICS or (name == "control" and not metric.startswith(("rollout/", "schedule/"))):
            # In version 0.1 a minibatch with few entries weighed as much as one with many, and steps that only start an
            # episode were in the statistics of the normalization.
            np.testing.assert_allclose(float(new[DONE][metric]), float(value), rtol=0.2, atol=0.01, err_msg=metric)
            continue
        np.testing.assert_allclose(float(new[DONE][metric]), float(value), rtol=1e-4, atol=1e-6, err_msg=metric)
    assert steps_on_tensorboard(folder)[: DONE + 1] == old_steps[: DONE + 1] and len(old_steps) == LENGTH
    assert len(steps_on_tensorboard(folder)) == LENGTH
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert len(evaluation["weights"]) == 64 and evaluation["weights"] != EXPECTED[name]
    assert (folder / "curve.png").exists() and (folder / "checkpoints" / f"{LENGTH:06d}" / "state.npz").exists()


def test_a_finished_run_stays_finished(copy):
    folder = copy("finished")
    old = json.loads((folder / "evaluation.json").read_text())
    metrics = (folder / "metrics.csv").read_text()
    assert main(["resume", str(folder)]) == 0
    new = json.loads((folder / "evaluation.json").read_text())
    assert new["weights"] == old["weights"] == EXPECTED["finished"]
    assert new.keys() == old.keys() and new["seconds"] == old["seconds"]  # nothing was trained
    assert (folder / "metrics.csv").read_text() == metrics


@pytest.mark.parametrize(("name", "mark"), [("control", "saved_model.pb"), ("text", "tokenizer.json")])
def test_a_policy_is_exported(name, mark, copy):
    folder = copy(name)
    assert main(["export", str(folder)]) == 0
    assert (folder / "export" / mark).exists()


def test_a_language_model_goes_on_from_a_prompt(copy, capsys):
    assert main(["generate", str(copy("text")), "--prompt", "This film"]) == 0
    assert capsys.readouterr().out.startswith("This film")


def test_runs_are_plotted_side_by_side(copy, tmp_path):
    out = tmp_path / "plot.png"
    assert main(["plot", *(str(copy(name)) for name in ("control", "finished")), "--out", str(out)]) == 0
    assert out.stat().st_size > 1000


@pytest.mark.slow
def test_an_lstm_preset_is_loaded(tmp_path):
    sizes = "--iterations 1 --batch-size 4 --minibatch-size 4 --num-epochs 1 --response-length 4 --eval-prompts 0"
    options = ["--preset", str(OLD / "presets" / "lstm"), "--runs-dir", str(tmp_path), "--name", "new"]
    modes = ["--device", "cpu", "--compile-rollout", "graph", "--compile-update", "graph"]
    assert main(["train", "text", "--task", "keywords", *sizes.split(), *options, *modes]) == 0
    assert len(rows_of(tmp_path / "new")) == 1
