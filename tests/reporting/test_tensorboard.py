"""Tests that TensorBoard shows a run: its server, started as by `make tensorboard`, returns the run's scalars."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest

from tfppo.reporting.tensorboard import TensorBoardWriter

SECONDS = 120  # until the test gives up on a server that never answers


@pytest.fixture
def runs_dir(tmp_path):
    """Returns a folder with a run of three rows."""
    folder = tmp_path / "runs" / "cartpole-seed1"
    folder.mkdir(parents=True)
    writer = TensorBoardWriter(folder, "rollout/env_steps")
    writer.write_hparams({"learning_rate": 0.5}, ["rollout/episode_return_mean"])
    for iteration in range(3):
        writer.write(
            iteration, {"rollout/env_steps": 32.0 * (iteration + 1), "rollout/episode_return_mean": 10.5 + iteration}
        )
    writer.close()
    return folder.parent


@pytest.fixture
def server(runs_dir, tmp_path):
    """Repeats a request to TensorBoard until the answer is as expected, and returns the answer."""
    log = tmp_path / "log"
    with log.open("w") as stderr:
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(runs_dir), "--port", "0"]
        process = subprocess.Popen(
            command, stdout=stderr, stderr=stderr, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"}
        )
    deadline = time.monotonic() + SECONDS
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy for requests to this machine

    def wait_for(question, wanted):
        answer = None
        while time.monotonic() < deadline and process.poll() is None:
            address = re.search(r"http://\S+", log.read_text())  # TensorBoard prints the port that it chose
            try:
                answer = address and json.loads(opener.open(address[0].rstrip("/") + question, timeout=10).read())
            except urllib.error.URLError:
                answer = None
            if answer and wanted(answer):
                return answer
            time.sleep(0.1)
        pytest.fail(f"no answer to {question} but {answer}; TensorBoard says: {log.read_text()}")

    yield wait_for
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def test_tensorboard_serves_the_scalars_of_a_run(server):
    tag = "rollout/episode_return_mean"
    run = "cartpole-seed1"
    tags = server("/data/plugin/scalars/tags", lambda answer: tag in answer.get(run, {}))
    assert set(tags[run]) == {"rollout/env_steps", tag}
    query = urllib.parse.urlencode({"run": run, "tag": tag})
    scalars = server(f"/data/plugin/scalars/scalars?{query}", lambda answer: len(answer) == 3)
    assert [(step, value) for _, step, value in scalars] == [(32, 10.5), (64, 11.5), (96, 12.5)]
