"""Tasks with short answers: rewards for right, wrong and cheating answers, splits, baselines, and a whole run."""

import builtins
import re
from dataclasses import replace

import numpy as np
import pytest
from support.refusal import command_refusal, refusal
from support.run_files import evaluation_of

import tfppo
from tfppo import cli
from tfppo.text.data.corpus import SPLITS
from tfppo.text.data.prompts import Prompt
from tfppo.text.presets import default_preset
from tfppo.text.sft.config import SFTRunConfig
from tfppo.text.tasks import docstrings, finance, get_task, task_names
from tfppo.text.tasks.classification import CLASSES
from tfppo.text.tasks.countries import contains, countries_rows
from tfppo.text.tasks.definition import registry
from tfppo.text.tasks.definition.answers import answer_task, macro_f1, normalized, token_f1
from tfppo.text.tasks.entities import all_f1, names_in, span_f1, tags
from tfppo.text.tasks.translation import chrf, closeness, translation_reward, translation_rows
from tfppo.training import run_folder

TASKS = ["countries", "docstrings", "entities", "finance", "messages", "polarity", "topic", "translation"]
GRADED = ["docstrings", "entities", "messages"]  # whose reward knows more than right and wrong
READ = ["docstrings", "entities", "finance", "messages"]  # their data take long to read, or are fetched


def named(names):
    slow = {name: [pytest.mark.slow] if name in READ else [] for name in names}
    return pytest.mark.parametrize("name", [pytest.param(name, marks=slow[name]) for name in names])


every_task = named(TASKS)


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


def cheats(name):
    """Returns answers to some prompts that no reward may prefer to the right ones."""
    prompts = some(name)
    right = [prompt.labels["answer"] for prompt in prompts]
    return {
        "wrong": [next(other for other in right if other != answer) for answer in right],
        "empty": [""] * 50,
        "the prompt": [str(prompt) for prompt in prompts],
        "twice": [f"{answer} {answer}" for answer in right],
        "one word": ["the " * 9] * 50,
        "every answer": [" ".join(sorted(set(right)))] * 50,
        "right, and more": [f"{answer} of course" for answer in right],
    }


def test_tasks_with_right_answers():
    others = {"music", "recommendation", "support"}  # have many right answers
    assert {name for name in task_names() if get_task(name).examples is not None} == {*TASKS, *others}


@named([name for name in TASKS if name not in GRADED])
def test_right_answers_score_highest_and_cheats_nothing_more(name):
    right = [prompt.labels["answer"] for prompt in some(name)]
    assert score(name, right) == score(name, [f"  {answer.upper()}. " for answer in right]) == [1.0] * 50
    near = () if name != "countries" else ("twice", "right, and more")  # the F1 of the words is between
    for cheat, answers in cheats(name).items():
        assert max(score(name, answers)) < (1.0 if cheat in near else 0.5), cheat
    assert max(score(name, [""] * 50)) == 0.0


@named(GRADED)
def test_cheats_earn_less_than_right_answers(name):
    right = [prompt.labels["answer"] for prompt in some(name)]
    assert score(name, right) == pytest.approx([1.0] * 50)
    for cheat, answers in cheats(name).items():
        near = 0.95 if cheat in ("twice", "right, and more") else 0.4
        assert np.mean(score(name, answers)) < near, cheat
    assert np.mean(score(name, [""] * 50)) == 0.0


@every_task
def test_the_metric_counts_right_answers(name):
    task, prompts = get_task(name), rows(name)
    right = [prompt.labels["answer"] for prompt in prompts]
    assert task.checked_measure(prompts, right) == 1.0
    assert task.checked_measure(prompts, [""] * len(prompts)) == 0.0
    half = [answer if number % 2 else "" for number, answer in enumerate(right)]
    assert 0.3 < task.checked_measure(prompts, half) < 0.7


@every_task
def test_splits_share_no_prompt_and_examples_are_the_prompts_with_their_answers(name):
    splits = {split: {str(prompt) for prompt in rows(name, split)} for split in SPLITS}
    assert not splits["train"] & splits["test"] and not splits["train"] & splits["validation"]
    assert not splits["validation"] & splits["test"] and min(map(len, splits.values())) > 30
    examples, prompts = get_task(name).checked_examples("train"), rows(name, "train")
    if name not in ("countries", "finance", "translation"):
        assert [row["prompt"] for row in examples] == [str(prompt) for prompt in prompts]
        answers = [prompt.labels["answer"] for prompt in prompts]
        assert [row["response"] for row in examples] == [f" {answer}" for answer in answers]
    else:  # each of the two gets one half
        assert not {row["prompt"] for row in examples} & {str(prompt) for prompt in prompts}
        assert 0.9 < len(examples) / len(prompts) < 1.1
    assert not {row["prompt"] for row in examples} & splits["test"]


