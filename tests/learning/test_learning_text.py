"""Tests that tuning the included language model reaches the target of each task."""

import json
import re

import pytest

from tfppo import make_text_config, train_text
from tfppo.text.tasks import get_task


def evaluation_of(task, seed, folder):
    settings = {"task": task, "seed": seed, "runs_dir": folder, **get_task(task).defaults}
    return json.loads((train_text(make_text_config(**settings)) / "evaluation.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("task", ["length", "keywords"])
def test_a_task_reaches_its_target(task, seed, tmp_path):
    evaluation = evaluation_of(task, seed, tmp_path)
    assert evaluation[get_task(task).metric]["policy"] >= get_task(task).target


@pytest.mark.slow
def test_film_reviews_become_friendly_without_cheating(tmp_path):
    e = evaluation_of("sentiment", 1, tmp_path)
    assert e["gain"] >= 1.9 and e["kl"] <= 12  # docs/results/text.md: 1.91 to 2.09
    assert e["judge"]["policy"] - e["judge"]["reference"] >= 0.3
    for name, share in {"distinct_2": 0.85, "length": 0.8, "domain": 0.9}.items():
        assert e[name]["policy"] >= share * e[name]["reference"], name


def says_love(prompts, responses):
    """Scores 1 for the word, which about 3 % of the reference's responses have, and 0 otherwise."""
    return [float("love" in re.findall(r"[a-z']+", response.lower())) for response in responses]


@pytest.mark.slow
def test_a_rare_reward_of_0_or_1_is_learned_with_the_defaults(tmp_path):
    settings = {"iterations": 40, "response_length": 16, "eval_prompts": 100, "sample_interval": 40}  # a short run
    folder = train_text(make_text_config(runs_dir=tmp_path, **settings), reward=says_love)
    score = json.loads((folder / "evaluation.json").read_text())["score"]
    assert score["reference"]["mean"] <= 0.05 and score["policy"]["mean"] >= 0.5
