"""Trains `tfppo train control --env ID` with several seeds, and writes tables and pictures of the results.

The script runs the command line in a new process for each seed, one after the other. It writes to benchmarks/results:
control_ID.jsonl (evaluation.json of each seed), control_ID.md (a table of the seeds), control_ID.png (training returns)
and control.md (one row per environment with results). `--checkpoint N` evaluates the runs after N iterations, and adds
N to the file names. Arguments after `--` are passed to tfppo.

    python benchmarks/control_seeds.py --env Acrobot-v1 --seeds 1 2 3 4 5
    python benchmarks/control_seeds.py --env CartPole-v1 --seeds 1 2 3 --checkpoint 156
    python benchmarks/control_seeds.py --env CartPole-v1 --seeds 1 2 3 -- --learning-rate 5e-4
"""

import argparse
import csv
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tfppo.cli.seeds import interquartile_mean
from tfppo.cli.startup import import_tensorflow
from tfppo.reporting.curves import band_of, extremes, plot_bands
from tfppo.training.run_folder import folder_name

RESULTS = Path(__file__).parent / "results"
RETURN, STEPS, EPISODES = "rollout/episode_return_mean", "rollout/env_steps", "rollout/episodes"
WINDOW = 100  # number of training episodes in the mean return
GOALS = {
    "CartPole-v1": 475,
    "Acrobot-v1": -85,
    "Pendulum-v1": -200,
    "MountainCar-v0": -115,
    "MountainCarContinuous-v0": 90,
    "LunarLander-v3": 220,
    "MaskedCartPole-v0": 475,
    "HalfBlindCartPole-v0": 475,
}
PUBLISHED = {  # sources: rl-baselines3-zoo (benchmark.md) and CleanRL (docs/rl-algorithms/ppo.md)
    "CartPole-v1": "500 (rl-zoo), 490 +- 6 (CleanRL, 500,000 steps)",
    "Acrobot-v1": "-73.5 +- 18 (rl-zoo), -86 (CleanRL)",
    "Pendulum-v1": "-172 +- 104 (rl-zoo)",
    "MountainCar-v0": "-110 (rl-zoo), -200 (CleanRL)",
    "MountainCarContinuous-v0": "88.3 +- 2.6 (rl-zoo, 20,000 steps)",
    "LunarLander-v3": "242 +- 32 (rl-zoo, v2)",
    "HalfCheetah-v5": "1443 (CleanRL, v4)",
    "Hopper-v5": "2383 (CleanRL, v4)",
}


def train(job: list[str], seed: int, runs: Path, checkpoint: int | None = None) -> tuple[dict, dict[str, list[float]]]:
    """Trains one seed, unless a finished run exists.

    Returns:
      The contents of its evaluation.json, and columns of its metrics.csv. They are those of the whole run, or of its
      first `checkpoint` iterations.
    """
    if checkpoint:
        job = [*job, "--checkpoint-interval", str(checkpoint), "--keep-checkpoints", "1000"]
    name = f"{folder_name(job[2] if job[0] == 'control' else job[0])}-seed{seed}"
    command = ["tfppo", "train", *job, "--seed", str(seed)]
    if not (runs / name / "evaluation.json").exists():
        options = [*command[1:], "--name", name, "--runs-dir", str(runs)]
        if subprocess.run([sys.executable, "-m", "tfppo", *options], stdout=subprocess.DEVNULL).returncode:
            raise SystemExit(f"seed {seed} was not trained to the end: resume the run, or delete {runs / name}")
    evaluation = json.loads((runs / name / "evaluation.json").read_text())
    with (runs / name / "metrics.csv").open(newline="") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    if checkpoint:
        rows = rows[:checkpoint]
        evaluation |= evaluate(runs / name, evaluation["episodes"], str(checkpoint), evaluation["env"])
        evaluation |= {"env_steps": int(rows[-1][STEPS]), "checkpoint": checkpoint}
    rows = [row for row in rows if row[EPISODES]]  # there is no return before the first episode ends
    goal = goal_of(evaluation, np.inf)
    reached = (int(row[STEPS]) for row in rows if row[EPISODES] >= WINDOW and row[RETURN] >= goal)
    evaluation |= {"goal_at": next(reached, None), "command": " ".join(command)}
    return evaluation, {column: [row[column] for row in rows] for column in (STEPS, RETURN)}


