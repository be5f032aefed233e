"""Whole text runs on a tiny language model: training, evaluation, resume, generation and errors."""

import contextlib
import csv
import dataclasses
import functools
import gzip
import io
import json
import re
import shutil
import signal
import weakref
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tfppo
from tfppo.cli import main
from tfppo.errors import UsageError
from tfppo.reporting.metrics import METRICS
from tfppo.text import results, run
from tfppo.text import trainer as text_trainer
from tfppo.text.config import TextRunConfig
from tfppo.text.defaults import make_text_config
from tfppo.text.records import metrics_of
from tfppo.text.rollouts.rollout_file import read_rollouts
from tfppo.text.tasks import get_task
from tfppo.text.tasks.length import length_reward
from tfppo.text.trainer import TEXT, TextTrainer
from tfppo.training import driver, run_folder
from tfppo.training.loop import Iteration
from tfppo.training.pipeline import prompt_dataset


def tiny(folder, preset, **settings):
    small = {"iterations": 3, "batch_size": 8, "minibatch_size": 4, "response_length": 6, "eval_prompts": 12}
    every = {"sample_interval": 2, "checkpoint_interval": 1, "keep_checkpoints": 9, "num_epochs": 1}
    where = {"runs_dir": folder, "preset": preset, "task": "length"}
    return make_text_config(**(small | every | where | settings))


def rows_of(folder):
    with (folder / run_folder.METRICS).open(newline="") as file:
        return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in csv.DictReader(file)]


def weights_of(folder):
    with driver.opened(TEXT, folder, "latest") as trainer:
        return trainer.policy.model.model.get_weights() + trainer.policy.value_head.get_weights()


class Finished(NamedTuple):
    """The folder of a finished run, and its output."""

    folder: Path
    printed: str


def finish(folder, preset):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        folder = run.train_text(tiny(folder, preset))
    return Finished(folder, printed.getvalue())


@pytest.fixture(scope="session")
def finished_with(tmp_path_factory):
    """Trains a run from a preset, once for each preset. Tests must not write into its folder."""
    return functools.cache(lambda preset: finish(tmp_path_factory.mktemp("finished"), preset))


@pytest.fixture(scope="session")
def any_finished(any_preset, finished_with):
    return finished_with(any_preset)


@pytest.fixture(scope="session")
def finished(preset, finished_with):
    return finished_with(preset).folder


def test_a_run_leaves_everything_behind_that_the_design_names(any_finished):
    folder, out = any_finished
    assert folder.name == "length-seed1"
    assert {path.name for path in folder.iterdir()} >= {
        *("config.yaml", "metrics.csv", "samples.jsonl", "evaluation.json"),
        *("curve.png", "frontier.png", "checkpoints"),
    }
    assert (
        isinstance(run_folder.read_config(folder, TextRunConfig), TextRunConfig)
        and run_folder.kind_of(folder) == "text"
    )
    rows = rows_of(folder)
    assert [row["iteration"] for row in rows] == ["0", "1", "2"]
    assert set(rows[0]) - {"iteration"} <= set(METRICS)
    assert float(rows[0]["text/kl"]) == 0.0  # the policy still equals the reference policy
    assert float(rows[2]["text/kl"]) != 0.0
    assert all(float(row["text/sampler_gap"]) < 1e-4 for row in rows)
    assert "held-out prompts" in out and "tensorboard --logdir" in out


def test_scores_are_those_of_the_reward_and_the_scaled_ones_those_that_are_maximized(any_finished):
    folder, out = any_finished
    with np.load(folder / run_folder.CHECKPOINTS / "000003" / "state.npz") as state:
        mean, std = (float(state[name]) for name in sorted(state.files) if name.startswith("score_scale"))
    assert f"scores of 32 responses before training: mean {mean:.4g}, standard deviation {std:.4g}, from " in out
    for row in rows_of(folder):
        raw, scaled, kl, coefficient = (
            float(row[f"text/{name}"]) for name in ("score_mean", "scaled_score_mean", "kl", "kl_coeff")
        )
        assert -1 <= raw <= 1 and 0 < float(row["text/score_std"]) < 1
        assert scaled == pytest.approx((raw - mean) / std, abs=1e-4)
        assert float(row["text/reward_mean"]) == pytest.approx(scaled - coefficient * kl, abs=1e-4)


