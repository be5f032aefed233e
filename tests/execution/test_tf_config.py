"""TF_CONFIG: valid values, and a one-line error for every kind of invalid value."""

import json

import pytest
from support.refusal import refusal

from tfppo import cli
from tfppo.execution.tf_config import EXAMPLE, Cluster, read_cluster

WORKERS = ["10.0.0.1:2222", "host.example:65535", "[::1]:1"]


def config(cluster=None, **task):
    return json.dumps({"cluster": {"worker": WORKERS} if cluster is None else cluster, "task": task})


def test_workers_and_which_of_them_this_is():
    for index in range(3):
        text = config(type="worker", index=index)
        assert read_cluster({"TF_CONFIG": text}) == Cluster(tuple(WORKERS), index)
    assert read_cluster({"TF_CONFIG": EXAMPLE}) == Cluster(("10.0.0.1:12345", "10.0.0.2:12345"), 0)


@pytest.mark.parametrize("text", [None, "", "  ", "{}", '{"cluster": {}}', '{"task": {"type": "worker", "index": 0}}'])
def test_without_a_cluster_there_is_none(text):
    assert read_cluster({} if text is None else {"TF_CONFIG": text}) is None


WRONG = {
    "worker": "it is not valid JSON (",
    '{"cluster": {"worker": ["a:1"]}': "it is not valid JSON (",
    "[1]": "it is not a JSON object",
    config(["a:1", "b:2"], type="worker", index=0): "workers only",
    config({"worker": ["a:1"], "ps": ["b:2"]}, type="worker", index=0): "workers only",
    config({"worker": []}, type="worker", index=0): "a list of host:port",
    config({"worker": "a:1"}, type="worker", index=0): "a list of host:port",
    config({"worker": ["a:1", "b"]}, type="worker", index=0): "a list of host:port",
    config({"worker": ["a:1", ":2"]}, type="worker", index=0): "a list of host:port",
    config({"worker": ["a:1", "b:65536"]}, type="worker", index=0): "a list of host:port",
    config({"worker": ["a:1", 2]}, type="worker", index=0): "a list of host:port",
    config({"worker": ["a:1", "a:1"]}, type="worker", index=0): "each must be named once",
    config(type="chief", index=0): "the type worker",
    config(index=0): "the type worker",
    json.dumps({"cluster": {"worker": WORKERS}, "task": 1}): "the type worker",
    config(type="worker"): "from 0 to 2",
    config(type="worker", index=3): "from 0 to 2",
    config(type="worker", index=-1): "from 0 to 2",
    config(type="worker", index="0"): "from 0 to 2",
    config(type="worker", index=True): "from 0 to 2",
}


@pytest.mark.fault("`TF_CONFIG` is invalid", "A one-line error gives the reason and an example.")
@pytest.mark.parametrize(("text", "reason"), WRONG.items(), ids=[str(number) for number in range(len(WRONG))])
def test_what_is_wrong_is_said_in_one_line_with_an_example(text, reason):
    line = refusal(read_cluster, {"TF_CONFIG": text})
    assert line.startswith("TF_CONFIG is invalid: ") and reason in line and line.endswith(EXAMPLE)


@pytest.mark.parametrize("command", [["train", "cartpole"], ["train", "text"], ["resume", "{folder}"]])
def test_the_command_line_refuses_it_before_anything_else(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TF_CONFIG", config(type="worker", index=3))
    options = ["--runs-dir", str(tmp_path / "runs")] if command[0] == "train" else []
    assert cli.main([part.format(folder=tmp_path) for part in command] + options) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("tfppo: TF_CONFIG is invalid: ") and len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_several_seeds_are_for_one_process(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TF_CONFIG", config(type="worker", index=0))
    assert cli.main(["train", "cartpole", "--seeds", "1,2", "--runs-dir", str(tmp_path / "runs")]) == 2
    assert "start one run per seed with --seed" in capsys.readouterr().err and list(tmp_path.iterdir()) == []
