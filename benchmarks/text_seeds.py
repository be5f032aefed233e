"""Trains `make train-textgen` with several seeds, and writes the table, the curves and the samples of README.md.

The script runs the command line in a new process for each seed. It writes to benchmarks/results, for task T: text_T.md
(policy and reference on 200 held-out prompts, and the unselected samples of the first seed) and text_T.png (score and
KL to the reference over the iterations).

    python benchmarks/text_seeds.py --task sentiment --seeds 1 2 3
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

from tfppo.cli.startup import import_tensorflow

RESULTS = Path(__file__).parent / "results"
SCORE, KL = "text/scaled_score_mean", "text/kl"  # the unit is a standard deviation of the reference's scores
SHOWN = {
    "score": "score",
    "judge": "VADER compound",
    "distinct_2": "distinct-2",
    "length": "words",
    "domain": "judged movie",
    "perplexity": "perplexity",
}


def train(task: str, seed: int, runs: Path) -> dict:
    """Tunes with one seed, unless a finished run exists.

    Returns:
      The contents of its evaluation.json, with its metrics and its last samples.
    """
    name = f"{task}-seed{seed}"
    command = [sys.executable, "-m", "tfppo", "train", "text", "--task", task, "--seed", str(seed)]
    if not (runs / name / "evaluation.json").exists():
        command += ["--name", name, "--runs-dir", str(runs)]
        if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:  # the process has printed the reason
            raise SystemExit(f"seed {seed} was not tuned to the end: resume the run, or delete {runs / name}")
    evaluation = json.loads((runs / name / "evaluation.json").read_text())
    with (runs / name / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    evaluation["curves"] = {column: [float(row[column]) for row in rows] for column in (SCORE, KL)}
    samples = [json.loads(line) for line in (runs / name / "samples.jsonl").read_text().splitlines()]
    evaluation["samples"] = [row for row in samples if row["iteration"] == samples[-1]["iteration"]]
    return evaluation


def write_table(task: str, evaluations: list[dict], path: Path) -> None:
    seeds = " ".join(str(e["seed"]) for e in evaluations)
    known = {*SHOWN, "vader_compound"}  # the sentiment task's own metric is the same as "judge"
    own = [name for name in evaluations[0] if name not in known and isinstance(evaluations[0][name], dict)]
    shown = SHOWN | {name: name for name in own if "policy" in evaluations[0][name]}
    lines = [
        f"# The task {task}, seed by seed",
        "",
        f"`python benchmarks/text_seeds.py --task {task} --seeds {seeds}`",
        "",
        "Each seed is trained by `make train-textgen SEED=s` with this task. The columns with arrows compare reference",
        f"→ policy on {evaluations[0]['prompts']} held-out prompts, with one response each at temperature 1. The",
        "score gained is in standard deviations of the reference's scores, and the KL is in nats per response. Seconds",
        "are those of the whole process on two CPU cores.",
        "",
        "<!-- table -->",  # docs/results/ includes the parts between such marks
        "",
        f"| seed | score gained | KL | {' | '.join(shown.values())} | seconds |",
        f"|{'---|' * (len(shown) + 4)}",
    ]
    for e in evaluations:
        cells = []
        for name in shown:
            pair = [v["mean"] if isinstance(v, dict) else v for v in (e[name]["reference"], e[name]["policy"])]
            known = any(value is not None for value in pair)  # None stands for a number that is not finite
            cells.append(" → ".join("inf" if v is None else f"{v:.3g}" for v in pair) if known else "-")
        lines.append(
            f"| {e['seed']} | {e['gain']:+.2f} | {e['kl']:.2f} | {' | '.join(cells)} | {e['seconds']['total']:.0f} |"
        )
    import_tensorflow(language_model=True)
    from tfppo.text.samples import markdown_table

    intro = f"Samples of seed {evaluations[0]['seed']} for the eight prompts that every run shows:"
    lines += ["", "<!-- table ends -->", "", intro, "", "<!-- samples -->", ""]
    path.write_text("\n".join([*lines, markdown_table(evaluations[0]["samples"])]) + "\n", encoding="utf-8")


def draw(task: str, evaluations: list[dict], path: Path) -> None:
    figure = Figure(figsize=(7, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 1, sharex=True)
    for axes, column, label in zip(panels, (SCORE, KL), ("normalized score", "KL to the reference, nats"), strict=True):
        for e in evaluations:
            axes.plot(e["curves"][column], color="#e8710a", alpha=0.6, linewidth=1.3)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_title(f"{task}, seed {', '.join(str(e['seed']) for e in evaluations)}")
    panels[1].set_xlabel("iteration")
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="sentiment")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--runs-dir", type=Path, help="folder that keeps the runs; finished runs in it are used")
    arguments = parser.parse_args()
    evaluations = []
    with tempfile.TemporaryDirectory() as temporary:
        for seed in arguments.seeds:
            evaluations.append(train(arguments.task, seed, arguments.runs_dir or Path(temporary)))
            print(json.dumps({k: v for k, v in evaluations[-1].items() if k not in ("curves", "samples")}), flush=True)
    write_table(arguments.task, evaluations, RESULTS / f"text_{arguments.task}.md")
    draw(arguments.task, evaluations, RESULTS / f"text_{arguments.task}.png")


if __name__ == "__main__":
    main()