@pytest.mark.parametrize("kl_in", ["reward", "loss"])
def test_the_reward_that_selects_the_best_checkpoint_has_the_penalty_for_a_missing_end(preset, tmp_path, kl_in):
    trainer = TextTrainer(tiny(tmp_path, preset, missing_end_penalty=2.0, kl_in=kl_in))
    metrics = {"schedule/kl_coeff": 0.1, "text/kl": 5.0, "text/scaled_score_mean": 4.0, "text/score_mean": 99.0}
    metrics |= {"text/eos_fraction": 0.75, "text/response_tokens_mean": 3.0}
    row = metrics_of(Iteration(0, metrics, 1.0, None), trainer.config.text)
    assert row[trainer.display.best] == pytest.approx(4.0 - 2.0 * 0.25 - 0.1 * 5.0)


@pytest.mark.slow
def test_the_reward_gets_the_prompts_of_the_task_and_long_ones_are_left_out(preset, tmp_path, capsys):
    prompts = ["A plot", "long " * 20, "A <|movie|> film", "It", "very long " * 20, "This  is", "Who", "The", "See"]
    splits = {"train": prompts, "validation": [], "test": prompts[:1]}
    asked = []

    def reward(responses, prompts):
        asked.append(prompts)
        return [float(len(response)) for response in responses]

    task = dataclasses.replace(get_task("length"), prompts=lambda split: splits[split], make_reward=lambda: reward)
    trainer = TextTrainer(tiny(tmp_path, preset, iterations=1, batch_size=4, prompt_length=12), task=task)
    list(trainer.iterations())
    assert capsys.readouterr().out.startswith("2 of 9 training prompts have more than 12 tokens and are left out\n")
    assert len(asked) == 5
    for (batch, lengths, _), texts in zip(prompt_dataset(*trainer.prompts[:2], 4, 2).take(4), asked, strict=False):
        assert set(texts) <= set(prompts)
        ids, expected = trainer.codec.encode(texts)
        np.testing.assert_array_equal(lengths, expected)
        np.testing.assert_array_equal(batch[:, : ids.shape[1]], ids)


@pytest.mark.slow
def test_scores_that_are_not_normalized_are_not_clipped(preset, tmp_path, capsys):
    config = tiny(tmp_path, preset, iterations=1, normalize_scores=False, score_clip=3.0)
    trainer = TextTrainer(config, reward=lambda prompts, responses: [50.0] * len(responses))
    ((_, row),) = trainer.iterations()
    assert row["text/score_mean"] == row["text/scaled_score_mean"] == 50.0
    lines = capsys.readouterr().out.splitlines()
    assert "score_clip 3 is not used, because normalize_scores is False" in lines and "scores of" not in "".join(lines)


def test_the_evaluation_has_the_numbers_of_the_design(finished):
    evaluation = json.loads((finished / run_folder.EVALUATION).read_text())
    assert evaluation["task"] == "length" and evaluation["seed"] == 1 and evaluation["prompts"] == 12
    assert set(evaluation["score"]["reference"]) == set(evaluation["score"]["policy"]) == {"mean", "std"}
    for name in ("judge", "distinct_2", "length", "domain", "perplexity", "within_one_word"):
        assert set(evaluation[name]) == {"reference", "policy"}, name
        assert all(np.isfinite(value) for value in evaluation[name].values())
    assert np.isfinite(evaluation["kl"]) and set(evaluation["seconds"]) >= {"import", "compile", "train", "total"}
    again = driver.evaluate(TEXT, finished, 12)[0]
    assert again["score"] == evaluation["score"] and again["kl"] == pytest.approx(evaluation["kl"], abs=1e-5)


