"""Tables of sample responses, which show how the policy changes during a run.

All tables of a run have the same prompts. The reference policy responds once, the policy again for each table.
"""

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
    """Writes tables of samples to `samples.jsonl`, and formats them as Markdown.

    Args:
      path: Path of `samples.jsonl`.
      prompts: N prompts of every table.
      encoded: The prompts as token ids int32 [N, P], and their lengths int32 [N].
      policy: Responds for each table.
      reference: Responds once.
      reward: Scores the responses.
      seed: Seed of the responses.
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
    ):
        self._path = path
        self._prompts = prompts
        self._encoded = encoded
        self._policy = policy
        self._reward = reward
        self._seed = seed
        self._reference = self._answer(reference)

    def cut_back(self, start: int) -> None:
        """Removes the rows of later iterations from the file, because a resumed run writes them again.

        Args:
          start: Iteration at which the run starts or resumes.
        """
        kept = []
        if start > 0 and self._path.exists():
            kept = [line for line in whole_lines(self._path) if json.loads(line)["iteration"] <= start]
        write_text(self._path, "".join(kept))

    def sample(self, iteration: int) -> list[dict[str, Any]]:
        """Lets the policy respond.

        Args:
          iteration: Number of iterations done.

        Returns:
          The rows of a table.

        Raises:
          UsageError: If the reward fails.
        """
        return [
            {"iteration": iteration, "prompt": prompt, "reference": old[0], "policy": new[0]}
            | {"reference_score": old[1], "policy_score": new[1]}
            for prompt, old, new in zip(self._prompts, self._reference, self._answer(self._policy), strict=True)
        ]

    def append(self, rows: Sequence[dict[str, Any]]) -> str:
        """Appends rows to the file, and returns them as a Markdown table."""
        with self._path.open("a") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        return markdown_table(rows)

    def _answer(self, responder: Responder) -> list[tuple[str, float | None]]:
        """Returns the responses of a model and their scores; a score that is not finite becomes None."""
        texts = responder.respond(self._encoded, self._seed).texts
        scores = checked_scores(self._reward, self._prompts, texts, must_be_finite=False)
        return [(text, round(float(x), 4) if np.isfinite(x) else None) for text, x in zip(texts, scores, strict=True)]


def markdown_table(rows: Sequence[dict[str, Any]]) -> str:
    """Formats rows of `samples.jsonl` as a Markdown table.

    Each score shares a cell with its text, because TensorBoard wraps the digits of a narrow column.

    Args:
      rows: As in `samples.jsonl`.

    Returns:
      The table.
    """

    def cell(text: str, score: float | None = None) -> str:
        text = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
        return text if score is None else f"**{score:.1f}** {text}"

    lines = ["| prompt | reference, with its score | policy, with its score |", "|---|---|---|"]
    for row in rows:
        answers = [cell(row[who], row[f"{who}_score"]) for who in ("reference", "policy")]
        lines.append(f"| {' | '.join([cell(row['prompt']), *answers])} |")
    return "\n".join(lines)
