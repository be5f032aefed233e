"""The examples, and the Python in README.md, run as they stand."""

import json
import re
import runpy
from pathlib import Path

from tfppo.text.tasks import task

ROOT = Path(__file__).parent.parent


def test_the_documents_example_learns(capsys):
    main = runpy.run_path(str(ROOT / "examples" / "document_cartpole.py"))["main"]
    assert main() >= 95
    assert "of 100" in capsys.readouterr().out


TINY = {"iterations": 2, "batch_size": 8, "minibatch_size": 8, "response_length": 6, "eval_prompts": 6}


def test_the_text_example_runs(preset, tmp_path, capsys):
    main = runpy.run_path(str(ROOT / "examples" / "text_reward.py"))["main"]
    main(**TINY, preset=preset, runs_dir=tmp_path)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["iteration"] == 2 and set(last) >= {"prompt", "reference", "policy"}
    assert (tmp_path / "questions" / "evaluation.json").exists()


def test_the_task_of_the_readme_runs(preset, tmp_path, monkeypatch):
    (code,) = [code for code in python_of_the_readme() if "register_task" in code]
    assert len([line for line in code.splitlines() if line]) <= 15
    small = code.replace("iterations=50", "**tiny")
    assert small != code
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(task, "_TASKS", dict(task._TASKS))  # it stays registered here only
    exec(compile(small, "README.md", "exec"), {"tiny": TINY | {"preset": preset}})
    assert (tmp_path / "runs" / "short-words-seed1" / "evaluation.json").exists()


def python_of_the_readme():
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_the_environment_of_the_readme_learns(capsys):
    (code,) = [code for code in python_of_the_readme() if "register_environment" in code]
    assert len(code.strip().splitlines()) <= 40
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    assert float(capsys.readouterr().out.strip().splitlines()[-1]) >= 0.95


def test_the_readme_example_learns(tmp_path, monkeypatch, capsys):
    code = python_of_the_readme()[0]
    assert len(code.strip().splitlines()) <= 12
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    last = capsys.readouterr().out.strip().splitlines()[-1].split()
    assert float(last[1]) >= 475
    assert (tmp_path / "actor.keras").exists()
