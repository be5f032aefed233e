"""Tunes a language model with a reward in a few lines of Python: responses should be questions.

The argument is the number of iterations::

    python examples/text_reward.py 60
"""

import sys

from tfppo import make_text_config, train_text


def asks(prompts: list[str], responses: list[str]) -> list[float]:
    """Scores 1 for a question mark at the end, and 1/16 for each word, up to eight words."""
    return [float(response.strip().endswith("?")) + min(len(response.split()), 8) / 16 for response in responses]


def main(iterations: int = 60, **settings) -> None:
    run = make_text_config(
        task="sentiment",  # gives the prompts, which are the beginnings of movie reviews
        iterations=iterations,
        **{"batch_size": 64, "response_length": 24, "name": "questions", "eval_prompts": 100} | settings,
    )
    folder = train_text(run, reward=asks)
    print((folder / "samples.jsonl").read_text().splitlines()[-1])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
