"""Tables of samples: the same prompts every time, answered by the reference once and by the policy as it learns."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfppo.reporting.csv_writer import whole_lines
from tfppo.text.evaluate import Responder
from tfppo.text.rewards.callables import Reward, checked_scores
from tfppo.training.files import write_text


class SampleTable:
    """Writes samples.jsonl, and the same as Markdown.

    Args:
      path: of samples.jsonl.
      prompts: that are answered every time.
      encoded: the same as tokens, int32 [N, P], and their lengths [N].
      policy: answers as it is at the time.
      reference: answers once.
      reward: scores the answers.
      seed: of the samples.
      start: a resumed run's first iteration: samples after it belong to what is redone, and are dropped.
    """

    def __init__(
        self,
        path: Path,
        prompts: Sequence[str],
        encoded: tuple[np.ndarray, np.ndarray],
        *,
        policy: Responder,
        reference: Responder,
        reward: Reward,
        seed: int,
        start: int = 0,
    ):
        self._path = path
        self._prompts = prompts
        self._encoded = encoded
        self._policy = policy
        self._reward = reward
        self._seed = seed
        self._reference = self._answer(reference)
        kept = []
        if start > 0 and path.exists():
            kept = [line for line in whole_lines(path) if json.loads(line)["iteration"] <= start]
        write_text(path, "".join(kept))

    def write(self, iteration: int) -> str:
        """Appends the samples after so many iterations; returns them as a Markdown table."""
        rows = [
            {"iteration": iteration, "prompt": prompt, "reference": old[0], "policy": new[0]}
            | {"reference_score": old[1], "policy_score": new[1]}
            for prompt, old, new in zip(self._prompts, self._reference, self._answer(self._policy), strict=True)
        ]
        with self._path.open("a") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        return markdown_table(rows)

    def _answer(self, responder: Responder) -> list[tuple[str, float | None]]:
        """The texts of a model's answers, and their scores; None: not finite."""
        texts = responder.respond(self._encoded, self._seed).texts
        scores = checked_scores(self._reward, self._prompts, texts, must_be_finite=False)
        return [(text, round(float(x), 4) if np.isfinite(x) else None) for text, x in zip(texts, scores, strict=True)]


def markdown_table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of samples.jsonl as a Markdown table. Scores share a cell with their texts: TensorBoard breaks columns as
    narrow as a number."""

    def cell(text: str, score: float | None = None) -> str:
        text = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
        return text if score is None else f"**{score:.1f}** {text}"

    lines = ["| prompt | reference, with its score | policy, with its score |", "|---|---|---|"]
    for row in rows:
        answers = [cell(row[who], row[f"{who}_score"]) for who in ("reference", "policy")]
        lines.append(f"| {' | '.join([cell(row['prompt']), *answers])} |")
    return "\n".join(lines)
