"""benchmarks/control_seeds.py: what it says of runs whose results are known."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
STEPS, EPISODES, RETURN = "rollout/env_steps", "rollout/episodes", "rollout/episode_return_mean"


@pytest.fixture(scope="module")
def control_seeds():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import control_seeds

        yield control_seeds
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def write_run(tmp_path):
    """A finished run of Acrobot-v1, whose goal is -85, as `tfppo train control` leaves it."""

    def write_run(seed, mean, rows=((100, 0, "nan"), (200, 60, -80), (300, 120, -90), (400, 180, -84))):
        folder = tmp_path / "runs" / f"Acrobot-v1-seed{seed}"
        folder.mkdir(parents=True)
        returns = {"mean": mean, "std": 2.0, "min": mean - 3, "max": mean + 3}
        evaluation = {"env": "Acrobot-v1", "seed": seed, "episodes": 100, **returns, "env_steps": 400 + seed}
        evaluation |= {"stochastic": {"episodes": 100, **returns, "mean": mean - 1}, "seconds": {"total": 12.3}}
        (folder / "evaluation.json").write_text(json.dumps(evaluation))
        lines = [[STEPS, EPISODES, RETURN], *rows]
        (folder / "metrics.csv").write_text("\n".join(",".join(map(str, line)) for line in lines))

    return write_run


@pytest.fixture
def results(control_seeds, write_run, tmp_path, monkeypatch):
    """The files that four such runs give, of which the last one never reaches the goal in training."""
    for seed, mean in enumerate((-80, -70, -90), start=1):
        write_run(seed, mean)
    write_run(4, -200, rows=((100, 200, -400), (300, 300, -200)))
    seeds = ["--seeds", "1", "2", "3", "4"]
    folders = ["--runs-dir", str(tmp_path / "runs"), "--results", str(tmp_path)]
    options = ["--", "--learning-rate", "0.001"]
    monkeypatch.setattr(sys, "argv", ["control_seeds.py", "--env", "Acrobot-v1", *seeds, *folders, *options])
    control_seeds.main()
    return tmp_path


def test_the_table_has_the_command_every_seed_and_what_they_have_in_common(results):
    table = (results / "control_Acrobot-v1.md").read_text()
    command = "python benchmarks/control_seeds.py --env Acrobot-v1 --seeds 1 2 3 4 -- --learning-rate 0.001"
    assert f"`{command}`" in table
    assert "`tfppo train control --env Acrobot-v1 --learning-rate 0.001 --seed s`" in table
    assert "| 1 | -80.0 | 2.0 | -83.0 | -77.0 | -81.0 | 401 | 400 | 12 |" in table
    assert "| 4 | -200.0 | 2.0 | -203.0 | -197.0 | -201.0 | 404 | never | 12 |" in table
    assert "+- sample standard deviation (n - 1):\ngreedy -110.0 +- 60.6, interquartile mean -85.0" in table
    assert table.endswith("(Agarwal et al. 2021), stochastic -111.0.\n")


def test_a_checkpoint_is_judged_instead_of_the_end(control_seeds, write_run, tmp_path, monkeypatch):
    """Its steps and training returns are those up to it; the command says what was done."""
    write_run(1, -80)
    judged = {"mean": -120.0, "std": 1.0, "min": -125.0, "max": -110.0, "stochastic": {"episodes": 100, "mean": -130.0}}

    def evaluate(folder, episodes, checkpoint, env):
        assert (folder.name, episodes, checkpoint, env) == ("Acrobot-v1-seed1", 100, "2", "Acrobot-v1")
        return judged

    monkeypatch.setattr(control_seeds, "evaluate", evaluate)
    evaluation, columns = control_seeds.train(["control", "--env", "Acrobot-v1"], 1, tmp_path / "runs", checkpoint=2)
    assert evaluation["mean"] == -120.0 and evaluation["stochastic"]["mean"] == -130.0
    assert evaluation["env_steps"] == 200 and evaluation["goal_at"] is None
    assert columns == {STEPS: [200.0], RETURN: [-80.0]}
    assert "--checkpoint-interval 2 --keep-checkpoints 1000" in evaluation["command"]


def test_the_picture_is_drawn(results):
    assert (results / "control_Acrobot-v1.png").stat().st_size > 10_000


def test_the_picture_shows_the_mean_the_extremes_and_the_goal(control_seeds, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: figures.append((figure, path)))
    curves = [{STEPS: [100.0, 300.0], RETURN: [start, 0.0]} for start in (-300.0, -100.0, -50.0)]
    control_seeds.draw([{"env": "Acrobot-v1"}], curves, tmp_path / "picture.png")
    ((figure, path),) = figures
    (axes,) = figure.axes
    mean, goal = axes.lines
    (band,) = axes.collections
    assert path == tmp_path / "picture.png" and "Acrobot-v1" in axes.get_title()
    np.testing.assert_allclose(mean.get_xydata(), [[100, -150], [300, 0]])
    np.testing.assert_array_equal(goal.get_ydata(), [-85, -85])
    corners = band.get_paths()[0].vertices
    assert set(corners[corners[:, 0] == 100, 1]) == {-300.0, -50.0}
    assert "mean, lowest and highest of 3 runs" in axes.get_legend().get_texts()[0].get_text()


def test_the_summary_has_a_row_for_every_environment_that_has_results(results, control_seeds):
    evaluation = json.loads((results / "control_Acrobot-v1.jsonl").read_text().splitlines()[0])
    other = evaluation | {"env": "Other-v0", "command": "tfppo train cartpole --seed 1"}
    (results / "cartpole_seeds.jsonl").write_text(json.dumps(other))
    control_seeds.write_summary(results)
    first, second = (results / "control.md").read_text().splitlines()[-2:]
    cells = ["[Other-v0](cartpole_seeds.md)", "`tfppo train cartpole`", "401", "1", "-80.0", "-80.0", "-81.0"]
    assert first == f"| {' | '.join(cells)} | - | - | - |"
    trained_by = "`tfppo train control --env Acrobot-v1 --learning-rate 0.001`"
    figures = "402 | 4 | -110.0 +- 60.6 | -85.0 | -111.0 | -85 | 2 | -73.5 +- 18 (rl-zoo), -86 (CleanRL)"
    assert second == f"| [Acrobot-v1](control_Acrobot-v1.md) | {trained_by} | {figures} |"


@pytest.mark.parametrize(
    ("values", "expected"), [([3.0], 3), ([1, 5], 3), ([9, 1, 2, 3], 2.5), ([100, 1, 2, 3, -100], 2), (range(10), 4.5)]
)
def test_the_interquartile_mean_leaves_a_quarter_out_at_either_end(values, expected, control_seeds):
    assert control_seeds.interquartile_mean(list(values)) == pytest.approx(expected)


def test_a_run_that_breaks_is_named_and_nothing_is_written(control_seeds, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: subprocess.CompletedProcess(args, 2))
    folders = ["--runs-dir", str(tmp_path), "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["control_seeds.py", "--env", "Acrobot-v1", "--seeds", "7", *folders])
    with pytest.raises(SystemExit, match=f"seed 7 .* delete {tmp_path}/Acrobot-v1-seed7"):
        control_seeds.main()
    assert list(tmp_path.iterdir()) == []


def test_a_seed_is_trained_in_a_process_of_its_own(control_seeds, write_run, tmp_path, monkeypatch):
    commands = []

    def run(command, **options):
        commands.append(command)
        write_run(7, -70)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    job = ["control", "--env", "Acrobot-v1", "--num-envs", "4"]
    evaluation, curve = control_seeds.train(job, 7, tmp_path / "runs")
    options = ["--seed", "7", "--name", "Acrobot-v1-seed7", "--runs-dir", str(tmp_path / "runs")]
    assert commands == [[sys.executable, "-m", "tfppo", "train", *job, *options]]
    assert evaluation["command"] == "tfppo train control --env Acrobot-v1 --num-envs 4 --seed 7"
    assert evaluation["goal_at"] == 400 and curve[STEPS] == [200, 300, 400]
