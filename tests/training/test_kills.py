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

from tfppo.text.rollouts.rollout_file import read_rollouts
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
OWN = ["train", "own"]
SCRIPT = """
import sys

import numpy as np

import tfppo

STARTS = ["Is this film", "Did the plot", "Was it", "Why does the camera", "Who wrote", "What a strange", "It is"]


def asks(prompts, responses):
    return [float(response.strip().endswith("?")) + len(response) / 40 for response in responses]


QUESTIONS = tfppo.Task(
    name="questions",
    description="ask",
    prompts=lambda split: {"train": STARTS, "validation": STARTS[:2], "test": STARTS[3:]}[split],
    make_reward=lambda: asks,
    measure=lambda prompts, responses: float(np.mean([len(response) for response in responses])),
    metric="letters",
    target=0.0,
    domain=None,
)


def train(preset, runs_dir, name):
    model, tokenizer = tfppo.load_preset(preset)
    rng = np.random.default_rng(3)
    for weight in model.weights:
        weight.assign(weight.numpy() + rng.normal(0.0, 0.1, weight.shape))
    config = tfppo.make_text_config(
        iterations=30, batch_size=8, minibatch_size=4, num_epochs=1, response_length=6, eval_prompts=4,
        checkpoint_interval=2, sample_interval=5, runs_dir=runs_dir, name=name,
    )
    tfppo.train_text(config, task=QUESTIONS, reward=asks, model=(model, tokenizer))


if __name__ == "__main__":
    verb, *given = sys.argv[1:]
    if verb == "train":
        train(*given)
    else:
        tfppo.resume(given[0], task=QUESTIONS, reward=asks)
"""


def start(*arguments):
    """Starts a command of tfppo, or a script of the user's own if the first argument ends with .py."""
    program = [] if str(arguments[0]).endswith(".py") else ["-m", "tfppo"]
    command = [sys.executable, *program, *map(str, arguments)]
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
    "Control, gymnasium and text runs, also with a task, a reward and a language model that exist only in Python, are "
    "killed by `kill -9` at 40 random moments, some of them twice",
    "The resumed run ends with the same bits.",
)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "times", "seed"),
    [(CONTROL, 20, 1), (GYMNASIUM, 5, 2), (TEXT, 10, 3), (OWN, 5, 4)],
    ids=["control", "gymnasium", "text", "own parts"],
)
def test_whatever_is_killed_goes_on_to_the_same_end(command, times, seed, preset, tmp_path):
    if command is OWN:
        script = tmp_path / "own.py"
        script.write_text(SCRIPT)

        def train(name):
            return [script, "train", preset, tmp_path, name]

        resume = [script, "resume"]
    else:
        options = ["--preset", preset] if command is TEXT else []

        def train(name):
            return [*command, *options, "--runs-dir", tmp_path, "--name", name]

        resume = ["resume"]
    moments, began = random.Random(seed), time.monotonic()
    finish(*train("whole"))
    whole, seconds = outcome(tmp_path / "whole"), time.monotonic() - began
    assert len(whole["rows"]) > 10 and len(whole["evaluation"]["weights"]) == 64
    killed = resumed = 0
    for number in range(times):
        folder = tmp_path / f"killed-{number}"
        killed += kill_after(moments.uniform(0, seconds), *train(folder.name))
        if folder.exists() and moments.random() < 0.5:  # kill it again while it resumes
            killed += kill_after(moments.uniform(0, seconds), *resume, folder)
        if folder.exists():
            finish(*resume, folder)
            resumed += 1
        else:  # it was killed before the run's folder existed
            finish(*train(folder.name))
        assert outcome(folder) == whole, f"number {number}"
    assert killed >= times * 0.5 and resumed >= times * 0.25  # how many depends on the speed of the machine's start-up
