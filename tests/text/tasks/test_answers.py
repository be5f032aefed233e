"""Tasks with short answers: rewards for right, wrong and cheating answers, splits, baselines, and a whole run."""

import builtins
import re
from dataclasses import replace

import pytest
from support.refusal import command_refusal, refusal
from support.run_files import evaluation_of

import tfppo
from tfppo import cli
from tfppo.text.data.corpus import SPLITS
from tfppo.text.data.prompts import Prompt
from tfppo.text.presets import default_preset
from tfppo.text.sft.config import SFTRunConfig
from tfppo.text.tasks import get_task, task_names
from tfppo.text.tasks.answers import examples_of, macro_f1, normalized
from tfppo.text.tasks.classification import CLASSES
from tfppo.text.tasks.countries import contains, token_f1
from tfppo.text.tasks.translation import closeness, translation_reward, translation_rows
from tfppo.training import run_folder

# Tasks of `answer_task`, whose prompts have the label `answer`. Asking for the prompts here would read every data set.
TASKS = [name for name in task_names() if getattr(get_task(name).examples, "func", None) is examples_of]
every_task = pytest.mark.parametrize("name", TASKS)


def rows(name, split="test"):
    return get_task(name).checked_prompts(split)


def some(name):
    """Returns fifty prompts from all over the test."""
    found = rows(name)
    return found[:: len(found) // 50][:50]


def score(name, answers):
    """Returns the rewards of answers to these prompts."""
    task, prompts = get_task(name), some(name)
    reward = task.checked_reward()
    labels = {"answer": [prompt.labels["answer"] for prompt in prompts]}
    return list(reward(prompts, answers, **labels))


def test_there_are_tasks_with_answers():
    assert TASKS == ["countries", "polarity", "topic", "translation"]


@every_task
def test_right_answers_score_highest_and_cheats_nothing_more(name):
    prompts = some(name)
    right = [prompt.labels["answer"] for prompt in prompts]
    wrong = [next(other for other in right if other != answer) for answer in right]
    scores = {
        "right": score(name, right),
        "in capitals, with white space and a period": score(name, [f"  {answer.upper()}. " for answer in right]),
        "wrong": score(name, wrong),
        "empty": score(name, [""] * 50),
        "the prompt": score(name, [str(prompt) for prompt in prompts]),
        "twice": score(name, [f"{answer} {answer}" for answer in right]),
        "one word": score(name, ["the " * 9] * 50),
        "every answer": score(name, [" ".join(sorted(set(right)))] * 50),
        "right, and more": score(name, [f"{answer} of course" for answer in right]),
    }
    assert scores.pop("right") == scores.pop("in capitals, with white space and a period") == [1.0] * 50
    near = () if name != "countries" else ("twice", "right, and more")  # the F1 of the words is between
    for cheat, found in scores.items():
        assert max(found) < (1.0 if cheat in near else 0.5), cheat
    assert max(scores["empty"]) == 0.0


@every_task
def test_the_metric_counts_right_answers(name):
    task, prompts = get_task(name), rows(name)
    right = [prompt.labels["answer"] for prompt in prompts]
    assert task.checked_measure(prompts, right) == 1.0
    assert task.checked_measure(prompts, [""] * len(prompts)) == 0.0
    half = [answer if number % 2 else "" for number, answer in enumerate(right)]
    assert 0.4 < task.checked_measure(prompts, half) < 0.7


@every_task
def test_splits_share_no_prompt_and_examples_are_the_prompts_with_their_answers(name):
    splits = {split: {str(prompt) for prompt in rows(name, split)} for split in SPLITS}
    assert not splits["train"] & splits["test"] and not splits["train"] & splits["validation"]
    assert not splits["validation"] & splits["test"] and min(map(len, splits.values())) > 30
    examples, prompts = get_task(name).checked_examples("train"), rows(name, "train")
    assert [row["prompt"] for row in examples] == [str(prompt) for prompt in prompts]
    assert all(row["response"] == f" {prompt.labels['answer']}" for row, prompt in zip(examples, prompts, strict=True))


@every_task
def test_baselines_are_below_the_right_answers(name):
    values = get_task(name).judged_baselines("test")
    assert values and all(0 <= value < 0.8 for value in values.values())
    if name == "polarity":
        assert values["VADER"] > max(values["majority"], values["chance"]) + 0.1
    if name == "topic":
        assert values["majority"] < values["chance"] < 0.3 and len(CLASSES) == 4


def test_macro_f1_is_that_of_a_slow_computation():
    right = ["a", "a", "a", "b", "b", "c"]
    given = [" A.", "b", "", "b", "b", "a"]
    # a: precision 1/2, recall 1/3; b: precision 2/3, recall 1; c: no hit
    assert macro_f1([""] * 6, given, right) == pytest.approx((0.4 + 0.8 + 0.0) / 3)


def test_closeness_is_1_only_for_equal_texts():
    assert closeness("vingt", "vingt") == 1.0 and closeness("", "") == 1.0
    assert closeness("vingt-un", "vingt-et-un") == pytest.approx(8 / 11)  # vingt- and un
    assert closeness("aaaa", "aa") == 0.5 and closeness("xyz", "abc") == 0.0
    assert translation_reward(["", ""], ["deux", "deu"], ["deux", "deux"]) == [1.0, 0.375]


def test_numbers_are_translated_by_num2words():
    found = {
        str(prompt): prompt.labels["answer"]
        for split in ("train", "validation", "test")
        for prompt in rows("translation", split)
    }
    assert len(found) == 3 * 1999
    assert found["twenty-one\nFrench:"] == "vingt et un" and found["twenty-one\nGerman:"] == "einundzwanzig"
    assert found["one thousand, nine hundred and ninety-nine\nSpanish:"].startswith("mil novecientos")


def test_normalized():
    assert normalized(" Twenty \n one. ") == "twenty one" and normalized("...") == ".."


def test_a_missing_package_is_one_line(monkeypatch, capsys):
    found = builtins.__import__

    def without(name, *others):
        if name.partition(".")[0] == "num2words":
            raise ModuleNotFoundError("No module named 'num2words'", name="num2words")
        return found(name, *others)

    translation_rows.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    error = command_refusal(capsys, "tasks", "translation")
    assert "task translation needs the package num2words, which is not installed: run make setup EXTRAS=tasks" in error
    assert cli.main(["tasks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(task_names())
    assert any(re.match(r"translation .* -  +-  +yes .*\(needs num2words", line) for line in lines), lines


@pytest.mark.parametrize("error", [ModuleNotFoundError("lost"), ModuleNotFoundError("lost", name="other")])
def test_another_missing_module_is_an_error_of_the_task(error):
    def prompts(split):
        raise error

    for needs in (None, "num2words"):
        task = replace(get_task("polarity"), prompts=prompts, needs=needs)
        assert "prompts of task polarity raised ModuleNotFoundError: lost" in refusal(task.checked_prompts, "test")


def test_tasks_are_listed_and_shown(capsys):
    assert cli.main(["tasks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(task_names())
    assert cli.main(["tasks", "polarity"]) == 0
    shown = capsys.readouterr().out
    assert f"accuracy on {len(rows('polarity'))} test prompts: majority 0.500" in shown and "-> 'negative'" in shown
    assert cli.main(["tasks", "sentiment"]) == 0 and "continue the beginning" in capsys.readouterr().out
    assert "it must be one of countries, keywords" in command_refusal(capsys, "tasks", "nonsense")


def test_data_and_task_are_not_both_the_examples(tmp_path, capsys):
    data = tmp_path / "mine.txt"
    data.write_text("One.\nTwo.\n")
    assert "task is topic, and data is given" in refusal(tfppo.sft, data, task="topic", runs_dir=tmp_path)
    assert "task length has no examples" in refusal(tfppo.sft, task="length", runs_dir=tmp_path)
    assert "task is 'nonsense'" in command_refusal(capsys, "sft", "--task", "nonsense")
    assert "give --data FILE, or --task NAME" in command_refusal(capsys, "sft")


def test_the_settings_of_a_task_are_defaults(capsys):
    wanted = get_task("translation").sft_defaults
    with pytest.raises(SystemExit):
        cli.main(["sft", "--task", "translation", "--help"])
    shown = capsys.readouterr().out
    assert f"(default: {wanted['epochs']})" in shown and f"(default: {wanted['hidden_dim']})" in shown


def test_a_task_is_learned_from_its_examples_and_then_by_ppo(tmp_path, monkeypatch):
    """From end to end, in seconds: examples, supervised fine-tuning, PPO, evaluation."""
    task = get_task("translation")
    few = {
        split: [dict(prompt.row()) for prompt in rows("translation", split)[:40]]
        for split in ("train", "validation", "test")
    }
    small = replace(
        task,
        name="few",
        prompts=lambda split: few[split],
        examples=lambda split: [{"prompt": row["prompt"], "response": f" {row['answer']}"} for row in few[split]],
    )
    monkeypatch.setattr(tfppo.text.tasks.task, "_TASKS", {"few": small})
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 32, "vocabulary_size": 512, "context_length": 96}
    folder = tfppo.sft(task="few", epochs=1, runs_dir=tmp_path, device="cpu", **sizes)
    config = run_folder.read_config(folder, SFTRunConfig)
    assert folder.name == "sft-few-seed1" and config.sft.task == "few" and config.model.dropout == 0.0
    assert evaluation_of(folder)["train"]["examples"] == 40
    settings = {"iterations": 1, "batch_size": 8, "minibatch_size": 8, "eval_prompts": 8, "response_length": 8}
    text = tfppo.make_text_config(
        task="few", preset=folder / "preset", runs_dir=tmp_path, device="cpu", **{**task.defaults, **settings}
    )
    found = evaluation_of(tfppo.train_text(text))["exact_match"]
    assert set(found) >= {"policy", "reference"} and all(0 <= value <= 1 for value in found.values())


def test_a_prompt_has_its_answer_as_a_label():
    prompt = rows("topic")[0]
    assert isinstance(prompt, Prompt) and set(prompt.labels) == {"answer"}


def test_the_f1_of_an_answer_is_that_of_squad():
    assert token_f1("The city of Lima.", "Lima") == pytest.approx(2 * 1 / (3 + 1))  # articles do not count
    assert token_f1("", "Lima") == token_f1("Quito", "Lima") == 0.0 and token_f1("lima!", "Lima") == 1.0
    assert contains("It is Addis Ababa now", "Addis Ababa") == 1.0 and contains("Addis and Ababa", "Addis Ababa") == 0.0


def test_countries_have_three_kinds_of_questions_in_wordings_of_their_own():
    for split, wordings in (("train", 5), ("validation", 1), ("test", 2)):
        kinds = [prompt.labels["kind"] for prompt in rows("countries", split)]
        assert len(kinds) % (3 * wordings) == 0 and set(kinds) == {"capital", "currency", "continent"}


def test_the_sentences_are_learned_by_the_shipped_model():
    assert get_task("polarity").sft_defaults["preset"] == get_task("topic").sft_defaults["preset"] == default_preset()
