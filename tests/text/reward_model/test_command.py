"""`tfppo reward-model` and the commands that meet its runs: each error is one line, with exit code 2."""

import json

import pytest
from support.refusal import command_refusal

from tfppo import cli
from tfppo.settings import to_yaml
from tfppo.text.reward_model.config import RewardModelConfig, RewardModelRunConfig

GOOD = json.dumps({"prompt": "A film", "chosen": " is good.", "rejected": " is bad."}) + "\n"


FILES = {
    "missing column": ("a.jsonl", '{"prompt": "a", "chosen": "b"}\n', "line 1 of"),
    "empty file": ("a.jsonl", "", "has no examples; it must have at least one"),
    "no JSON": ("a.jsonl", GOOD + "{nonsense\n", "line 2 of"),
    "NaN": ("a.jsonl", '{"text": "a", "rating": NaN}\n', "has the rating nan (float); it must be a finite number"),
    "a CSV file without a number": ("a.csv", "text,rating\na,good\n", "line 2 of"),
    "lines of text": ("a.txt", "one\ntwo\n", "line 1 of"),
}


@pytest.mark.fault(
    "A file of comparisons or ratings is invalid", "A one-line error names the line; nothing is written."
)
@pytest.mark.parametrize("case", FILES)
@pytest.mark.parametrize("option", ["--data", "--validation-data"])
def test_wrong_files_are_told_in_one_line_and_nothing_is_written(tmp_path, capsys, case, option):
    name, text, expected = FILES[case]
    (tmp_path / name).write_text(text)
    (tmp_path / "good.jsonl").write_text(GOOD)
    words = ["reward-model", option, tmp_path / name, "--runs-dir", tmp_path / "runs"]
    words += [] if option == "--data" else ["--data", tmp_path / "good.jsonl"]
    assert expected in command_refusal(capsys, *words)
    assert not (tmp_path / "runs").exists()


NOTHING_TO_LEARN = {
    "all equal": ([{"prompt": "A", "chosen": "b", "rejected": "b"}] * 3, "responses of all 3 training examples are"),
    "one rating": ([{"text": "a", "rating": 3}, {"text": "b", "rating": 3}], "differ by more than 1 (they are from 3"),
    "too near": ([{"text": "a", "rating": 3}, {"text": "b", "rating": 4}], "to 4), so that there is no preference"),
}


@pytest.mark.parametrize("case", NOTHING_TO_LEARN)
def test_data_without_a_preference_are_told(tmp_path, capsys, preset, case):
    rows, expected = NOTHING_TO_LEARN[case]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["--data", tmp_path / "a.jsonl", "--preset", preset, "--runs-dir", tmp_path / "runs"]
    assert expected in command_refusal(capsys, "reward-model", *words)
    assert not (tmp_path / "runs").exists()


def test_other_mistakes_are_told(tmp_path, capsys, preset):
    (tmp_path / "rated.csv").write_text("text,rating\na,1\nb,5\n")
    words = ["reward-model", "--data", tmp_path / "rated.csv", "--preset", preset, "--runs-dir", tmp_path / "runs"]
    words += ["--validation-share", 0]
    assert "batch_size is 1; ratings are compared within a batch" in command_refusal(capsys, *words, "--batch-size", 1)
    assert "at most the context of the model, 64" in command_refusal(capsys, *words, "--max-length", 999)
    assert "cannot be read (No such file" in command_refusal(capsys, "reward-model", "--data", tmp_path / "none.csv")
    assert "margin is -1.0; it must be" in command_refusal(capsys, *words, "--margin", -1)
    said = command_refusal(capsys, *words, "--margin", 1)
    assert "margin is 1.0 and the examples are ratings; only comparisons have it: leave margin out" in said
    (tmp_path / "compared.csv").write_text("prompt,chosen,rejected\na,b,c\n")
    words[2] = tmp_path / "compared.csv"
    for option, value in (("--difference", 0.5), ("--neutral-rating", 3)):
        assert "the examples are comparisons; only ratings have it" in command_refusal(capsys, *words, option, value)
    shipped = ["reward-model", "--validation-share", 0.2, "--runs-dir", tmp_path / "runs"]
    assert "the shipped ratings have a validation split" in command_refusal(capsys, *shipped)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", ["evaluate", "export", "generate", "plot"])
def test_commands_of_ppo_runs_say_how_to_use_the_reward_model(tmp_path, capsys, command):
    folder = tmp_path / "run"
    folder.mkdir()
    config = RewardModelRunConfig(reward_model=RewardModelConfig(data=tmp_path / "a.jsonl"))
    (folder / "config.yaml").write_text(to_yaml(config))
    more = ["--prompt", "A"] if command == "generate" else []
    assert f"tfppo train text --reward-model {folder / 'reward-model'}" in command_refusal(
        capsys, command, folder, *more
    )
    assert "is a reward-model run, which has no reward" in command_refusal(
        capsys, "resume", folder, "--reward", "mine:score"
    )
    assert "train.jsonl cannot be read" in command_refusal(capsys, "resume", folder)


def test_the_help_names_the_settings(capsys):
    with pytest.raises(SystemExit):
        cli.main(["reward-model", "--help"])
    out = capsys.readouterr().out
    for option in ("--data", "--validation-data", "--margin", "--difference", "--patience", "--lora-rank", "--seed"):
        assert option in out
