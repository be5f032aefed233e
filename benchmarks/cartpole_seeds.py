"""`make train-cartpole` for several seeds: the table and the picture of README.md.

Runs the command line in a fresh process for each seed, and writes cartpole_seeds.md (greedy returns on gymnasium's
CartPole-v1) and cartpole_seeds.png (training returns) into benchmarks/results.

    python benchmarks/cartpole_seeds.py --seeds 1 2 3 4 5 6 7 8 9 10
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
RETURN, STEPS, TARGET = "rollout/episode_return_mean", "rollout/env_steps", 475


def train(seed: int, runs: Path) -> dict:
    """Trains one seed; returns its evaluation.json and its metrics."""
    name = f"seed{seed}"
    command = [sys.executable, "-m", "tfppo", "train", "cartpole", "--seed", str(seed)]
    subprocess.run([*command, "--name", name, "--runs-dir", str(runs)], check=True, stdout=subprocess.DEVNULL)
    evaluation = json.loads((runs / name / "evaluation.json").read_text())
    with (runs / name / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    evaluation["steps"] = [float(row[STEPS]) for row in rows]
    evaluation["returns"] = [float(row[RETURN]) for row in rows]
    solved = (s for s, r in zip(evaluation["steps"], evaluation["returns"], strict=True) if r >= TARGET)
    evaluation["solved_at"] = int(next(solved))
    return evaluation


def write_table(evaluations: list[dict], path: Path) -> None:
    lines = [
        "# make train-cartpole, seed by seed",
        "",
        f"`python benchmarks/cartpole_seeds.py --seeds {' '.join(str(e['seed']) for e in evaluations)}` "
        "(each is `make train-cartpole SEED=s`). Greedy return over 100 episodes of gymnasium's CartPole-v1;",
        f"solved: environment steps until the mean return of the latest 100 training episodes reaches {TARGET}; "
        "seconds of the whole process on two CPU cores.",
        "",
        "| seed | mean | std | min | max | environment steps | solved | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for e in evaluations:
        returns = f"{e['mean']:.1f} | {e['std']:.1f} | {e['min']:g} | {e['max']:g}"
        lines.append(
            f"| {e['seed']} | {returns} | {e['env_steps']:,} | {e['solved_at']:,} | {e['seconds']['total']:.1f} |"
        )
    path.write_text("\n".join(lines) + "\n")


def draw(evaluations: list[dict], path: Path) -> None:
    figure = Figure(figsize=(7, 3.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for e in evaluations:
        axes.plot([s / 1000 for s in e["steps"]], e["returns"], color="#e8710a", alpha=0.55, linewidth=1.2)
    axes.axhline(TARGET, color="#888888", linewidth=1, linestyle="--")
    axes.set_xlabel("environment steps (thousands)")
    axes.set_ylabel("mean return of 100 episodes")
    axes.set_title(f"CartPole-v1, training, seeds {evaluations[0]['seed']} to {evaluations[-1]['seed']}")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(1, 11)))
    seeds = parser.parse_args().seeds
    evaluations = []
    with tempfile.TemporaryDirectory() as runs:
        for seed in seeds:
            evaluations.append(train(seed, Path(runs)))
            print(json.dumps({k: v for k, v in evaluations[-1].items() if k not in ("steps", "returns")}), flush=True)
    write_table(evaluations, RESULTS / "cartpole_seeds.md")
    draw(evaluations, RESULTS / "cartpole_seeds.png")


if __name__ == "__main__":
    main()
