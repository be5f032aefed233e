"""Measures the cost of checkpoints and guards in `make train-cartpole` and `make train-textgen`.

Training loops with and without them alternate in one process. "Without" means that no checkpoint is written, no file is
flushed for a checkpoint, no value is checked, and no update is undone. The seconds are those from the end of the first
iteration, which compiles, to the closing of the last file. The script prints one JSON line per run. The last line has
the ratio of the medians, and the spread over the rounds of the ratio within a round. A ratio of 1.01 means a cost of
1 %.

    python benchmarks/overhead.py --task cartpole
    python benchmarks/overhead.py --task text --iterations 20
"""

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from tfppo.cli.startup import import_tensorflow

import_tensorflow()

import tensorflow as tf  # noqa: E402
from shared import spread  # noqa: E402

from tfppo import ControlConfig, ControlRunConfig, RunConfig, make_text_config  # noqa: E402
from tfppo.control import run as control  # noqa: E402
from tfppo.ppo.guard import NOTHING, Guard  # noqa: E402
from tfppo.ppo.learner import PPOLearner  # noqa: E402
from tfppo.reporting.console import ConsoleWriter  # noqa: E402
from tfppo.reporting.diagnoses import DiagnosisWriter  # noqa: E402
from tfppo.text import run as text  # noqa: E402
from tfppo.text.tasks import get_task  # noqa: E402
from tfppo.training import loop  # noqa: E402
from tfppo.training.checkpoints import Checkpoints  # noqa: E402


@contextlib.contextmanager
def without_care() -> Iterator[None]:
    """Disables checkpoints, guards and diagnoses during the `with` block."""

    def finite(self, *_):
        return tf.constant(NOTHING, tf.int64)

    with contextlib.ExitStack() as stack:
        for owner, name, instead in (
            (Guard, "of_data", finite),
            (Guard, "of_step", finite),
            (PPOLearner, "_undo_unless", staticmethod(lambda *_: None)),
            (Checkpoints, "save", lambda *_: None),
            (DiagnosisWriter, "write", lambda *_: None),
            (loop, "sizes_of", lambda *_: {}),
        ):
            stack.enter_context(mock.patch.object(owner, name, instead))
        yield


@contextlib.contextmanager
def clock() -> Iterator[list[float]]:
    """Yields a list that receives the time of the first row, and the time at which the last file was closed."""
    times: list[float] = []
    write, close = ConsoleWriter.write, ConsoleWriter.close

    def first(self, *row):
        write(self, *row)
        if not times:
            times.append(time.perf_counter())

    def last(self):
        close(self)
        times.append(time.perf_counter())

    with mock.patch.object(ConsoleWriter, "write", first), mock.patch.object(ConsoleWriter, "close", last):
        yield times


def measure(task: str, iterations: int | None, with_care: bool, folder: Path) -> float:
    """Returns the seconds of the training loop."""
    where = {"runs_dir": folder, "name": "care" if with_care else "none", "device": "cpu"}
    with contextlib.nullcontext() if with_care else without_care(), clock() as times:
        if task == "cartpole":
            settings = {} if iterations is None else {"total_steps": iterations * ControlConfig().batch_size}
            shown = ControlConfig(eval_episodes=0, video_episodes=0, **settings)
            control.train_control(ControlRunConfig(RunConfig(**where), shown))
        else:
            settings = get_task("sentiment").defaults | ({} if iterations is None else {"iterations": iterations})
            text.train_text(make_text_config(task="sentiment", **(settings | where | {"eval_prompts": 0})))
    return times[-1] - times[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=["cartpole", "text"], default="cartpole")
    parser.add_argument("--iterations", type=int, help="number of iterations, if not that of the run")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for number in range(given.rounds):
        for with_care in (True, False) if number % 2 else (False, True):
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
                seconds[with_care].append(measure(given.task, given.iterations, with_care, Path(folder)))
            print(json.dumps({"task": given.task, "care": with_care, "seconds": round(seconds[with_care][-1], 3)}))
    ratios = [a / b for a, b in zip(seconds[True], seconds[False], strict=True)]
    ours, peer = (spread(seconds[with_care])["median"] for with_care in (True, False))
    rounded = {name: round(value, 3) for name, value in spread(ratios).items()}
    print(
        json.dumps(
            {"ratio": round(ours / peer, 3), "ours": round(ours, 3), "peer": round(peer, 3), "runs": given.rounds}
            | {"task": given.task, "iterations": given.iterations, "of_rounds": rounded, "peer_is": "without care"}
        )
    )


if __name__ == "__main__":
    main()
