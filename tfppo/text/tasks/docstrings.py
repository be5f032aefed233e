"""The task "docstrings": the first line of a docstring, from its name and the text below that line.

The docstrings are read in place in the installed packages Keras, KerasHub, NumPy and TensorFlow, so their number
depends a little on the versions. Those of a file belong to one split.
"""

import functools
import inspect
import re
from collections import Counter
from collections.abc import Sequence
from importlib import util
from pathlib import Path
from statistics import fmean

from tfppo.text.data.corpus import Split
from tfppo.text.data.prompts import Prompt
from tfppo.text.tasks.definition.answers import RELATIVE, Row, answer_task, drawn
from tfppo.text.tasks.definition.splits import split_by

FOLDERS = ("keras/src", "keras_hub/src", "numpy", "tensorflow/python/ops", "tensorflow/python/keras")
DOCUMENTED = re.compile(
    r'^[ ]*(?:def|class)[ ]+([a-zA-Z]\w*)[ ]*(?:\((?:[^()"]|\([^()"]*\))*\))?[^:\n]*:\s*[rR]?"""(.*?)"""', re.M | re.S
)
LINE = range(20, 91)  # characters of a first line
BODY = 60  # smallest number of characters below the first line
SHOWN = 200  # characters below the first line that a prompt has, at most
SUMMARY = "\nSummary:"


split_of = functools.partial(split_by, validation=8, test=15)  # of the path of a file


@functools.cache
def documented() -> dict[Split, list[Row]]:
    """Returns the docstrings of each split. The same first line or the same prompt is kept once."""
    found: dict[Split, list[Row]] = {"train": [], "validation": [], "test": []}
    lines, prompts = set(), set()
    for folder in FOLDERS:
        spec = util.find_spec(folder.partition("/")[0])
        if spec is None or spec.origin is None:
            continue
        site = Path(spec.origin).parent.parent
        for path in sorted((site / folder).rglob("*.py")):
            if "test" in path.name:
                continue
            for name, text in DOCUMENTED.findall(path.read_text(errors="ignore")):
                first, _, rest = inspect.cleandoc(text).partition("\n\n")
                line, body = " ".join(first.split()), " ".join(rest.split())
                prompt = f"{name}: {body[:SHOWN]}{SUMMARY}"
                is_clear = len(line) in LINE and line.endswith(".") and ":" not in line and len(body) >= BODY
                if is_clear and line not in lines and prompt not in prompts:
                    found[split_of(path.relative_to(site).as_posix())].append({"prompt": prompt, "answer": line})
                    lines.add(line)
                    prompts.add(prompt)
    return found


def docstring_rows(split: Split) -> list[Row]:
    """Returns names and texts of a split; the answer is the first line."""
    return documented()[split]


@functools.lru_cache(maxsize=100_000)
def _rouge_l(response: str, answer: str) -> float:
    from rouge_score.rouge_scorer import RougeScorer

    return float(RougeScorer(["rougeL"]).score(answer, response)["rougeL"].fmeasure)


def rouge_l(prompts: Sequence[str], responses: Sequence[str], answer: Sequence[str]) -> list[float]:
    """Scores each response with the F1 of ROUGE-L (Lin 2004): its longest common subsequence of words with the answer.

    Args:
      prompts: N prompts.
      responses: N responses.
      answer: The N first lines.
    """
    return [_rouge_l(given, right) for given, right in zip(responses, answer, strict=True)]


def mean_rouge_l(prompts: Sequence[str], responses: Sequence[str], answer: Sequence[str]) -> float:
    """Computes the mean F1 of ROUGE-L."""
    return fmean(rouge_l(prompts, responses, answer))


def length_ratio(prompts: Sequence[str], responses: Sequence[str], answer: Sequence[str]) -> float:
    """Computes the number of words of the responses, as a multiple of that of the answers."""
    return sum(len(text.split()) for text in responses) / sum(len(text.split()) for text in answer)


def lead(prompts: Sequence[Prompt]) -> list[str]:
    """Answers with the beginning of the text below the first line."""
    return [" ".join(prompt.partition(": ")[2].removesuffix(SUMMARY).split()[:10]) for prompt in prompts]


def frequent_words(prompts: Sequence[Prompt]) -> list[str]:
    """Answers each prompt with the words that begin most first lines of the training split."""
    rows = docstring_rows("train")
    (words, _), *_ = Counter(" ".join(row["answer"].split()[:2]) for row in rows).most_common(1)
    return [words] * len(prompts)


DOCSTRINGS = answer_task(
    "docstrings",
    "summarize a text of a function's or class's documentation in its first line",
    docstring_rows,
    reward=rouge_l,
    measure=mean_rouge_l,
    metric="rouge_l",
    judges={"length_ratio": length_ratio},
    needs=("rouge_score",),
    baselines={
        "lead": lead,
        "frequent words": frequent_words,
        "another line": functools.partial(drawn, docstring_rows),
    },
    defaults={
        **RELATIVE,
        "prompt_length": None,
        "response_length": 32,
        "iterations": 150,
        "learning_rate": 5e-4,
        "kl_coeff": 0.005,
    },
    sft_defaults={
        "epochs": 8,
        "num_layers": 2,
        "hidden_dim": 128,
        "context_length": 160,
        "vocabulary_size": 2048,
        "dropout": 0.1,
    },
)