@pytest.mark.slow
def test_an_untouched_policy_is_as_good_as_its_reference(preset, tmp_path):
    folder = run.train_text(tiny(tmp_path, preset, iterations=1, learning_rate=1e-30))
    evaluation = json.loads((folder / run_folder.EVALUATION).read_text())
    assert evaluation["kl"] == 0.0 and evaluation["gain"] == 0.0
    assert evaluation["perplexity"]["policy"] == evaluation["perplexity"]["reference"]


def test_samples_show_the_same_prompts_before_and_after(finished):
    samples = [json.loads(line) for line in (finished / run_folder.SAMPLES).read_text().splitlines()]
    by_iteration = {
        iteration: [row for row in samples if row["iteration"] == iteration]
        for iteration in dict.fromkeys(row["iteration"] for row in samples)
    }
    assert list(by_iteration) == [0, 2, 3]
    prompts = [row["prompt"] for row in by_iteration[0]]
    assert len(set(prompts)) == 8
    for rows in by_iteration.values():
        assert [row["prompt"] for row in rows] == prompts
        assert [row["reference"] for row in rows] == [row["reference"] for row in by_iteration[0]]
    assert all(row["policy"] == row["reference"] for row in by_iteration[0])  # the same noise, the same weights


def test_tensorboard_gets_scalars_tables_and_the_frontier(finished):
    events = EventAccumulator(str(finished), size_guidance={"tensors": 0, "images": 0}).Reload()
    tags = events.Tags()
    wanted = {name for name in METRICS if name.startswith("text/")} | {"time/tokens_per_s", "loss/policy", "loss/kl"}
    assert wanted <= set(tags["scalars"])
    assert [event.step for event in events.Scalars("text/kl")] == [0, 1, 2]
    assert tags["images"] == ["text/score_against_kl"]
    tables = [event.tensor_proto.string_val[0].decode() for event in events.Tensors("samples")]
    assert len(tables) == 3 and tables[0].startswith("| prompt | reference, with its score |")


def test_every_response_of_training_is_kept_with_its_numbers(finished):
    rows = list(read_rollouts(finished))
    assert [row["iteration"] for row in rows] == [0] * 8 + [1] * 8 + [2] * 8
    assert {row["prompt"] for row in rows} <= set(get_task("length").prompts("train"))
    assert [row["score"] for row in rows] == pytest.approx(length_reward()([], [row["response"] for row in rows]))
    scores, scaled = (np.array([row[name] for row in rows]) for name in ("score", "scaled_score"))
    slope, offset = np.polyfit(scores, scaled, 1)
    np.testing.assert_allclose(scaled, slope * scores + offset, atol=1e-5)
    assert slope > 1.1  # the scores of the reference policy differ by less than 1
    for iteration, metrics in enumerate(rows_of(finished)):
        of_iteration = [row for row in rows if row["iteration"] == iteration]
        assert np.mean([row["kl"] for row in of_iteration]) == pytest.approx(float(metrics["text/kl"]), abs=1e-6)
        assert np.mean([row["ended"] for row in of_iteration]) == float(metrics["text/eos_fraction"])


@pytest.mark.slow
def test_a_kl_above_stop_kl_ends_the_run(preset, tmp_path, capsys):
    clear = {"learning_rate": 0.05}  # the KL of few responses is an estimate, which can be below 0 after a small step
    folder = run.train_text(
        tiny(tmp_path, preset, iterations=4, stop_kl=1e-6, eval_prompts=0, save_rollouts=0, **clear)
    )
    rows = rows_of(folder)
    assert [row["iteration"] for row in rows] == ["0", "1"]  # the KL of the first iteration is 0
    kl = f"{float(rows[1]['text/kl']):.5g}"
    line = f"stopped after iteration 2 of 4: KL {kl} exceeds stop_kl 1e-06"
    assert [text for text in capsys.readouterr().out.splitlines() if text.startswith("stopped")] == [line]
    assert (folder / run_folder.CURVE).exists() and not (folder / "rollouts").exists()
    assert sorted(path.name for path in (folder / run_folder.CHECKPOINTS).iterdir()) == ["000001", "000002"]
    samples = [json.loads(line)["iteration"] for line in (folder / run_folder.SAMPLES).read_text().splitlines()]
    assert sorted(set(samples)) == [0, 2]
    before = (folder / run_folder.METRICS).read_bytes()
    driver.resume(TEXT, folder)  # only evaluates it again
    assert (folder / run_folder.METRICS).read_bytes() == before and line in capsys.readouterr().out


