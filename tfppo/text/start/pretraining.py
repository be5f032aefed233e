"""Texts whose likelihood is maximized beside the score, so that the policy does not forget them (PPO-ptx).

Source: Ouyang et al. 2022, "Training language models to follow instructions with human feedback", equation 2.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfppo.errors import UsageError
from tfppo.execution.variables import as_tensorflow_variable, digest
from tfppo.ops.random import integers
from tfppo.ppo.objective import Gradients
from tfppo.settings import exact_div
from tfppo.text.config import TextConfig
from tfppo.text.data.codec import PromptCodec
from tfppo.text.data.prompt_files import read_rows, text_in, write_rows
from tfppo.text.policy import TextPolicy, TokenInputs, response_log_probs
from tfppo.training import run_folder

FILE, COLUMN = "pretraining.jsonl", "text"


class PretrainingTexts(NamedTuple):
    """Texts as rows of tokens, padded on the right."""

    token_ids: np.ndarray  # int32 [N, S]
    counts: np.ndarray  # bool [N, S], True for tokens whose likelihood counts
    texts: list[str]

    def checksum(self) -> str:
        """Returns a checksum of the tokens and of those that count."""
        return digest([self.token_ids, self.counts])

    def write(self, folder: Path) -> None:
        """Keeps the texts in the folder of a new run."""
        (folder / run_folder.DATA).mkdir()
        write_rows(folder / run_folder.DATA / FILE, ({COLUMN: text} for text in self.texts))


def load_pretraining(text: TextConfig, folder: Path | None, codec: PromptCodec, length: int) -> PretrainingTexts | None:
    """Loads the texts of the setting `pretraining_data`.

    Args:
      text: Settings of the run.
      folder: Folder of the run, if the run exists already. It keeps the texts.
      codec: The codec of the run.
      length: S, the number of tokens of a row. A longer text becomes several rows.

    Returns:
      The texts; None if the setting is None.

    Raises:
      UsageError: If the file cannot be read, has no text, or a line has no text.
    """
    if text.pretraining_data is None:
        return None
    path = text.pretraining_data if folder is None else folder / run_folder.DATA / FILE
    if folder is not None and not path.is_file():
        raise UsageError(f"{path} is missing; the run keeps its pretraining data in this file: restore it from a copy")
    texts = read_texts(path)
    plain = codec.for_texts()
    whole = (np.array([*plain.before, *tokens], np.int32) for tokens in plain.encode_answers(texts))
    rows = [row for tokens in whole for row in windows(tokens, length)]
    token_ids, counts = np.zeros([len(rows), length], np.int32), np.zeros([len(rows), length], bool)
    for number, row in enumerate(rows):
        token_ids[number, : len(row)] = row
        counts[number, 1 : len(row)] = True
    return PretrainingTexts(token_ids, counts, texts)


def read_texts(path: Path) -> list[str]:
    """Reads texts from a .jsonl, .csv or .txt file, whose column is `text`.

    Args:
      path: Path of the file.

    Returns:
      The texts, at least one.

    Raises:
      UsageError: If the file cannot be read or has no text, or a line has none. The error names the line.
    """
    texts = []
    for row, origin in read_rows(path, "texts", COLUMN):
        if COLUMN not in row:
            raise UsageError(f"{origin} has no text; it must have one in the column {COLUMN}: correct or remove it")
        texts.append(text_in(row, COLUMN, origin))
    if not texts:
        raise UsageError(f"{path} has no texts; it must have at least one")
    return texts


def windows(tokens: np.ndarray, length: int) -> list[np.ndarray]:
    """Divides the tokens of a text into parts.

    Args:
      tokens: int32 [N].
      length: Largest number of tokens of a part, at least 2.

    Returns:
      The parts. Each begins with the last token of the one before, so that every token but the first is predicted once.
    """
    return [tokens[start : start + length] for start in range(0, max(len(tokens) - 1, 1), length - 1)]


class PretrainingLoss:
    """The negative log-likelihood of texts, in nats per token; implements `ppo.objective.AuxiliaryLoss`.

    Each gradient step draws texts with replacement. The temperature is 1, whatever that of the responses is.

    Args:
      policy: The policy that is trained.
      texts: The texts.
      coeff: The coefficient of the loss, gamma of Ouyang et al. 2022.
      batch_size: Rows in a gradient step.
      pieces: Number of parts of these rows that are computed one after another, to save memory.
    """

    def __init__(self, policy: TextPolicy, texts: PretrainingTexts, coeff: float, batch_size: int, pieces: int = 1):
        self.policy = policy
        self.coeff = coeff
        self.rows_of_piece = exact_div(batch_size, pieces, "minibatch_size", "num_micro_batches")
        self.pieces = pieces
        self._token_ids = tf.constant(texts.token_ids)
        self._counts = tf.constant(texts.counts)

    def gradients(self, seed: tf.Tensor) -> tuple[tf.Tensor, Gradients]:
        """Computes the mean loss over the tokens of texts that the seed draws, and its gradients."""
        rows = integers([self.pieces, self.rows_of_piece], seed, len(self._token_ids))
        total = tf.reduce_sum(tf.cast(tf.gather(self._counts[:, 1:], rows), tf.float32))  # of all pieces

        def body(index: tf.Tensor, loss: tf.Tensor, sums: Gradients) -> tuple[tf.Tensor, tf.Tensor, Gradients]:
            more, slopes = self._of_rows(rows[index], total)
            return index + 1, loss + more, [a + b for a, b in zip(sums, slopes, strict=True)]

        first = self._of_rows(rows[0], total)
        if self.pieces == 1:
            return first
        _, loss, sums = tf.while_loop(lambda index, *_: index < self.pieces, body, (tf.constant(1), *first))
        return loss, sums

    def _of_rows(self, rows: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, Gradients]:
        """Computes the share of some rows in the mean over `total` tokens, and its gradients."""
        token_ids = tf.gather(self._token_ids, rows)  # [B, S]
        counts = tf.gather(self._counts, rows)[:, 1:]
        inputs = TokenInputs(token_ids, tf.ones_like(rows))
        variables = [as_tensorflow_variable(variable) for variable in self.policy.trainable_variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            log_probs = response_log_probs(self.policy.model, inputs, token_ids[:, 1:], 1.0)
            loss = -tf.reduce_sum(tf.where(counts, log_probs, 0.0)) / tf.maximum(total, 1.0)
        gradients = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return loss, [tf.convert_to_tensor(gradient) for gradient in gradients]  # that of an embedding may be sparse
