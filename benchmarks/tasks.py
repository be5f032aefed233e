"""Learns tasks from their examples and then by PPO, and measures both on the prompts of the test split.

Usage: python benchmarks/tasks.py --tasks polarity topic [--seeds 1 2 3] [--preset MODEL]
       [--runs-dir runs] [--table FILE]

For each task and seed it runs `tfppo sft --task T` and `tfppo train text --task T --preset ...`, unless the runs exist
already. Then both models answer all prompts of the test, two draws each at temperature 1 and once greedily. An interval
is the 95 % bootstrap interval over the prompts.

`make task NAME=polarity` does this for one task and one seed.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from shared import trained

from tfppo.cli.startup import import_tensorflow
from tfppo.errors import UsageError
from tfppo.text.tasks import MUSIC, Task, get_task
from tfppo.text.tasks.music import music_reward

DRAWS = 2
RESAMPLED = 500
SHOWN = 20


def judged(task: Task, prompts: list, draws: list[list[str]]) -> dict[str, float]:
    """Computes the other metrics of answers, which no reward optimizes, as means over the draws."""
    judges = {name: replace(task, metric=name, measure=measure) for name, measure in task.judges.items()}
    return {
        name: float(np.mean([judge.checked_measure(prompts, answers) for answers in draws]))
        for name, judge in judges.items()
    }


def measured(task: Task, prompts: list, draws: list[list[str]]) -> dict[str, float]:
    """Computes the metric of answers, as a mean over the draws, with its interval over the prompts."""
    # A tune is a copy or not among all of them: in a sample of the prompts there would be fewer copies.
    whole = np.array([music_reward(prompts, answers) for answers in draws]) == 1.0 if task == MUSIC else None

    def metric(rows: np.ndarray) -> float:
        if whole is not None:
            return float(np.mean(whole[:, rows]))
        asked = [prompts[row] for row in rows]
        values = [task.checked_measure(asked, [answers[row] for row in rows]) for answers in draws]
        return float(np.mean(values))

    random = np.random.default_rng(0)
    count = len(prompts)
    resampled = [metric(random.integers(count, size=count)) for _ in range(RESAMPLED)]
    low, high = np.percentile(resampled, [2.5, 97.5])
    return {"value": metric(np.arange(count)), "low": float(low), "high": float(high)}


def result_of(task: Task, name: str, seed: int, runs: Path, start: Sequence[str]) -> dict:
    """Trains a task with one seed, and measures the models before and after PPO.

    Args:
      task: The task.
      name: Its name on the command line, such as "polarity" or "package.module:TASK".
      seed: Seed of both runs.
      runs: Folder of the runs.
      start: Options of the language model that SFT starts from.

    Returns:
      The metric of the baselines and of both models, answers, and the seconds of both trainings.
    """
    import tfppo

    base = trained(["sft", "--task", name, "--seed", str(seed), *start], runs / f"sft-{task.name}-seed{seed}")
    preset = base / "preset"
    command = ["train", "text", "--task", name, "--preset", str(preset), "--seed", str(seed)]
    run = trained(command, runs / f"{task.name}-seed{seed}")
    prompts = task.checked_prompts("test")
    texts = [str(prompt) for prompt in prompts]
    found: dict = {"task": task.name, "metric": task.metric, "seed": seed, "prompts": len(prompts)}
    found["baselines"] = task.judged_baselines("test")
    shown = np.linspace(0, len(prompts) - 1, SHOWN, dtype=int)  # unpicked, from all over the test
    for who, options in (("sft", {"reference": True}), ("ppo", {})):
        drawn = [tfppo.generate(run, texts, seed=number, **options) for number in range(DRAWS)]
        greedy = tfppo.generate(run, texts, temperature=0, **options)
        found[who] = {"drawn": measured(task, prompts, drawn), "greedy": measured(task, prompts, [greedy])}
        found[who]["judges"] = judged(task, prompts, drawn)
        found[f"answers of {who}"] = [drawn[0][row] for row in shown]
    found["answers"] = [{"prompt": texts[row], **prompts[row].labels} for row in shown]
    evaluations = {
        who: json.loads((folder / "evaluation.json").read_text()) for who, folder in (("sft", base), ("ppo", run))
    }
    found["seconds"] = {who: evaluation["seconds"]["total"] for who, evaluation in evaluations.items()}
    found["kl"] = evaluations["ppo"]["kl"]
    return found


def row_of(found: dict) -> str:
    """Formats a result as a row of the table."""
    shown = [f"{found['sft'][how]['value']:.3f} → {interval(found['ppo'][how])}" for how in ("drawn", "greedy")]
    baselines = ", ".join(f"{name} {value:.3f}" for name, value in found["baselines"].items())
    seconds = found["seconds"]
    judges = ", ".join(f"{n} {v:.3f} → {found['ppo']['judges'][n]:.3f}" for n, v in found["sft"]["judges"].items())
    cells = [found["task"], found["metric"], found["seed"], *shown, judges or "-", baselines]
    return "| " + " | ".join(map(str, [*cells, f"{seconds['sft']:.0f} + {seconds['ppo']:.0f} s"])) + " |"


def interval(found: dict[str, float]) -> str:
    """Formats a value with its interval."""
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def main() -> None:
    """Trains and measures the tasks, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", nargs="+", required=True, help="names of tasks with examples, see tfppo tasks")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--preset", help="language model that SFT starts from; without it, that of the task")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--table", type=Path, help="file for the table and the answers, in JSON lines")
    arguments = parser.parse_args()
    try:
        tasks = {name: get_task(name) for name in arguments.tasks}
        for task in tasks.values():
            task.checked_examples("train")
    except UsageError as error:
        parser.error(str(error))
    import_tensorflow(language_model=True)
    start = [] if arguments.preset is None else ["--preset", arguments.preset]
    rows = []
    for name, task in tasks.items():
        for seed in arguments.seeds:
            found = result_of(task, name, seed, arguments.runs_dir, start)
            rows.append(row_of(found))
            if arguments.table is not None:
                with arguments.table.open("a") as file:
                    file.write(json.dumps(found, ensure_ascii=False) + "\n")
    print("| task | metric | seed | SFT → PPO, drawn | SFT → PPO, greedy | other metrics | without a model | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
