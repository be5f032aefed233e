"""`dying_worker.py SIGNAL ...` runs `python -m tfppo ...`; worker 1 receives the signal after its third iteration."""

import json
import os
import signal
import sys

from tfppo import cli
from tfppo.cli.startup import import_tensorflow

import_tensorflow()
from tfppo.control.trainer import ControlTrainer  # noqa: E402

everything = ControlTrainer.iterations


def until_then(trainer):
    for iteration, row in everything(trainer):
        yield iteration, row
        if iteration == 2:
            os.kill(os.getpid(), signal.Signals[sys.argv[1]])


if json.loads(os.environ["TF_CONFIG"])["task"]["index"] == 1:
    ControlTrainer.iterations = until_then
sys.exit(cli.main(sys.argv[2:]))