@pytest.mark.slow
def test_a_score_that_stays_at_target_score_ends_the_run_also_after_a_resume(preset, tmp_path, capsys):
    settings = {"iterations": 8, "target_score": -100.0, "sample_interval": 9}
    folder = run.train_text(tiny(tmp_path, preset, **settings))
    rows = rows_of(folder)
    mean = f"{np.mean([float(row['text/score_mean']) for row in rows]):.5g}"
    line = f"stopped after iteration 5 of 8: mean score {mean} of the last 5 iterations reaches target_score -100"
    assert len(rows) == 5 and line in capsys.readouterr().out
    evaluation = run_folder.read_evaluation(folder)
    for number in (4, 5):
        shutil.rmtree(folder / run_folder.CHECKPOINTS / f"{number:06d}")
    driver.resume(TEXT, folder)
    assert rows_of(folder) == rows and line in capsys.readouterr().out
    assert run_folder.read_evaluation(folder)["weights"] == evaluation["weights"]


def test_a_rollout_is_not_kept_until_the_next_one(preset, tmp_path, monkeypatch):
    metrics = {"schedule/kl_coeff": 0.1, "text/response_tokens_mean": 5.0, "text/score_mean": 1.0, "text/kl": 0.0}
    metrics |= {"text/scaled_score_mean": 1.0, "text/eos_fraction": 1.0}
    kept = []

    def made():
        rollout = type("Rollout", (), {})()
        kept.append(weakref.ref(rollout))
        return rollout

    monkeypatch.setattr(
        text_trainer, "train_iterations", lambda *_: (Iteration(number, metrics, 1.0, made()) for number in range(3))
    )
    for _ in text_trainer.TextTrainer(tiny(tmp_path, preset, normalize_scores=False)).iterations():
        assert kept[-1]() is None
    assert len(kept) == 3


