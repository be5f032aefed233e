"""Lays examples out in rows of a batch: one in each row, or several without attention between them.

Several examples share a row in "sequence packing" (Krell et al. 2021, "Efficient sequence packing without
cross-contamination"). Here the examples of a batch are packed, and not those of the file, so that each gradient step
has the same examples, and the same loss, as without packing.
"""

import functools
import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfppo.text.sft.examples import Example
from tfppo.text.supervised.batches import Layout

STRETCH = 2  # the longest row has at most about this many times the tokens of the longest example


Element = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]


class Batch(NamedTuple):
    """R rows of S tokens, padded on the right."""

    token_ids: np.ndarray  # int32 [R, S], 0 at padding
    segments: np.ndarray  # int32 [R, S]: the number of the token's example in its row, from 1; 0 at padding
    targets: np.ndarray  # int32 [R, S], the next token of the same example, 0 where there is none
    weights: np.ndarray  # float32 [R, S], 1 where the loss of the target counts, else 0

    @property
    def is_token(self) -> np.ndarray:
        """Bool [R, S], False at padding."""
        return self.segments > 0

    def element(self) -> Element:
        """Returns inputs, targets and weights as Keras' `fit` takes them."""
        return {"token_ids": self.token_ids, "padding_mask": self.segments}, self.targets, self.weights


def rows_of(lengths: Sequence[int]) -> list[list[int]]:
    """Distributes examples to rows, such that little padding is needed.

    For a number of rows, each example, the longest first, goes into the row with the fewest tokens, which keeps the
    longest row short (the rule "longest processing time first", Graham 1969). The number of rows is the one with the
    fewest positions, among those whose rows are at most about twice as long as the longest example: attention takes
    time in proportion to the square of the length.

    Args:
      lengths: Lengths of N examples.

    Returns:
      The numbers of the examples in each row.
    """
    longest, total = max(lengths), sum(lengths)
    order = sorted(range(len(lengths)), key=lambda number: (-lengths[number], number))
    found: list[list[int]] = []
    fewest = 0
    for count in range(-(-total // longest), -(-total // (STRETCH * longest)) - 1, -1):
        filled = [(0, row) for row in range(count)]  # tokens in each row
        rows: list[list[int]] = [[] for _ in range(count)]
        for number in order:
            tokens, row = filled[0]
            rows[row].append(number)
            heapq.heapreplace(filled, (tokens + lengths[number], row))
        positions = count * max(filled)[0]
        if not found or positions < fewest:
            found, fewest = rows, positions
    return [row for row in found if row]


def lay_out(examples: Sequence[Example], packs: bool, width: int | None = None) -> Batch:
    """Makes a batch of examples.

    Args:
      examples: N examples of at least 2 tokens.
      packs: True puts several examples into a row, see `rows_of`.
      width: Positions of a row. None: as many as the longest row needs.

    Returns:
      The batch. An example of n tokens takes n - 1 positions, because its last token is only predicted.
    """
    lengths = [len(example.tokens) - 1 for example in examples]
    rows = rows_of(lengths) if packs else [[number] for number in range(len(examples))]
    shape = (len(rows), width or max(sum(lengths[number] for number in row) for row in rows))
    batch = Batch(*(np.zeros(shape, kind) for kind in (np.int32, np.int32, np.int32, np.float32)))
    for row, members in enumerate(rows):
        place = 0
        for segment, number in enumerate(members, 1):
            tokens, counts = examples[number]
            part = slice(place, place + lengths[number])
            batch.token_ids[row, part] = tokens[:-1]
            batch.segments[row, part] = segment
            batch.targets[row, part] = tokens[1:]
            batch.weights[row, part] = counts[1:]
            place = part.stop
    return batch


def layout(packs: bool, width: int | None = None) -> Layout[Example, Batch]:
    """Returns how examples become batches: packed, or in rows of their own and of similar lengths.

    Args:
      packs: True packs the examples of a batch.
      width: Positions of each row, for models that need a fixed length. None: batches differ.
    """
    integers, floats = (tf.TensorSpec([None, width], kind) for kind in (tf.int32, tf.float32))
    signature = ({"token_ids": integers, "padding_mask": integers}, integers, floats)
    return Layout(functools.partial(lay_out, packs=packs, width=width), signature, sorts=not packs)
