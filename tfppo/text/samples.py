"""Tables of samples: the same prompts every time, answered by the reference once and by the policy as it learns."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfppo.reporting.csv_writer import whole_lines
from tfppo.reporting.tensorboard import TensorBoardWriter
from tfppo.text.evaluate import Responder
from tfppo.text.rewards.callables import checked_scores
from tfppo.text.trainer import TextTrainer
from tfppo.training import run_folder
from tfppo.training.loop import writing

COUNT = 8


class SampleTable:
    """Writes samples.jsonl, and the same as Markdown.

    Args:
      trainer: whose reference and policy answer.
      path: of samples.jsonl.
      start: a resumed run's first iteration: samples from it on belong to what is redone, and are dropped.
    """

    def __init__(self, trainer: TextTrainer, path: Path, start: int = 0):
        self._trainer = trainer
        self._path = path
        self._prompts = trainer.task.prompts("validation")[:COUNT] or trainer.task.prompts("train")[:COUNT]
        self._encoded = trainer.encode(self._prompts)
        codec, text = trainer.codec, trainer.config.text
        self._policy = Responder(trainer.policy.model, codec, text)
        self._reference = self._scored(Responder(trainer.reference, codec, text))
        kept = []
        if start > 0 and path.exists():
            kept = [line for line in whole_lines(path) if json.loads(line)["iteration"] <= start]
        run_folder.write_text(path, "".join(kept))

    def write(self, iteration: int) -> str:
        """Appends the samples after so many iterations; returns them as a Markdown table."""
        rows = [
            {"iteration": iteration, "prompt": prompt, "reference": old[0], "policy": new[0]}
            | {"reference_score": old[1], "policy_score": new[1]}
            for prompt, old, new in zip(self._prompts, self._reference, self._scored(self._policy), strict=True)
        ]
        with self._path.open("a") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        return markdown_table(rows)

    def _scored(self, responder: Responder) -> list[tuple[str, float | None]]:
        """Each prompt's response, and its score; None where it is not finite."""
        trainer = self._trainer
        texts = responder.respond(self._encoded, trainer.config.run.seed).texts
        scores = checked_scores(trainer.reward, self._prompts, texts, must_be_finite=False)
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


def with_samples(
    trainer: TextTrainer, folder: Path, tensorboard: TensorBoardWriter
) -> Iterator[tuple[int, dict[str, float]]]:
    """The trainer's iterations; a table of samples before them and every `sample_interval` goes into the run's folder
    and to TensorBoard."""
    text, start = trainer.config.text, trainer.iteration
    with writing(folder):
        table = SampleTable(trainer, folder / run_folder.SAMPLES, start)
        if not start:
            tensorboard.write_text("samples", table.write(0), 0)
    for iteration, row in trainer.iterations():
        done = iteration + 1
        if done % text.sample_interval == 0 or done == text.iterations:
            with writing(folder):
                tensorboard.write_text("samples", table.write(done), done)
        yield iteration, row
