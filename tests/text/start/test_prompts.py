"""Runs on prompts of the user: files and Python objects, labels, held-out parts, several rewards and validation."""

import csv
import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.refusal import refusal

from tfppo.cli import main
from tfppo.saved_runs import evaluate, export, generate, resume
from tfppo.text import run
from tfppo.text.config import TextConfig, TextRunConfig
from tfppo.text.data.prompt_files import read_prompts, write_prompts
from tfppo.text.data.special_tokens import special_tokens_of
from tfppo.text.defaults import make_text_config
from tfppo.text.presets.folder import load_preset, save_preset
from tfppo.text.rewards.callables import checked_scores
from tfppo.text.rewards.whole_texts import ReadsTexts
from tfppo.text.start.prompts import OwnPrompts, own_prompts
from tfppo.text.tasks import get_task
from tfppo.text.trainer import TextTrainer
from tfppo.training import run_folder

WORDS = ["film", "cast", "plot", "script", "camera", "music", "end", "start"]
ROWS = [{"prompt": f"The {word} of the", "letters": len(word), "word": word} for word in WORDS]
SMALL = {"iterations": 2, "batch_size": 4, "minibatch_size": 4, "response_length": 4, "num_epochs": 1}
SMALL |= {"compile_rollout": "graph", "compile_update": "graph", "sample_interval": 2, "device": "cpu"}
LONG = "film " * 200
seen = []


def letters_reward(prompts, responses, letters, **columns):
    """Checks that each label came with its own prompt, and scores by the label."""
    assert all(prompt == f"The {word} of the" for prompt, word in zip(prompts, columns["word"], strict=True))
    assert [len(word) for word in columns["word"]] == letters
    seen.extend(prompts)
    return [count + len(response) / 100 for count, response in zip(letters, responses, strict=True)]


def ones(prompts, responses):
    return [1.0] * len(responses)


def config_of(folder, preset, **settings):
    return make_text_config(**(SMALL | {"runs_dir": folder, "preset": preset, "name": "own"} | settings))


def metrics_of(folder):
    with (folder / run_folder.METRICS).open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def own_run(preset, tmp_path_factory):
    """A finished run on rows with labels, two rewards and validation."""
    folder = tmp_path_factory.mktemp("own")
    settings = {"reward_weights": (1.0, 0.5), "validation_interval": 1, "reward_timeout": 60.0}
    return run.train_text(
        config_of(folder, preset, **settings),
        prompts=ROWS[:5],
        validation_prompts=ROWS[5:7],
        test_prompts=ROWS[7:],
        reward=[letters_reward, ones],
    )


def test_labels_reach_the_rewards_everywhere(own_run):
    evaluation = run_folder.read_evaluation(own_run)
    assert evaluation["prompts"] == 1 and evaluation["split"] == "test" and evaluation["task"] == "prompts"
    assert 5.5 <= evaluation["score"]["policy"]["mean"] < 6  # five letters, and half a point for the other reward
    samples = [json.loads(line) for line in (own_run / run_folder.SAMPLES).read_text().splitlines()]
    assert {row["prompt"] for row in samples} == {row["prompt"] for row in ROWS[5:7]}
    assert set(seen) >= {row["prompt"] for row in ROWS}


def test_each_of_several_rewards_has_its_curve(own_run):
    for row in metrics_of(own_run):
        assert row["reward/ones"] == 1 and 3 <= row["reward/letters_reward"] <= 6.5
        assert row["text/score_mean"] == pytest.approx(row["reward/letters_reward"] + 0.5, rel=1e-6)


def test_validation_has_its_curves_and_selects_the_best_checkpoint(own_run):
    rows = metrics_of(own_run)
    assert all(
        4.5 <= row["validation/score_mean"] < 5.2 and row["validation/response_length_mean"] >= 0 for row in rows
    )
    best = json.loads((own_run / "checkpoints" / "000002" / "progress.json").read_text())["score"]
    assert best == pytest.approx(rows[-1]["validation/score_mean"], rel=1e-6)


def test_the_folder_keeps_the_prompts_and_the_run_goes_on_from_them(own_run):
    kept = own_run / run_folder.PROMPTS
    assert [prompt.row() for prompt in read_prompts(kept / "train.jsonl")] == ROWS[:5]
    again = evaluate(own_run, reward=[letters_reward, ones], seed=1)
    assert again["score"] == run_folder.read_evaluation(own_run)["score"] and again["split"] == "test"
    assert len(generate(own_run, ["The film"], reference=True)) == 1


