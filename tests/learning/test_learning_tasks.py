"""Tests that PPO improves two tasks beyond what supervised fine-tuning on their examples reaches."""

import pytest
from support.run_files import evaluation_of

import tfppo
from tfppo.text.tasks import get_task


@pytest.mark.slow
@pytest.mark.parametrize(("name", "gain"), [("finance", 0.05), ("support", 0.2)])
def test_ppo_gains_over_examples(name, gain, tmp_path):
    """The gains of docs/results/tasks.md are more than twice as large."""
    base = tfppo.sft(task=name, runs_dir=tmp_path)
    settings = {**get_task(name).defaults, "preset": base / "preset", "runs_dir": tmp_path, "eval_prompts": 400}
    found = evaluation_of(tfppo.train_text(tfppo.make_text_config(task=name, **settings)))[get_task(name).metric]
    assert found["policy"] >= found["reference"] + gain