@pytest.mark.slow
@pytest.mark.fault(
    "A reward function fails during a run", "The latest checkpoint stays. The resumed run ends with the same weights."
)
def test_a_run_whose_reward_fails_keeps_its_checkpoint_and_resumes_to_the_same_end(any_preset, any_finished, tmp_path):
    whole, calls = any_finished.folder, []

    def failing(prompts, responses):
        calls.append(len(responses))
        if len(calls) == 10:  # after two tables, four rollouts for the normalization, two iterations and a table
            raise KeyError("lost")
        return length_reward()(prompts, responses)

    task = dataclasses.replace(get_task("length"), make_reward=lambda: failing)
    with pytest.raises(UsageError, match="failing raised KeyError: 'lost'"):
        run.train_text(tiny(tmp_path / "cut", any_preset, eval_prompts=0), task=task)
    cut = tmp_path / "cut" / "length-seed1"
    assert [row["iteration"] for row in rows_of(cut)] == ["0", "1"]
    with (cut / run_folder.SAMPLES).open("a") as file:
        file.write('{"iteration": 1, "pro')  # as if the process was killed while it wrote a line
    with (cut / run_folder.ROLLOUTS).open("ab") as file:
        file.write(gzip.compress(b'{"iteration": 2')[:-9])
    assert [row["iteration"] for row in read_rollouts(cut)] == [0] * 8 + [1] * 8
    driver.resume(TEXT, cut, given={"task": get_task("length")})
    assert not (cut / run_folder.EVALUATION).exists()
    assert rows_of(cut) == rows_of(whole)
    for a, b in zip(weights_of(cut), weights_of(whole), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (cut / run_folder.SAMPLES).read_text() == (whole / run_folder.SAMPLES).read_text()
    assert (cut / run_folder.ROLLOUTS).read_bytes() == (whole / run_folder.ROLLOUTS).read_bytes()


@pytest.mark.slow
@pytest.mark.fault(
    "A reward function calls `sys.exit` or raises KeyboardInterrupt during a run",
    "`sys.exit` is a one-line error. KeyboardInterrupt stops the run like Ctrl-C, with a checkpoint.",
)
@pytest.mark.parametrize(
    ("call", "stop", "saved"),
    [
        (8, KeyboardInterrupt(), 1),  # after two tables, four rollouts for the normalization and one iteration
        pytest.param(4, KeyboardInterrupt(), None, marks=pytest.mark.slow),  # in a rollout for the normalization
        pytest.param(9, KeyboardInterrupt(), None, marks=pytest.mark.slow),  # in a table
        pytest.param(8, SystemExit(3), None, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_its_reward_stops_resumes_to_the_same_end(preset, finished, tmp_path, call, stop, saved):
    calls = []

    def stopping(prompts, responses):
        calls.append(len(responses))
        if len(calls) == call:
            raise stop
        return length_reward()(prompts, responses)

    task = dataclasses.replace(get_task("length"), make_reward=lambda: stopping)
    error = UsageError if isinstance(stop, SystemExit) else KeyboardInterrupt
    with pytest.raises(error) as caught:
        run.train_text(tiny(tmp_path / "cut", preset, eval_prompts=0, checkpoint_interval=9), task=task)
    cut = tmp_path / "cut" / "length-seed1"
    told = (
        "stopping raised SystemExit: 3" if error is UsageError else f"resume with: tfppo.resume({str(cut)!r}, task=...)"
    )
    assert told in str(caught.value)
    assert [int(path.name) for path in (cut / run_folder.CHECKPOINTS).glob("0*")] == ([saved] if saved else [])
    driver.resume(TEXT, cut, given={"task": get_task("length")})
    assert rows_of(cut) == rows_of(finished)
    for a, b in zip(weights_of(cut), weights_of(finished), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (cut / run_folder.SAMPLES).read_text() == (finished / run_folder.SAMPLES).read_text()


def test_a_reward_that_interrupts_has_the_exit_code_of_ctrl_c(preset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stopping.py").write_text("def stops(prompts, responses): raise KeyboardInterrupt\n")
    sizes = "--iterations 1 --batch-size 8 --minibatch-size 8 --eval-prompts 0 --name mine"
    assert main(["train", "text", "--preset", str(preset), "--reward", "stopping:stops", *sizes.split()]) == 130
    command = "tfppo resume runs/mine --reward stopping:stops"
    assert capsys.readouterr().err == f"tfppo: interrupted; resume with: {command}\n"


@pytest.mark.slow
def test_generate_goes_on_from_prompts(finished, capsys):
    assert main(["generate", str(finished), "--prompt", "This film", "--prompt", "It", "--samples", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("This film") for line in lines) == 2
    assert tfppo.generate(finished, ["It"], temperature=0.0) == tfppo.generate(
        finished, ["It"], temperature=0.0, seed=5
    )
    assert len(set(tfppo.generate(finished, ["It"], samples=6))) > 1
    assert len(tfppo.generate(finished, ["It"], top_k=3, top_p=0.9)) == 1


@pytest.mark.slow
def test_generate_uses_the_settings_of_the_run_unless_it_is_told_otherwise(finished, preset, monkeypatch):
    used = []

    class Spy(results.Responder):
        def __init__(self, model, codec, text, **settings):
            super().__init__(model, codec, text, **settings)
            used.append((settings["response_length"], settings["temperature"], text.temperature))

    monkeypatch.setattr(results, "Responder", Spy)
    responses = tfppo.generate(finished, ["It"], temperature=0.0, max_new_tokens=2)
    (whole,) = tfppo.generate(finished, ["It"], temperature=0.0)
    assert len(responses[0]) < len(whole) and whole.startswith(responses[0])
    assert main(["generate", str(finished), "--prompt", "It", "--max-new-tokens", "3", "--temperature", "0.5"]) == 0
    assert used == [(2, 0.0, 1.0), (6, 0.0, 1.0), (3, 0.5, 1.0)]
    used.clear()
    other = dataclasses.replace(tiny(finished.parent, preset).text, temperature=0.7)
    config = dataclasses.replace(run_folder.read_config(finished, TextRunConfig), text=other)
    monkeypatch.setattr(run_folder, "read_config", lambda *_: config)
    assert tfppo.generate(finished, ["It"], seed=3) == tfppo.generate(finished, ["It"], seed=3, temperature=0.7)
    assert used == [(6, None, 0.7), (6, 0.7, 0.7)]


@pytest.mark.fault("`--max-new-tokens` is more than the context has room for", "A one-line error.")
def test_new_tokens_above_the_context_are_refused(finished, capsys):
    command = ["generate", str(finished), "--prompt", "It", "--max-new-tokens"]
    for number, said in [
        ("64", "max_new_tokens is 64; it must be below the context of 64 tokens, which also holds the prompt"),
        ("63", "has 2 tokens; the context has room for 1 besides the response: shorten the prompt, or lower max_new"),
        ("0", "max_new_tokens is 0; it must be at least 1"),
    ]:
        assert main([*command, number]) == 2
        error = capsys.readouterr().err
        assert said in error and len(error.splitlines()) == 1
    assert main([*command, "62"]) == 0  # lowered, as the text advises
    with pytest.raises(UsageError, match="temperature is -1; it must be at least 0"):
        tfppo.generate(finished, ["It"], temperature=-1)
    for settings, said in (
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 95}, "top_p is 95"),
        ({"samples": 0}, "samples"),
    ):
        with pytest.raises(UsageError, match=said):
            tfppo.generate(finished, ["It"], **settings)


@pytest.mark.slow
@pytest.mark.fault(
    "A reward fails in the first iteration, and the run is started again under its name",
    "The new run replaces the folder, and a line says so.",
)
def test_a_run_that_failed_at_once_does_not_block_its_name(preset, tmp_path, capsys):
    def failing(prompts, responses):
        raise KeyError("lost")

    config, folder = tiny(tmp_path, preset, name="mine", iterations=1, eval_prompts=0), tmp_path / "mine"
    task = dataclasses.replace(get_task("length"), make_reward=lambda: failing)
    for _ in range(2):
        with pytest.raises(UsageError, match="raised KeyError"):
            run.train_text(config, task=task)
    assert capsys.readouterr().out.count(f"{folder} is replaced: ") == 1
    driver.resume(TEXT, folder, given={"task": get_task("length")})  # whose reward does not fail
    assert len(rows_of(folder)) == 1
    with pytest.raises(UsageError, match="mine exists"):
        run.train_text(config)


@pytest.mark.representatives(10)
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["generate", "RUN", "--prompt", " "], "row 0 of prompts is an empty prompt"),
        (["generate", "RUN"], "no prompt is given"),
        (
            ["generate", "RUN", "--prompt", "long " * 90],
            "room for 58 besides the response: shorten the prompt, or lower max",
        ),
        (["generate", "RUN", "--prompt", "It", "--top-p", "1.5"], "top_p"),
        (["generate", "elsewhere", "--prompt", "It"], "elsewhere is not the folder of a run"),
        (["train", "text", "--task", "nonsense"], "task is 'nonsense'"),
        (["train", "text", "--preset", "elsewhere"], "elsewhere is neither the folder of a preset nor the"),
        (["train", "text", "--preset", "PRESET", "--reward", "nowhere:f"], "nowhere"),
        (["train", "text", "--preset", "PRESET", "--reward", "rewards:breaks"], "breaks raised ValueError: oh"),
        (["train", "text", "--preset", "PRESET", "--reward", "rewards:short"], "returned 1 scores for"),
        (["train", "text", "--preset", "PRESET", "--reward", "rewards:exits"], "exits raised SystemExit: 3"),
        (["train", "text", "--preset", "PRESET", "--reward", "rewards:alone"], "alone has the parameters (r); it must"),
        (["train", "text", "--preset", "PRESET", "--reward", "rewards:nan"], "finite"),
        (["train", "text", "--preset", "PRESET", "--reward", "rewards:words"], "one number for each response"),
        (["train", "text", "--preset", "PRESET", "--response-length", "64"], "prompt_length is 1; the shortest"),
        (["train", "text", "--preset", "PRESET", "--prompt-length", "1"], "prompt_length is 1"),
        (["train", "text", "--batch-size", "10", "--minibatch-size", "4"], "batch_size = 10 is not a multiple"),
        (["train", "text", "--recompute-advantages", "True"], "recompute_advantages is True"),
    ],
)
def test_what_is_wrong_is_one_line(arguments, said, preset, finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rewards.py").write_text(
        "def breaks(p, r): raise ValueError('oh')\n"
        "def short(p, r): return [1.0]\n"
        "def exits(p, r): raise SystemExit(3)\n"
        "def alone(r): return [1.0] * len(r)\n"
        "def nan(p, r): return [float('nan')] * len(r)\n"
        "def words(p, r): return list(r)\n"
    )
    names = {"RUN": str(finished), "PRESET": str(preset)}
    few = (
        ["--iterations", "2", "--batch-size", "8", "--minibatch-size", "8", "--eval-prompts", "0"]
        if "PRESET" in arguments
        else []
    )
    assert main([names.get(argument, argument) for argument in arguments + few]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and error[0].startswith("tfppo: ") and said in error[0]


def test_a_reward_given_by_name_is_kept_by_this_name(preset, tmp_path):
    name = "tfppo.text.tasks.keywords:keyword_reward"
    trainer = TextTrainer(tiny(tmp_path, preset), reward=name)
    assert trainer.config.text.reward == name and trainer.reward(["a"], [" a plot"]) == [1 / 3]


def test_a_run_says_what_it_trains(preset, tmp_path):
    plain = text_trainer.TextTrainer(tiny(tmp_path, preset))
    assert re.match(
        r"task length \(respond in 8 words\), GPT2CausalLM of (\S+)M parameters \(\1M trained\)", plain.subject
    )
    config = tiny(tmp_path, preset, separate_critic=True, normalize_scores=False)
    other = text_trainer.TextTrainer(config, reward=length_reward())
    assert " with reward tfppo.text.tasks.length:" in other.subject and "M trained, with the critic)" in other.subject
    assert [t.display.columns["text/score_mean"] for t in (plain, other)] == ["score", "score"]


@pytest.mark.slow
def test_a_reward_given_in_python_is_found_again_or_refused(preset, tmp_path, monkeypatch):
    config = tiny(tmp_path, preset, iterations=1, eval_prompts=0)
    folder = run.train_text(config, reward=lambda prompts, responses: [0.0] * 8)
    assert "lambda" in run_folder.read_config(folder, TextRunConfig).text.reward
    with pytest.raises(UsageError, match="lambda"):
        driver.evaluate(TEXT, folder, 5)[0]


def test_an_error_in_a_model_is_no_error_of_a_file(preset, tmp_path, monkeypatch):
    """Nothing is sampled where errors of files are handled, so an error of the same type passes, too."""

    def respond(*_):
        raise tf.errors.NotFoundError(None, None, "Resource localhost/table does not exist")

    monkeypatch.setattr(text_trainer.Responder, "respond", respond)
    with pytest.raises(tf.errors.NotFoundError, match="Resource"):
        run.train_text(tiny(tmp_path, preset, iterations=1))


@pytest.mark.slow
def test_a_finished_run_is_not_trained_further(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "mine")
    before = weights_of(folder)
    driver.resume(TEXT, folder)
    for a, b in zip(weights_of(folder), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.fault(
    "Ctrl-C during the evaluation of a text run", "A line gives the command to resume, which evaluates again."
)
def test_ctrl_c_in_the_evaluation_says_how_to_go_on(preset, tmp_path, monkeypatch, heard_ctrl_c):
    monkeypatch.setattr(results, "compare", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt) as caught:
        run.train_text(tiny(tmp_path, preset, iterations=1))
    folder = tmp_path / "length-seed1"
    assert str(caught.value) == f"resume with: tfppo resume {folder}" and not (folder / run_folder.EVALUATION).exists()
    monkeypatch.undo()
    driver.resume(TEXT, folder)
    assert run_folder.read_evaluation(folder)["prompts"] == 12
