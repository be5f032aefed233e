"""Tune a language model with a reward that is a few lines of Python: responses that ask a question. The number of
iterations may follow.

    python examples/text_reward.py 60
"""

import sys

from tfppo import make_text_config, train_text


def asks(prompts: list[str], responses: list[str]) -> list[float]:
    """1 for a response that ends with a question mark, and a little for every word, up to eight."""
    return [float(response.strip().endswith("?")) + min(len(response.split()), 8) / 16 for response in responses]


def main(iterations: int = 60, **settings) -> None:
    run = make_text_config(
        task="sentiment",  # its prompts: the beginnings of movie reviews
        iterations=iterations,
        **{"batch_size": 64, "response_length": 24, "name": "questions", "eval_prompts": 100} | settings,
    )
    folder = train_text(run, reward=asks)
    print((folder / "samples.jsonl").read_text().splitlines()[-1])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