@every_task
def test_baselines_are_below_the_right_answers(name):
    values = get_task(name).judged_baselines("test")
    limits = {"known names": 0.95}  # the labels are made of such names
    assert values and all(0 <= value < limits.get(kind, 0.8) for kind, value in values.items())
    if name == "finance":
        assert values["VADER"] > max(values["majority"], values["chance"]) + 0.05
    if name == "entities":
        assert values["known names"] > values["capital letters"] > values["majority"] == 0
    if name == "docstrings":
        assert values["lead"] > values["another line"]
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
    found = {row["prompt"]: row["answer"] for split in SPLITS for row in translation_rows(split)}
    assert len(found) == 3 * 2999
    assert found["twenty-one\nFrench:"] == "vingt et un" and found["twenty-one\nGerman:"] == "einundzwanzig"
    assert found["one thousand, nine hundred and ninety-nine\nSpanish:"].startswith("mil novecientos")


def test_normalized():
    assert normalized(" Twenty \n one. ") == "twenty one" and normalized("...") == ".."


def test_a_measure_of_its_own_has_a_name():
    assert "it must say what is measured: give metric" in refusal(
        lambda: answer_task("mine", "mine", lambda split: [], measure=macro_f1)
    )


def test_a_missing_package_is_one_line(monkeypatch, capsys):
    found = builtins.__import__

    def without(name, *others, **named):
        if name.partition(".")[0] == "num2words":
            raise ModuleNotFoundError("No module named 'num2words'", name="num2words")
        return found(name, *others, **named)

    translation_rows.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    error = command_refusal(capsys, "tasks", "translation")
    assert "task translation needs the package num2words, which is not installed: run make setup EXTRAS=tasks" in error


@pytest.mark.parametrize("error", [ModuleNotFoundError("lost"), ModuleNotFoundError("lost", name="other")])
def test_another_missing_module_is_an_error_of_the_task(error):
    def prompts(split):
        raise error

    for needs in ((), ("num2words",)):
        task = replace(get_task("polarity"), prompts=prompts, needs=needs)
        assert "prompts of task polarity raised ModuleNotFoundError: lost" in refusal(task.checked_prompts, "test")


def test_tasks_are_listed_and_shown(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # which holds no archives: a list fetches none
    monkeypatch.setattr(registry, "_TASKS", {**registry._TASKS, "topic": replace(get_task("topic"), needs=("nosuch",))})
    assert cli.main(["tasks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(task_names())
    assert any(re.match(r"topic .* -  +-  +yes .*\(needs nosuch: make", line) for line in lines), lines
    unread = [line.split()[0] for line in lines if "data of PyPI: tfppo tasks" in line]
    assert unread == ["entities", "finance", "messages", "recommendation", "support"] and not list(tmp_path.iterdir())
    assert cli.main(["tasks", "polarity"]) == 0
    shown = capsys.readouterr().out
    assert f"accuracy on {len(rows('polarity'))} test prompts: majority 0.500" in shown and "-> 'negative'" in shown
    assert cli.main(["tasks", "sentiment"]) == 0 and "continue the beginning" in capsys.readouterr().out
    assert "it must be one of countries, docstrings" in command_refusal(capsys, "tasks", "nonsense")


def test_a_task_for_a_trained_model_asks_for_one(tmp_path, capsys):
    error = command_refusal(capsys, "sft", "--task", "countries", "--runs-dir", tmp_path / "runs")
    assert "task countries tunes a trained model with adapters, and preset is None" in error
    assert not (tmp_path / "runs").exists()


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


SIZES = {"num_layers": 1, "num_heads": 2, "hidden_dim": 32, "vocabulary_size": 512, "context_length": 192}
SHORT = {"iterations": 1, "batch_size": 8, "minibatch_size": 8, "eval_prompts": 8, "response_length": 8}
LEARNED = [name for name in task_names() if get_task(name).examples is not None]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name != "translation" else []) for name in LEARNED]
)
def test_a_task_is_learned_from_its_examples_and_then_by_ppo(name, tmp_path, monkeypatch):
    """From end to end, in seconds: examples, supervised fine-tuning, PPO, evaluation."""
    task = get_task(name)
    few = {split: [dict(prompt.row()) for prompt in rows(name, split)[:40]] for split in SPLITS}
    examples = {split: list(task.checked_examples(split))[:40] for split in SPLITS}
    small = replace(task, name="few", prompts=few.__getitem__, examples=examples.__getitem__, sft_defaults={})
    monkeypatch.setattr(registry, "_TASKS", {"few": small})
    folder = tfppo.sft(task="few", epochs=1, runs_dir=tmp_path, device="cpu", **SIZES)
    config = run_folder.read_config(folder, SFTRunConfig)
    assert folder.name == "sft-few-seed1" and config.sft.task == "few"
    assert evaluation_of(folder)["train"]["examples"] == 40
    settings = {**task.defaults, **SHORT, "prompt_length": None, "lora_rank": 0}
    text = tfppo.make_text_config(task="few", preset=folder / "preset", runs_dir=tmp_path, device="cpu", **settings)
    found = evaluation_of(tfppo.train_text(text))[task.metric]
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