def goal_of(evaluation: dict, otherwise: float | None = None) -> float | None:
    """Returns the mean return at which an environment counts as solved, also for the id `module:ID`."""
    return GOALS.get(evaluation["env"].rpartition(":")[2], otherwise)


def evaluate(folder: Path, episodes: int, checkpoint: str, env: str) -> dict:
    """Evaluates a checkpoint as `tfppo evaluate` does."""
    import_tensorflow()
    from tfppo.control.trainer import CONTROL
    from tfppo.training import driver

    return driver.evaluate(CONTROL, folder, episodes, checkpoint=checkpoint, given={"env": env})[0]


def over_seeds(evaluations: list[dict]) -> dict[str, str]:
    """Returns statistics over the seeds as texts."""
    means = [e["mean"] for e in evaluations]
    spread = f" +- {np.std(means, ddof=1):.1f}" if len(means) > 1 else ""
    return {
        "greedy": f"{np.mean(means):.1f}{spread}",
        "iqm": f"{interquartile_mean(means):.1f}",
        "stochastic": f"{np.mean([e['stochastic']['mean'] for e in evaluations]):.1f}",
    }


def write_table(evaluations: list[dict], command: str, path: Path) -> None:
    """Writes control_ID.md."""
    first, goal = evaluations[0], goal_of(evaluations[0])
    whose = "" if ":" in first["env"] else "Gymnasium's "
    lines = [
        f"# {first['env']}, seed by seed",
        "",
        f"`{command}`",
        "",
        f"Each seed is trained by `{_trained_by(first)} --seed s` in a separate process.",
        f"Mean, std, min and max are over the greedy returns of {first['episodes']} episodes of {whose}{first['env']}.",
        f"Stochastic is the mean return of {first['stochastic']['episodes']} episodes with sampled actions, as in "
        "training. Seconds are those",
        "of the whole process. Other programs ran on the machine, so they do not measure the speed.",
    ]
    if "checkpoint" in first:
        lines += [f"The evaluation uses the checkpoint after {first['checkpoint']} iterations."]
    header = ["seed", "mean", "std", "min", "max", "stochastic", "environment steps", "seconds"]
    if goal is not None:
        lines += [
            f"Training at {goal}: environment steps until the mean of the latest {WINDOW} training episodes was at "
            f"least {goal}."
        ]
        header.insert(-1, f"training at {goal}")
    # docs/results/ includes the table between the two marks.
    lines += ["", "<!-- table -->", "", f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for e in evaluations:
        cells = [str(e["seed"]), *(f"{e[column]:.1f}" for column in ("mean", "std", "min", "max"))]
        cells += [f"{e['stochastic']['mean']:.1f}", f"{e['env_steps']:,}", f"{e['seconds']['total']:.0f}"]
        if goal is not None:
            cells.insert(-1, "never" if e["goal_at"] is None else f"{e['goal_at']:,}")
        lines.append(f"| {' | '.join(cells)} |")
    shared = over_seeds(evaluations)
    lines += [
        "",
        "<!-- table ends -->",
        "",
        f"Over the means of {len(evaluations)} seeds, +- sample standard deviation (n - 1):",
        f"greedy {shared['greedy']}, interquartile mean {shared['iqm']} (Agarwal et al. 2021), stochastic "
        f"{shared['stochastic']}.",
    ]
    path.write_text("\n".join(lines) + "\n")


def _trained_by(evaluation: dict) -> str:
    return evaluation["command"].removesuffix(f" --seed {evaluation['seed']}")


def draw(evaluations: list[dict], curves: list[dict[str, list[float]]], path: Path) -> None:
    """Plots the mean of the seeds' training returns, with a band from the lowest to the highest seed."""
    band = band_of([(columns[STEPS], columns[RETURN]) for columns in curves], kind=extremes)
    plot_bands({RETURN: [band]}, path, STEPS, f"{evaluations[0]['env']}, training", goal_of(evaluations[0]))


def write_summary(folder: Path) -> None:
    """Writes control.md from the evaluations in the folder."""
    lines = [
        "# Results of control",
        "",
        "`python benchmarks/control_seeds.py` writes this table from the .jsonl files in this folder. The",
        "linked tables have the commands.",
        "",
        "- greedy: mean +- sample standard deviation (n - 1) over seeds. The value of a seed is its mean return over",
        "  episodes of Gymnasium's environment.",
        "- IQM: interquartile mean over seeds (Agarwal et al. 2021).",
        "- stochastic: the mean with sampled actions, as in training.",
        "- goal reached: number of seeds with a greedy mean of at least the goal.",
        "- published: results of rl-baselines3-zoo, mean +- standard deviation over the episodes of one run, and of",
        "  CleanRL, over seeds. Their settings may differ.",
        "",
        "| environment | command | steps | seeds | greedy | IQM | stochastic | goal | goal reached | published |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for path in [*folder.glob("cartpole_seeds.jsonl"), *sorted(folder.glob("control_*.jsonl"))]:
        evaluations = [json.loads(line) for line in path.read_text().splitlines()]
        env, shared = evaluations[0]["env"], over_seeds(evaluations)
        goal, steps = goal_of(evaluations[0]), np.mean([e["env_steps"] for e in evaluations])
        label = f"{env}, checkpoint {evaluations[0]['checkpoint']}" if "checkpoint" in evaluations[0] else env
        cells = [
            f"[{label}]({path.stem}.md)",
            f"`{_trained_by(evaluations[0])}`",
            f"{steps:,.0f}",
            str(len(evaluations)),
        ]
        cells += [shared["greedy"], shared["iqm"], shared["stochastic"]]
        cells += ["-", "-"] if goal is None else [str(goal), str(sum(e["mean"] >= goal for e in evaluations))]
        lines.append(f"| {' | '.join([*cells, PUBLISHED.get(env, '-')])} |")
    (folder / "control.md").write_text("\n".join(lines) + "\n")


def main(job: list[str] | None = None, name: str | None = None) -> None:
    """Trains all seeds and writes the results.

    Args:
      job: Arguments of `tfppo train`. None: control, with the environment of --env.
      name: Name of the files. None: control_ID.
    """
    cut = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    own, options = sys.argv[1:cut], sys.argv[cut + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    if job is None:
        parser.add_argument("--env", required=True, help="Gymnasium id of the environment")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--checkpoint", type=int, metavar="N", help="evaluate the runs after N iterations")
    parser.add_argument("--runs-dir", type=Path, help="folder that keeps the runs; finished runs in it are used")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the tables and pictures")
    arguments = parser.parse_args(own)
    command = ["python", f"benchmarks/{Path(sys.argv[0]).name}"]
    if job is None:
        job, name = ["control", "--env", arguments.env], f"control_{folder_name(arguments.env)}"
        command += job[1:]
    command += ["--seeds", *map(str, arguments.seeds)]
    if arguments.checkpoint:
        name = f"{name}_checkpoint{arguments.checkpoint}"
        command += ["--checkpoint", str(arguments.checkpoint)]
    command += ["--", *options] if options else []
    evaluations, curves = [], []
    with tempfile.TemporaryDirectory() as temporary:
        for seed in arguments.seeds:
            runs = arguments.runs_dir or Path(temporary)
            evaluation, columns = train([*job, *options], seed, runs, arguments.checkpoint)
            print(json.dumps(evaluation), flush=True)
            evaluations.append(evaluation)
            curves.append(columns)
    lines = "".join(json.dumps(evaluation) + "\n" for evaluation in evaluations)
    (arguments.results / f"{name}.jsonl").write_text(lines)
    write_table(evaluations, shlex.join(command), arguments.results / f"{name}.md")
    draw(evaluations, curves, arguments.results / f"{name}.png")
    write_summary(arguments.results)


if __name__ == "__main__":
    main()
