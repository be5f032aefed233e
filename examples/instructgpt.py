"""The three steps of InstructGPT (Ouyang et al. 2022): fine-tuning, a reward model and PPO, from three files.

The files are made of the movie sentences that are shipped with tfppo, so that it runs without a network. The argument
is the number of iterations of PPO::

    python examples/instructgpt.py 30
"""

import csv
import gzip
import json
import sys
from importlib import resources
from pathlib import Path

from tfppo import make_text_config, reward_model, sft, train_text

ASSETS = Path(str(resources.files("tfppo.assets")))


def write_files(folder: Path, count: int) -> list[Path]:
    """Writes demonstrations, ratings and prompts: each prompt is the first three words of a movie sentence."""
    with gzip.open(ASSETS / "sentences.tsv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))  # domain, id, split, rating, text
    rated = [(text, float(rating)) for domain, _, split, rating, text in rows if (domain, split) == ("movie", "train")]
    halves = [text.split(" ", 3) for text, _ in rated[:count] if text.count(" ") > 5]
    demonstrations = [{"prompt": " ".join(words[:3]), "response": f" {words[3]}"} for words in halves]
    ratings = [{"text": text, "rating": rating} for text, rating in rated[:count]]
    prompts = [{"prompt": prompt} for prompt in dict.fromkeys(row["prompt"] for row in demonstrations)]
    folder.mkdir(parents=True, exist_ok=True)
    files = {"demonstrations.jsonl": demonstrations, "ratings.jsonl": ratings, "prompts.jsonl": prompts}
    for name, lines in files.items():
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return [folder / name for name in files]


def main(iterations: int = 30, folder: Path = Path("instructgpt"), count: int = 3000, **settings) -> None:
    demonstrations, ratings, prompts = write_files(folder, count)
    tuned = sft(demonstrations, preset=ASSETS / "movie-gpt2", epochs=1, name="step-1", runs_dir=folder) / "preset"
    judge = reward_model(ratings, preset=tuned, epochs=2, learning_rate=2e-4, name="step-2", runs_dir=folder)
    run = make_text_config(
        preset=tuned,
        prompts=prompts,
        validation_share=0.1,
        reward_model=judge,
        iterations=iterations,
        **{"response_length": 24, "eval_prompts": 100, "name": "step-3", "runs_dir": folder} | settings,
    )
    print((train_text(run) / "samples.jsonl").read_text().splitlines()[-1])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
