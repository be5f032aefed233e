"""The examples, and the Python in README.md, run as they stand."""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_documents_example_learns(capsys):
    main = runpy.run_path(str(ROOT / "examples" / "document_cartpole.py"))["main"]
    assert main() >= 95
    assert "of 100" in capsys.readouterr().out


def test_the_readme_example_learns(tmp_path, monkeypatch, capsys):
    code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    assert len(code.strip().splitlines()) <= 12
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    last = capsys.readouterr().out.strip().splitlines()[-1].split()
    assert float(last[1]) >= 475
    assert (tmp_path / "actor.keras").exists()
