"""Examples and batches of reward models: texts as tokens, and the pairs of them that are compared."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfppo.execution.variables import digest
from tfppo.text.reward_model.records import Comparison, Rating, Record
from tfppo.text.rewards.encoding import TextEncoder
from tfppo.text.supervised.batches import Batches, Layout

Element = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]


class Example(NamedTuple):
    """The tokens of a record."""

    texts: tuple[np.ndarray, ...]  # int32 [N] each: the chosen and the rejected response, or one rated text
    value: float  # the margin, or the rating

    @property
    def length(self) -> int:
        """Number of tokens of the longest text."""
        return max(map(len, self.texts))


class Examples(NamedTuple):
    """The examples of records, and what was cut or left out."""

    examples: list[Example]
    records: list[Record]  # without those that are left out
    truncated: int  # examples with a text that was cut
    equal: int  # comparisons that are left out, because their two responses are equal

    def checksum(self) -> str:
        """Returns a checksum of the tokens and values in their order."""
        values = np.array([example.value for example in self.examples], np.float64)
        return digest([values, *(text for example in self.examples for text in example.texts)])


class Batch(NamedTuple):
    """R texts of at most S tokens, padded on the right, and P pairs of them."""

    token_ids: np.ndarray  # int32 [R, S], 0 at padding
    lengths: np.ndarray  # int32 [R]
    pairs: np.ndarray  # int32 [P, 2]: the rows of the better and of the worse text; row R is a text with the score 0
    margins: np.ndarray  # float32 [P]

    @property
    def is_token(self) -> np.ndarray:
        """Bool [R, S], False at padding."""
        return np.arange(self.token_ids.shape[1]) < self.lengths[:, None]

    def element(self) -> Element:
        """Returns the inputs of the network, the pairs and the margins."""
        inputs = {"token_ids": self.token_ids, "padding_mask": self.is_token.astype(np.int32)}
        return inputs, self.pairs, self.margins


def encode_records(records: Sequence[Record], encoder: TextEncoder, margin: float) -> Examples:
    """Encodes records as a reward model reads them.

    Args:
      records: N records of one kind.
      encoder: Encodes texts and responses.
      margin: Margin of comparisons without one of their own.

    Returns:
      The examples in the order of the records, without comparisons whose responses are equal, or are equal after they
      were cut.

    Raises:
      UsageError: If a text is not valid UTF-8, or messages are given without a chat template.
    """
    comparisons = [record for record in records if isinstance(record, Comparison)]
    if comparisons:
        prompts = [record.prompt for record in comparisons]
        chosen = encoder.responses(prompts, [record.chosen for record in comparisons])
        rejected = encoder.responses(prompts, [record.rejected for record in comparisons])
        differs = [not np.array_equal(*pair) for pair in zip(chosen.rows, rejected.rows, strict=True)]
        margins = [margin if record.margin is None else record.margin for record in comparisons]
        all_of = zip(zip(chosen.rows, rejected.rows, strict=True), margins, strict=True)
        examples = [Example(*one) for one, keep in zip(all_of, differs, strict=True) if keep]
        kept: list[Record] = [record for record, keep in zip(comparisons, differs, strict=True) if keep]
        truncated = int(((chosen.cut | rejected.cut) & differs).sum())
        return Examples(examples, kept, truncated, len(comparisons) - len(kept))
    ratings = [record for record in records if isinstance(record, Rating)]
    texts = [record.text for record in ratings]
    asked = [record.prompt for record in ratings if record.prompt is not None]
    encoded = encoder.responses(asked, texts) if asked else encoder.texts(texts)
    rated = [Example((row,), record.rating) for row, record in zip(encoded.rows, ratings, strict=True)]
    return Examples(rated, list(records), int(encoded.cut.sum()), 0)


def pairs_of(ratings: np.ndarray, difference: float, neutral: float | None = None) -> np.ndarray:
    """Returns the pairs of texts whose ratings differ enough.

    Args:
      ratings: float [N].
      difference: Smallest difference of the ratings of a pair, exclusive.
      neutral: Rating of one more text with the number N. None: there is none.

    Returns:
      The numbers of the text with the higher rating and of the other one, int32 [P, 2].
    """
    if neutral is not None:
        ratings = np.append(ratings, neutral)
    return np.argwhere(ratings[:, None] - ratings[None, :] > difference).astype(np.int32)


def has_pairs(examples: Sequence[Example], batch_size: int, difference: float, neutral: float | None) -> bool:
    """Returns True if the batches of examples in this order have a pair. A comparison is one."""
    batches = Batches(examples, batch_size, layout(difference, neutral))
    return any(batch.pairs.size for batch in batches.steps(0, len(batches)))


def lay_out(examples: Sequence[Example], difference: float, neutral: float | None, width: int | None = None) -> Batch:
    """Makes a batch of examples, all of them comparisons or all ratings.

    Args:
      examples: N examples.
      difference: Smallest difference of the ratings of a pair, exclusive.
      neutral: Rating of a text with the score 0. None: there is none.
      width: Positions of a row. None: as many as the longest text needs.

    Returns:
      The batch. The two texts of a comparison have neighboring rows.
    """
    texts = [text for example in examples for text in example.texts]
    lengths = np.array([len(text) for text in texts], np.int32)
    token_ids = np.zeros([len(texts), width or lengths.max()], np.int32)
    for row, text in zip(token_ids, texts, strict=True):
        row[: len(text)] = text
    values = np.array([example.value for example in examples], np.float32)
    if len(examples[0].texts) == 2:
        return Batch(token_ids, lengths, np.arange(len(texts), dtype=np.int32).reshape(-1, 2), values)
    pairs = pairs_of(values, difference, neutral)
    return Batch(token_ids, lengths, pairs, np.zeros(len(pairs), np.float32))


def layout(difference: float, neutral: float | None, width: int | None = None) -> Layout[Example, Batch]:
    """Returns how examples become batches, see `lay_out`. They have similar lengths."""
    integers = tf.TensorSpec([None, width], tf.int32)
    signature = (
        {"token_ids": integers, "padding_mask": integers},
        tf.TensorSpec([None, 2], tf.int32),
        tf.TensorSpec([None], tf.float32),
    )
    return Layout(
        functools.partial(lay_out, difference=difference, neutral=neutral, width=width), signature, sorts=True
    )
