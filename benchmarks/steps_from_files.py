"""Takes the three steps of InstructGPT from exported files, and compares them with the commands for the shipped corpus.

Usage: python benchmarks/steps_from_files.py [--seeds 1 2] [--steps 1 2 3] [--iterations 80] [--folder runs/steps]

It exports the shipped sentences, their ratings and the prompts of the task sentiment as files. Each step has two sides,
"shipped" and "files", with the same sizes and seeds. It prints one JSON line per seed, step and side:

1. `tfppo pretrain` and `tfppo sft --data texts.jsonl`, one epoch of a new model: nats per character of the movie
   sentences of the test. Both tell the model the domain of each sentence: by a control token, or as a prompt.
2. `tfppo reward-model` and `tfppo reward-model --data ratings.jsonl`, one epoch from the shipped model: the share of
   the pairs of the test in the right order.
3. `tfppo train text --task sentiment` and `tfppo train text --prompts prompts.jsonl`, from the shipped model with the
   reward model of step 2 of the same side: gain in standard deviations, KL in nats, and of 200 responses distinct-2,
   VADER's sentiment and the number of words. Only the shipped side puts the control token of movie reviews before each
   prompt.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

from shared import trained

from tfppo.cli.startup import import_tensorflow
from tfppo.text.data.corpus import corpus_path, sentences
from tfppo.text.data.metrics import distinct_2, mean_words
from tfppo.text.tasks import get_task
from tfppo.text.tasks.sentiment import mean_compound

BASE = str(corpus_path().with_name("movie-gpt2"))  # the shipped model
SIDES = ("shipped", "files")
STEPS = (1, 2, 3)
SPLITS = ("train", "validation", "test")


def export(folder: Path) -> None:
    """Writes texts, ratings and prompts: one file for each split."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        rated = sentences(split, "movie")
        texts = sentences(split) if split == "train" else rated
        rows = {
            "texts": [{"prompt": sentence.domain, "response": sentence.text} for sentence in texts],
            "ratings": [{"text": sentence.text, "rating": sentence.rating} for sentence in rated],
            "prompts": [{"prompt": str(prompt)} for prompt in get_task("sentiment").checked_prompts(split)],
        }
        for name, lines in rows.items():
            content = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / f"{name}-{split}.jsonl").write_text(content, encoding="utf-8")


def evaluated(folder: Path, name: str, *words: object) -> tuple[Path, dict]:
    """Trains a run, and returns its folder and its evaluation. Messages go to the standard error."""
    run = trained([*map(str, words)], folder / name, sys.stderr)
    return run, json.loads((run / "evaluation.json").read_text())


def nats_per_character(run: Path, nats_per_token: float) -> float:
    """Converts a loss on the movie sentences of the test: each sentence has its tokens and an end token."""
    from tfppo import load_preset

    _, tokenizer = load_preset(run / "preset")
    texts = [sentence.text for sentence in sentences("test", "movie")]
    return nats_per_token * sum(len(ids) + 1 for ids in tokenizer(texts)) / sum(map(len, texts))


def first_step(folder: Path, side: str, seed: int) -> dict:
    """Trains a new language model on the sentences of all domains."""
    common = ("--epochs", 1, "--seed", seed, "--learning-rate", 1e-3, "--context-length", 128, "--dropout", 0.1)
    name = f"lm-{side}-{seed}"
    if side == "shipped":
        _, found = evaluated(folder, name, "pretrain", *common)
        return {"nats_per_character": found["test"]["nats_per_character"]}
    files = ("--data", folder / "texts-train.jsonl", "--validation-data", folder / "texts-test.jsonl")
    run, found = evaluated(folder, name, "sft", *files, *common)
    return {"nats_per_character": nats_per_character(run, found["validation"]["loss"])}


def second_step(folder: Path, side: str, seed: int) -> tuple[Path, dict]:
    """Trains a reward model on the ratings of movie sentences."""
    files = ("--data", folder / "ratings-train.jsonl", "--validation-data", folder / "ratings-test.jsonl")
    own = (
        ()
        if side == "shipped"
        else (*files, "--preset", BASE, "--learning-rate", 2e-4, "--remove-length", True, "--max-length", 96)
    )
    run, found = evaluated(folder, f"rm-{side}-{seed}", "reward-model", "--epochs", 1, "--seed", seed, *own)
    test = found["test" if side == "shipped" else "validation"]
    return run, {name: test[name] for name in ("pair_accuracy", "interval", "accuracy")}


def third_step(folder: Path, side: str, seed: int, iterations: int, judge: Path) -> dict:
    """Tunes the shipped model on the prompts of the task sentiment."""
    import tfppo

    words = ["--reward-model", judge, "--iterations", iterations, "--seed", seed]
    if side == "shipped":
        words += ["--task", "sentiment"]
    else:
        words += ["--preset", BASE, "--prompts", folder / "prompts-train.jsonl", "--prompt-length", 12]
        words += ["--test-prompts", folder / "prompts-test.jsonl"]
    run, found = evaluated(folder, f"ppo-{side}-{seed}", "train", "text", *words)
    prompts = [str(prompt) for prompt in get_task("sentiment").checked_prompts("test")][:200]
    before, after = (tfppo.generate(run, prompts, seed=seed, reference=which) for which in (True, False))
    result = {"gain": found["gain"], "kl": found["kl"], "distinct_2": distinct_2(after)}
    for who, responses in (("before", before), ("after", after)):
        result |= {f"vader_{who}": mean_compound(prompts, responses), f"words_{who}": mean_words(responses)}
    return result


def main() -> None:
    """Runs both sides of each step, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--steps", nargs="+", type=int, choices=STEPS, default=STEPS, help="step 3 runs step 2, too")
    parser.add_argument("--iterations", type=int, default=80, help="of PPO")
    parser.add_argument("--folder", type=Path, default=Path("runs/steps"), help="for the files and the runs")
    arguments = parser.parse_args()
    export(arguments.folder)
    import_tensorflow(language_model=True)

    def show(step: int, side: str, seed: int, values: dict) -> None:
        rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}
        print(json.dumps({"step": step, "side": side, "seed": seed, **rounded}), flush=True)

    for seed, side in itertools.product(arguments.seeds, SIDES):
        if 1 in arguments.steps:
            show(1, side, seed, first_step(arguments.folder, side, seed))
        if 2 in arguments.steps or 3 in arguments.steps:
            judge, accuracy = second_step(arguments.folder, side, seed)
            show(2, side, seed, accuracy)
        if 3 in arguments.steps:
            show(3, side, seed, third_step(arguments.folder, side, seed, arguments.iterations, judge))


if __name__ == "__main__":
    main()
