"""Tests the output and the errors of `tfppo bench`."""

import pytest
from rich.console import Console

from tfppo import cli
from tfppo.cli import bench as command
from tfppo.control import bench
from tfppo.control.bench import Comparison, Measurement, describe

CELLS = [("rollout", "xla", 9.0), ("rollout", "graph", 1.0), ("update", "xla", 2.0), ("update", "graph", 4.0)]


def comparison(auto, *more):
    measurements = (Measurement(phase, mode, 1.5, (0.5, each, 12.0)) for phase, mode, each in (*CELLS, *more))
    return Comparison(tuple(measurements), 10, "/CPU:0", auto)


@pytest.fixture
def asked(monkeypatch):
    """Replaces the measurements by fixed values."""
    calls = []

    def note(config, modes, repetitions, progress):
        calls.append((config, modes, repetitions))
        return comparison({"rollout": "graph", "update": "graph"})

    monkeypatch.setattr(bench, "compare_modes", note)
    return calls


@pytest.mark.slow  # it compiles six programs
def test_it_prints_a_table_and_a_sentence_and_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny = "--num-envs 4 --rollout-length 8 --total-steps 64 --minibatch-size 16 --hidden-units 8 --device cpu"
    assert cli.main(["bench", "--compile", *tiny.split(), "--repetitions", "1"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert [row[:2] for row in rows] == [[p, m] for p in ("rollout", "update", "fused") for m in ("xla", "graph")]
    assert [row[-1] for row in rows] == ["", "chosen", "", "chosen", "", ""]
    assert "2 iterations on CPU" in out and "auto chooses graph (rollout) and graph (update): " in out
    assert list(tmp_path.iterdir()) == []


def test_the_table_has_seconds_and_milliseconds(asked, capsys):
    assert cli.main(["bench"]) == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if "update" in line and "xla" in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]] == [
        *("update", "xla", "0.00", "2,000", "500 - 12,000", "20.0", "")
    ]


def test_the_environments_recipe_and_the_options_reach_it(asked):
    options = ["--compile", "--repetitions", "3", "--eager", "True", "--seed", "7"]
    assert cli.main(["bench", "--env", "Acrobot-v1", *options]) == 0
    assert cli.main(["bench"]) == 0
    (acrobot, modes, repetitions), (plain, usual_modes, usual_repetitions) = asked
    assert (acrobot.control.num_envs, acrobot.ppo.gae_lambda, acrobot.run.seed) == (16, 0.94, 7)
    assert (modes, repetitions) == (("xla", "graph", "eager"), 3)
    assert (plain.control.env, plain.control.num_envs) == ("CartPole-v1", 8)
    assert (usual_modes, usual_repetitions) == (("xla", "graph"), 10)


def test_programs_that_were_kept_are_not_read(asked, monkeypatch):
    options = []
    monkeypatch.setattr(command, "import_tensorflow", lambda *onednn, **given: options.append((onednn, given)))
    assert cli.main(["bench"]) == 0
    assert options == [((None,), {"keep_programs": False})]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--repetitions", "0"], "repetitions is 0; it must be at least 1"),
        (["--seeds", "1,2,3"], "--seeds, 1,2,3; perhaps you meant --seed; help: "),
        (["--minibatch-size", "7"], "is not a multiple of minibatch_size = 7"),
        (["--backend", "gymnasium", "--fused", "True"], "fused needs an in-graph environment"),
        (["--env", "Nothing-v0"], "Nothing"),
    ],
)
def test_mistakes_are_one_line(options, complaint, capsys):
    assert cli.main(["bench", *options]) == 2
    out, err = capsys.readouterr()
    assert out == "" and complaint in err
    assert err.startswith("tfppo: ") and len(err.splitlines()) == 1


APART = {"rollout": "graph", "update": "graph"}


def test_the_sentence_names_the_options_that_would_have_been_fastest():
    assert describe(comparison(APART)) == (
        "auto chooses graph (rollout) and graph (update): 50.5 s for the iterations of the run; "
        "the fastest is graph (rollout) and xla (update): 30.5 s, with --compile-rollout graph --compile-update xla"
    )
    assert describe(comparison(APART, ("fused", "xla", 1.0))).endswith(
        "the fastest is xla (fused): 10.5 s, with --fused True --compile-update xla"
    )
    assert describe(comparison({"fused": "xla"}, ("fused", "xla", 9.0))).endswith(
        "30.5 s, with --fused False --compile-rollout graph --compile-update xla"
    )
    fused = comparison({"fused": "graph"}, ("fused", "xla", 1.0), ("fused", "graph", 2.0))
    assert describe(fused).endswith("the fastest is xla (fused): 10.5 s, with --compile-update xla")
    assert describe(comparison({"rollout": "graph", "update": "xla"})) == (
        "auto chooses graph (rollout) and xla (update): 30.5 s for the iterations of the run; "
        "it is the fastest choice measured"
    )


def test_the_sentence_can_be_copied_whatever_the_terminals_width(asked, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert Console().width == 60
    assert cli.main(["bench"]) == 0
    assert "--compile-rollout graph --compile-update xla" in capsys.readouterr().out.splitlines()[-1]