def test_changed_prompts_or_labels_are_refused(own_run, tmp_path):
    import shutil

    copy = shutil.copytree(own_run, tmp_path / "copy")
    kept = copy / run_folder.PROMPTS / "train.jsonl"
    kept.write_text(kept.read_text().replace('"letters": 4', '"letters": 7', 1))
    assert "the list of training prompts has the checksum" in refusal(resume, copy, reward=[letters_reward, ones])


@pytest.mark.fault("A file of the run's own prompts is deleted", "One line names it; no other prompts are used.")
def test_missing_prompts_of_a_run_are_refused(tmp_path):
    from_file, from_python, of_a_task = (
        TextConfig(prompts="a.txt", task="length"),
        TextConfig(),
        TextConfig(task="length"),
    )
    for text in (from_file, from_python):
        assert "train.jsonl is missing; the run keeps its prompts in this file" in refusal(
            own_prompts, text, tmp_path, {}
        )
    assert own_prompts(of_a_task, tmp_path, {}) is None
    (tmp_path / run_folder.PROMPTS).mkdir()
    write_prompts(tmp_path / run_folder.PROMPTS / "train.jsonl", read_one("a"))
    assert own_prompts(from_file, tmp_path, {}).train == ["a"]
    for held_out in ({"validation_prompts": "b.txt"}, {"validation_share": 0.5}):
        assert "validation.jsonl is missing" in refusal(
            own_prompts, TextConfig(prompts="a.txt", **held_out), tmp_path, {}
        )
    assert "test.jsonl is missing" in refusal(own_prompts, TextConfig(test_prompts="c.txt"), tmp_path, {})