def test_the_halves_for_sft_and_ppo_share_no_country():
    """The examples of countries have only the prompt and the response, so the country is found in the prompt."""
    tuned = rows("countries", "train")
    learned = {row["prompt"] for row in get_task("countries").checked_examples("train")}
    assert not learned & {str(prompt) for prompt in tuned}
    countries = {prompt.labels["country"] for prompt in tuned}
    everywhere = {row["prompt"]: row["country"] for row in countries_rows("train")}
    assert learned <= set(everywhere) and not countries & {everywhere[prompt] for prompt in learned}
    assert 0.3 < len(countries) / len(set(everywhere.values())) < 0.7


def test_the_sentences_are_learned_by_the_shipped_model():
    assert get_task("polarity").sft_defaults["preset"] == get_task("topic").sft_defaults["preset"] == default_preset()


def test_names_are_found_in_a_sentence_and_marked():
    persons, places = frozenset({"Caesar", "Mark", "Antony"}), frozenset({"Rome"})
    words = ["Mark", "Antony", "and", "Caesar", "left", "Rome"]
    names = [("person", "Mark Antony"), ("person", "Caesar"), ("place", "Rome")]
    assert names_in(words, persons, places) == names
    prompt = "Mark Antony and Caesar left Rome.\nNames:"
    right = "person Mark Antony, person Caesar, place Rome"
    assert tags(prompt, right) == ["B-person", "I-person", "O", "B-person", "O", "B-place"]
    for response, wanted in {
        right: 1.0,
        "place Rome, person Caesar, person Mark Antony": 1.0,
        "person Mark, person Caesar, place Rome": 2 / 3,  # half a name is a wrong one
        "person Caesar": 2 * 1 / (1 + 3),
        "place Caesar": 0.0,
        f"{right}, person Brutus": 2 * 3 / (4 + 3),  # a name that is not there counts as a wrong one
        f"{right}, person Caesar": 2 * 3 / (4 + 3),
        f"place Antony, {right}": 2 * 3 / (4 + 3),  # a part of a name is another name
        "none": 0.0,
    }.items():
        assert span_f1([prompt], [response], [right]) == [pytest.approx(wanted)], response
    both = "person Mark Antony, person Antony"
    for response in (both, "person Antony, person Mark Antony"):
        assert span_f1(["Mark Antony loves Antony.\nNames:"], [response], [both]) == [1.0]
    assert span_f1(["Go.\nNames:"] * 3, [" none.", "person Go", ""], ["none"] * 3) == [1.0, 0.0, 0.0]
    assert all_f1([prompt, "Go.\nNames:"], ["person Caesar", "person Go"], [right, "none"]) == pytest.approx(2 / 5)


def test_docstrings_are_found_in_a_file(tmp_path, monkeypatch):
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit" / "__init__.py").write_text(
        'def add(a: int = f(1), b=2) -> int:\n    """Adds two whole numbers.\n\n    The sum is\n'
        f'    {"exact " * 20}\n    """\n\n'
        'class Adder:\n    r"""Short.\n\n    A text.\n    """\n\n'
        f'def open(a):\n    """Opens without a period\n\n    {"Nothing " * 20}\n    """\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(docstrings, "FOLDERS", ("kit", "there_is_no_such_package"))
    docstrings.documented.cache_clear()
    (row,) = [row for rows in docstrings.documented().values() for row in rows]
    docstrings.documented.cache_clear()
    assert row["answer"] == "Adds two whole numbers."
    assert row["prompt"].startswith("add: The sum is exact") and row["prompt"].endswith("\nSummary:")
    assert len(row["prompt"]) <= len("add: \nSummary:") + docstrings.SHOWN


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence():
    answer = "Adds two whole numbers."
    for response, wanted in {
        answer: 1.0,
        "adds numbers": 2 * 2 / (2 + 4),
        "numbers adds": 2 * 1 / (2 + 4),
        "": 0,
    }.items():
        assert docstrings.rouge_l([""], [response], [answer]) == [pytest.approx(wanted)]
    assert docstrings.length_ratio([""] * 2, ["one two", ""], [answer, answer]) == 2 / 8


def test_opinions_are_those_of_the_lexicon(monkeypatch):
    lexicon = {"growth": 0.5, "loss": -0.5, "fair": 0.3}
    monkeypatch.setattr(finance, "lexicon", lambda: lexicon)
    assert finance.opinion(["growth"]) == finance.opinion(["growth", "loss", "fair"]) == "positive"
    assert finance.opinion(["loss"]) == "negative" and finance.opinion(["loss", "fair"]) == "negative"
    assert finance.opinion(["growth", "loss"]) == "neutral"


def test_chrf_of_equal_and_of_other_messages():
    assert chrf(["", ""], [" Titre ", ""], ["Titre", "Titre"]) == [1.0, 0.0]
    assert 0.3 < chrf([""], ["Titres"], ["Titre"])[0] < 1.0
