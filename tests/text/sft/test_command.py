"""`tfppo sft` and the commands that meet its runs: each error is one line, with exit code 2."""

import json

import pytest
from support.refusal import command_refusal

from tfppo import cli
from tfppo.settings import to_yaml
from tfppo.text.sft.config import SFTConfig, SFTRunConfig
from tfppo.text.supervised.config import default_learning_rate

GOOD = json.dumps({"prompt": "A film", "response": " is good."}) + "\n"


FILES = {
    "missing column": ("a.jsonl", '{"question": "a"}\n', "line 1 of"),
    "empty file": ("a.jsonl", "", "has no examples; it must have at least one"),
    "no JSON": ("a.jsonl", GOOD + "{nonsense\n", "line 2 of"),
    "another type": ("a.jsonl", '{"prompt": "a", "response": 3}\n', "has the response 3 (int); it must be a text"),
    "messages without a template": (
        "a.jsonl",
        '{"messages": [{"role": "user", "content": "Good?"}, {"role": "assistant", "content": "Yes."}]}\n',
        "the run has no chat template",
    ),
}


@pytest.mark.fault("A file of examples is invalid", "A one-line error names the line; nothing is written.")
@pytest.mark.parametrize("case", FILES)
@pytest.mark.parametrize("option", ["--data", "--validation-data"])
def test_wrong_files_are_told_in_one_line_and_nothing_is_written(tmp_path, capsys, case, option):
    name, text, expected = FILES[case]
    if case.startswith("messages") and option != "--data":
        return
    (tmp_path / name).write_text(text)
    (tmp_path / "good.jsonl").write_text(GOOD)
    words = ["sft", option, tmp_path / name, "--runs-dir", tmp_path / "runs"]
    words += [] if option == "--data" else ["--data", tmp_path / "good.jsonl"]
    assert expected in command_refusal(capsys, *words)
    assert not (tmp_path / "runs").exists()


def test_files_that_do_not_exist_and_other_mistakes_are_told(tmp_path, capsys):
    (tmp_path / "good.jsonl").write_text(GOOD)
    assert "give --data FILE" in command_refusal(capsys, "sft")
    assert "cannot be read (No such file" in command_refusal(capsys, "sft", "--data", tmp_path / "none.jsonl")
    data = ["sft", "--data", tmp_path / "good.jsonl", "--runs-dir", tmp_path / "runs"]
    assert "neither the folder of a preset" in command_refusal(capsys, *data, "--preset", tmp_path / "nothing")
    assert "hidden_dim = 30 is not a multiple" in command_refusal(capsys, *data, "--hidden-dim", 30)
    assert "max_length is 1" in command_refusal(capsys, *data, "--max-length", 1)
    (tmp_path / "half.jsonl").write_text('{"text": "A film."}\n{"text": "bad \\ud800 film"}\n')
    half = ["sft", "--data", tmp_path / "half.jsonl", "--runs-dir", tmp_path / "runs", "--validation-share", 0]
    assert "has bytes that are not UTF-8" in command_refusal(capsys, *half)
    assert "adapters tune a trained model" in command_refusal(capsys, *data, "--lora-rank", 4)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    assert "mine exists: choose another --name" in command_refusal(capsys, *data, "--name", "mine")


@pytest.mark.parametrize("command", ["evaluate", "export", "generate", "plot"])
def test_commands_of_ppo_runs_say_how_to_use_the_model(tmp_path, capsys, command):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(to_yaml(SFTRunConfig(sft=SFTConfig(data=tmp_path / "a.jsonl"))))
    more = ["--prompt", "A"] if command == "generate" else []
    assert f"tfppo train text --preset {folder / 'preset'}" in command_refusal(capsys, command, folder, *more)
    assert "is a sft run, which has no reward" in command_refusal(capsys, "resume", folder, "--reward", "mine:score")
    assert "train.jsonl cannot be read" in command_refusal(capsys, "resume", folder)


def test_the_help_names_the_settings(capsys):
    with pytest.raises(SystemExit):
        cli.main(["sft", "--help"])
    out = capsys.readouterr().out
    for option in ("--data", "--validation-data", "--epochs", "--name", "--runs-dir", "--seed", "--lora-rank"):
        assert option in out


def test_the_default_learning_rate_falls_with_the_size():
    assert default_learning_rate(124_000_000, False, 0) == 1e-4
    assert default_learning_rate(4 * 124_000_000, False, 0) == 5e-5
    assert default_learning_rate(124_000_000, False, 8) == 1e-3
    assert default_learning_rate(1_000, False, 0) == default_learning_rate(10**9, True, 0) == 1e-3