@pytest.mark.slow
def test_prompts_from_files_are_those_of_python(own_run, preset, tmp_path, monkeypatch, capsys):
    """The command line with files, one of them CSV, trains the same weights as Python objects."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, ROWS[:5])))
    (tmp_path / "held.jsonl").write_text("\n".join(map(json.dumps, ROWS[5:7])))
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, ROWS[7:])))
    files = ["--prompts", "all.jsonl", "--validation-prompts", "held.jsonl", "--test-prompts", "test.jsonl"]
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    reward = f"{__name__}:letters_reward,{__name__}:ones"
    given = ["--reward", reward, "--reward-weights", "1", "0.5", "--validation-interval", "1"]
    assert main(["train", "text", "--preset", str(preset), *files, *given, *options]) == 0, capsys.readouterr()
    folder = tmp_path / "runs" / "all-seed1"
    assert run_folder.read_evaluation(folder)["weights"] == run_folder.read_evaluation(own_run)["weights"]
    (tmp_path / "all.jsonl").unlink()  # the run has its own copy
    assert main(["evaluate", str(folder), "--reward", reward]) == 0
    assert "1 held-out prompt" in capsys.readouterr().out


@pytest.mark.slow
def test_without_held_out_prompts_the_evaluation_says_that_it_uses_training_prompts(preset, tmp_path, capsys):
    settings = {"iterations": 1, "task": "length"}
    folder = run.train_text(config_of(tmp_path, preset, **settings), prompts=[row["prompt"] for row in ROWS])
    assert run_folder.read_evaluation(folder)["split"] == "train" and "8 training prompts" in capsys.readouterr().out
    assert "within_one_word" in run_folder.read_evaluation(folder)  # the task gives its reward and its metric


@pytest.mark.slow
def test_one_prompt_is_enough_and_a_line_says_that_a_batch_repeats_it(preset, tmp_path, capsys):
    run.train_text(config_of(tmp_path, preset, iterations=1), prompts=["The film"], reward=ones)
    assert "1 training prompt for batches of 4: every batch has prompts several times" in capsys.readouterr().out


def test_held_out_prompts_are_replaced_in_a_fixed_order():
    one, two = read_one("a"), read_one("b")
    assert OwnPrompts(one, [], []).of("test") == one and OwnPrompts(one, two, []).of("test") == two
    assert (
        OwnPrompts(one, [], two).of("validation") == one and OwnPrompts(one, [], two).used_for("validation") == "train"
    )


def read_one(text):
    from tfppo.text.data.prompts import as_prompts

    return as_prompts([text], "prompts")


def test_a_share_is_held_out():
    given = {"train": [f"question {number}" for number in range(100)]}
    parts = own_prompts(TextConfig(validation_share=0.2), None, given)
    assert len(parts.train) + len(parts.validation) == 100 and 8 <= len(parts.validation) <= 35
    assert parts.of("test") == parts.validation


@pytest.mark.fault("Prompts are given twice, or held-out prompts without training prompts", "One line says what to do.")
@pytest.mark.parametrize(
    ("settings", "given", "said"),
    [
        ({"prompts": "a.txt"}, {"train": ["a"]}, "prompts is a.txt, and prompts are given in Python, too"),
        ({}, {"test": ["a"]}, "test_prompts is given without prompts"),
        ({"validation_share": 0.1}, {}, "validation_share is given without prompts"),
        ({"validation_share": 0.1}, {"train": ["a"], "validation": ["b"]}, "both give the validation prompts"),
        ({"validation_share": 0.1}, {"train": ["a"]}, "of 1 prompts it leaves"),
        ({}, {"train": []}, "prompts is empty"),
        ({"prompts": "none.txt"}, {}, "none.txt cannot be read"),
    ],
)
def test_prompts_that_contradict_each_other_are_refused(settings, given, said):
    assert said in refusal(own_prompts, TextConfig(**settings), None, given)


@pytest.mark.representatives(6)
@pytest.mark.parametrize(
    ("settings", "given", "said"),
    [
        ({}, {"prompts": ROWS}, "task prompts (prompts of your own) has no reward; a run needs one: give --reward"),
        ({}, {"prompts": ["The film"], "reward": letters_reward}, "letters_reward has the parameter letters"),
        (
            {},
            {"prompts": [*ROWS, "The"], "reward": letters_reward},
            "needs the label letters, and row 8 of prompts",
        ),
        (
            {},
            {"prompts": ROWS, "test_prompts": ["a"], "reward": letters_reward},
            "have no labels: add a column letters",
        ),
        ({"reward_weights": (1.0,)}, {"prompts": ROWS, "reward": [ones, ones]}, "reward_weights has 1 values, and"),
        ({"validation_interval": 1}, {"prompts": ROWS, "reward": ones}, "there are no validation prompts: give"),
        ({"prompt_length": 2}, {"prompts": ROWS, "reward": ones}, "prompt_length is 2; the shortest"),
        ({}, {"prompts": ["film", LONG], "reward": ones}, "row 1 of prompts ('film film"),
        ({}, {"prompts": [LONG], "reward": ones}, "or set prompt_length to 60, which leaves longer prompts out"),
        (
            {"validation_interval": 1, "num_validation_prompts": 9},
            {"prompts": ROWS, "validation_prompts": [*["film"] * 8, LONG], "test_prompts": ROWS, "reward": ones},
            "row 8 of validation_prompts ('film film",
        ),
        (
            {"system": "Be brief."},
            {"prompts": ROWS, "reward": ones},
            "a system message needs one: give",
        ),
        (
            {"chat_template": "none.jinja"},
            {"prompts": ROWS, "reward": ones},
            "chat_template is none.jinja, which",
        ),
        (
            {},
            {"prompts": [[{"role": "user", "content": "a"}]], "reward": ones},
            "row 0 of prompts is a list of",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused_before_the_run(settings, given, said, preset, tmp_path):
    assert said in refusal(TextTrainer, config_of(tmp_path, preset, **settings), **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_long_prompt_of_a_later_evaluation_is_one_line(preset, tmp_path):
    given = {"prompts": ROWS, "test_prompts": [LONG], "reward": ones}
    folder = run.train_text(config_of(tmp_path, preset, eval_prompts=0, iterations=1), **given)
    assert "has room for 60 besides the response" in refusal(evaluate, folder, reward=ones)


@pytest.mark.slow
def test_prompts_that_are_left_out_of_training_are_left_out_everywhere(preset, tmp_path, capsys):
    settings = {"prompt_length": 12, "iterations": 1}
    folder = run.train_text(config_of(tmp_path, preset, **settings), prompts=[LONG, *ROWS], reward=ones)
    assert "1 of 9 training prompts has more than 12 tokens and is left out" in capsys.readouterr().out
    samples = [json.loads(line) for line in (folder / run_folder.SAMPLES).read_text().splitlines()]
    assert {row["prompt"] for row in samples} == {row["prompt"] for row in ROWS}
    assert evaluate(folder, reward=ones)["prompts"] == 8


def test_the_prompt_length_is_that_of_the_longest_prompt(preset, tmp_path):
    trainer = TextTrainer(config_of(tmp_path, preset), prompts=ROWS, reward=ones)
    assert trainer.config.text.prompt_length == trainer.prompts.lengths.max() == trainer.prompts.token_ids.shape[1]


def test_a_task_with_labels_needs_no_file(preset, tmp_path):
    mine = dataclasses.replace(
        get_task("length"),
        name="labels",
        prompts=lambda split: ROWS,
        make_reward=lambda: letters_reward,
        measure=lambda prompts, responses, letters: float(np.mean(letters)),
    )
    trainer = TextTrainer(config_of(tmp_path, preset, eval_prompts=8), task=mine)
    assert trainer.judge(8, 0)["within_one_word"]["policy"] == np.mean([row["letters"] for row in ROWS])


def test_rewards_and_users_read_conversations_as_two_sentences(preset, tmp_path):
    """A Keras model reads prompt and response as one text, and the run of a template puts a space between them."""
    (tmp_path / "mine.jinja").write_text("{{ messages[-1].content }}")
    texts = keras.Input((), dtype="string")
    model = keras.Model(texts, keras.layers.Lambda(lambda texts: tf.strings.length(texts), output_shape=())(texts))
    for template, between in ((str(tmp_path / "mine.jinja"), 1), ("none", 0)):
        config = config_of(tmp_path, preset, chat_template=template)
        trainer = TextTrainer(config, prompts=ROWS, reward=model)
        scored = checked_scores(trainer.parts.reward, ["Why?"], ["So."])
        assert scored.tolist() == [7 + between]
        alone, whole = (trainer.generate(["Why?"], samples=8, strip_prompt=strip) for strip in (True, False))
        begins = [not response or response[0].isspace() for response in alone]
        assert not all(begins)
        assert whole == ["Why?" + " " * (between and not has) + text for text, has in zip(alone, begins, strict=True)]


def test_a_reward_model_that_does_not_read_all_of_a_response_is_told(preset, tmp_path):
    class Short(ReadsTexts):
        longest = 12

        def __call__(self, prompts, responses):
            return ones(prompts, responses)

    def notes(response_length):
        config = config_of(tmp_path, preset, prompt_length=8, response_length=response_length)
        return TextTrainer(config, prompts=ROWS, reward=Short()).parts.notes

    (note,) = notes(5)
    assert "up to 13 tokens, and the reward model reads at most 12 of its own" in note
    assert not notes(4)


@pytest.mark.slow
def test_a_run_without_the_template_of_its_model_has_none_to_give_away(preset, tmp_path):
    """Neither an export nor the next run asks in a form in which the run did not ask."""
    for name in ("with", "without"):
        settings = {"chat_template": "none" if name == "without" else "auto", "iterations": 1, "eval_prompts": 0}
        model, tokenizer = load_preset(preset)
        start = tmp_path / f"{name}-template"
        special = special_tokens_of(tokenizer)._replace(chat_template="Q: {{ messages[-1].content }} A:")
        save_preset(start, model, tokenizer, "float32", special)
        folder = run.train_text(config_of(tmp_path, start, name=name, **settings), prompts=ROWS, reward=ones)
        exported = export(folder, reward=ones)
        following = config_of(tmp_path, None, init_from=folder, iterations=1, name=f"{name}-next")
        kept = (exported / "chat_template.jinja").exists()
        asks = TextTrainer(following, prompts=ROWS, reward=ones).codec.chat is not None
        assert (kept, asks) == (name == "with", name == "with")


@pytest.mark.slow
def test_a_template_of_the_users_file_is_kept(preset, tmp_path):
    template = tmp_path / "mine.jinja"
    template.write_text("\ufeffQ: {{ messages[-1].content }} A:")
    settings = {"chat_template": str(template), "iterations": 1, "eval_prompts": 0}
    folder = run.train_text(config_of(tmp_path, preset, **settings), prompts=ROWS, reward=ones)
    template.unlink()
    assert (folder / run_folder.TEMPLATE).read_text() == "Q: {{ messages[-1].content }} A:"
    assert len(generate(folder, ["film"], max_new_tokens=3)) == 1
    next_run = config_of(tmp_path, None, init_from=folder, iterations=1, eval_prompts=0, name="next")
    trained_on = run.train_text(next_run, prompts=ROWS, reward=ones)
    config = run_folder.read_config(trained_on, TextRunConfig)
    assert TextTrainer(config, reward=ones, folder=trained_on).codec.chat.source == "Q: {{ messages[-1].content }} A:"
