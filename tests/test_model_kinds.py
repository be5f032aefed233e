"""The same command line for a model of each kind: train, kill, resume, evaluate, generate, export, train on."""

import contextlib
import json
import subprocess
import sys

import pytest
from support.hugging_face import make_folder

from tfppo.cli import main
from tfppo.training import run_folder

OPTIONS = [
    *("--prompts", "prompts.jsonl", "--validation-share", "0.3", "--validation-interval", "2", "--task", "length"),
    *("--iterations", "8", "--batch-size", "4", "--minibatch-size", "4", "--num-epochs", "1", "--response-length", "5"),
    *("--eval-prompts", "3", "--checkpoint-interval", "1", "--sample-interval", "4", "--device", "cpu"),
]
WORDS = ["film", "cast", "plot", "script", "camera", "music", "end", "start", "hero", "scene", "joke", "trick"]


@pytest.fixture(params=["included", "KerasHub", "Hugging Face", "LSTM"])
def kind(request, presets, tmp_path):
    """Options that name a model of each kind."""
    if request.param == "included":
        return []
    if request.param == "Hugging Face":
        make_folder(tmp_path / "llama")
        return ["--preset", str(tmp_path / "llama"), "--lora-rank", "2"]
    return ["--preset", str(presets({"KerasHub": "gpt2", "LSTM": "lstm"}[request.param]))]


@pytest.mark.slow
def test_one_command_line_for_every_kind(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.jsonl").write_text("\n".join(json.dumps({"prompt": f"The {word}"}) for word in WORDS))
    assert main(["train", "text", *kind, *OPTIONS, "--name", "whole"]) == 0
    train = [sys.executable, "-m", "tfppo", "train", "text", *kind, *OPTIONS, "--name", "killed"]
    process = subprocess.Popen(train, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    folder = tmp_path / "runs" / "killed"
    while not (folder / run_folder.CHECKPOINTS / "000002").is_dir():
        with contextlib.suppress(subprocess.TimeoutExpired):
            assert process.wait(0.05) != 0, "it ended before it could be killed"
    process.kill()
    process.communicate()
    (tmp_path / "prompts.jsonl").unlink()
    assert main(["resume", "runs/killed"]) == 0
    whole, resumed = (run_folder.read_evaluation(tmp_path / "runs" / name) for name in ("whole", "killed"))
    assert resumed["weights"] == whole["weights"] and resumed["score"] == whole["score"]
    assert resumed["split"] == "validation"
    assert main(["evaluate", "runs/killed", "--prompts", "2"]) == 0
    assert main(["generate", "runs/killed", "--prompt", "The film", "--reference"]) == 0
    assert main(["export", "runs/killed"]) == 0
    (tmp_path / "prompts.txt").write_text("\n".join(WORDS))
    again = [option.replace("prompts.jsonl", "prompts.txt") for option in OPTIONS]
    assert main(["train", "text", "--preset", "runs/killed/export", *again, "--name", "again"]) == 0
