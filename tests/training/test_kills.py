"""Tests that runs that are killed at random moments and resumed end with the same bits as uninterrupted runs."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tfppo.text.data.rollout_file import read_rollouts
from tfppo.training import run_folder

CONTROL = [
    *("train", "cartpole", "--num-envs", "16", "--rollout-length", "32", "--total-steps", "40960"),
    *("--minibatch-size", "128", "--num-epochs", "2", "--hidden-units", "16", "--checkpoint-interval", "3"),
    *("--eval-episodes", "5", "--log-interval", "2"),
]
GYMNASIUM = [*CONTROL, "--backend", "gymnasium", "--vectorization", "sync", "--normalize-observations", "True"]
TEXT = [
    *("train", "text", "--task", "length", "--iterations", "30", "--batch-size", "8", "--minibatch-size", "4"),
    *("--num-epochs", "1", "--response-length", "6", "--eval-prompts", "8", "--checkpoint-interval", "2"),
    *("--sample-interval", "5"),
]


def start(*arguments):
    command = [sys.executable, "-m", "tfppo", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(*arguments):
    process = start(*arguments)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert "Traceback" not in output
    return output


def kill_after(seconds, *arguments):
    """Starts a process and kills it with all its children. Returns True if it was still running."""
    process = start(*arguments)
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True
    return False


def outcome(folder):
    """Returns all results of a run, excluding times."""
    evaluation = json.loads((folder / run_folder.EVALUATION).read_text())
    del evaluation["seconds"]
    with (folder / run_folder.METRICS).open(newline="") as file:
        rows = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in csv.DictReader(file)]
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    scalars = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in tags["scalars"]
        if not tag.startswith("time/")
    }
    pictures = {tag: [event.step for event in events.Images(tag)] for tag in tags["images"]}
    texts = {tag: [event.step for event in events.Tensors(tag)] for tag in tags["tensors"]}
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("events"))
    kept = sorted(path.name for path in (folder / run_folder.CHECKPOINTS).iterdir())
    samples = (folder / run_folder.SAMPLES).read_text() if (folder / run_folder.SAMPLES).exists() else None
    rollouts = list(read_rollouts(folder)) if (folder / run_folder.ROLLOUTS).exists() else None
    return {
        **{"evaluation": evaluation, "rows": rows, "scalars": str(scalars), "pictures": pictures, "texts": texts},
        **{"names": names, "checkpoints": kept, "samples": samples, "rollouts": rollouts},
    }


@pytest.mark.fault(
    "Control, gymnasium and text runs are killed by `kill -9` at 35 random moments, some of them twice",
    "The resumed run ends with the same bits.",
)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "times", "seed"),
    [(CONTROL, 20, 1), (GYMNASIUM, 5, 2), (TEXT, 10, 3)],
    ids=["control", "gymnasium", "text"],
)
def test_whatever_is_killed_goes_on_to_the_same_end(command, times, seed, preset, tmp_path):
    if command is TEXT:
        command = [*command, "--preset", str(preset)]
    moments, began = random.Random(seed), time.monotonic()
    finish(*command, "--runs-dir", tmp_path, "--name", "whole")
    whole, seconds = outcome(tmp_path / "whole"), time.monotonic() - began
    assert len(whole["rows"]) > 10 and len(whole["evaluation"]["weights"]) == 64
    killed = resumed = 0
    for number in range(times):
        folder, options = tmp_path / f"killed-{number}", ["--runs-dir", tmp_path, "--name", f"killed-{number}"]
        killed += kill_after(moments.uniform(0, seconds), *command, *options)
        if folder.exists() and moments.random() < 0.5:  # kill it again while it resumes
            killed += kill_after(moments.uniform(0, seconds), "resume", folder)
        if folder.exists():
            finish("resume", folder)
            resumed += 1
        else:  # it was killed before the run's folder existed
            finish(*command, *options)
        assert outcome(folder) == whole, f"number {number}"
    assert killed >= times * 0.7 and resumed >= times * 0.5
