"""Lays examples out in rows of a batch: one in each row, or several without attention between them.

Several examples share a row in "sequence packing" (Krell et al. 2021, "Efficient sequence packing without
cross-contamination"). Here the examples of a batch are packed, and not those of the file, so that each gradient step
has the same examples, and the same loss, as without packing.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tfppo.text.supervised.examples import Example


class Batch(NamedTuple):
    """R rows of S tokens, padded on the right."""

    token_ids: np.ndarray  # int32 [R, S], 0 at padding
    segments: np.ndarray  # int32 [R, S]: the number of the token's example in its row, from 1; 0 at padding
    targets: np.ndarray  # int32 [R, S], the next token of the same example, 0 where there is none
    weights: np.ndarray  # float32 [R, S], 1 where the loss of the target counts, else 0

    @property
    def padding(self) -> float:
        """Share of the positions that hold no token."""
        return float(np.mean(self.segments == 0))


def rows_of(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Distributes examples to rows: each, the longest first, goes into the first row that has room for it.

    This is the rule "first-fit decreasing" for bin packing, which needs at most 11/9 of the fewest rows, plus 6/9
    (Dosa 2007).

    Args:
      lengths: Lengths of N examples, at most `capacity` each.
      capacity: Length of a row.

    Returns:
      The numbers of the examples in each row.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: (-lengths[number], number)):
        fitting = (row for row, left in enumerate(room) if left >= lengths[number])
        row = next(fitting, len(rows))
        if row == len(rows):
            rows.append([])
            room.append(capacity)
        rows[row].append(number)
        room[row] -= lengths[number]
    return rows


def lay_out(examples: Sequence[Example], packs: bool) -> Batch:
    """Makes a batch of examples.

    Args:
      examples: N examples of at least 2 tokens.
      packs: True puts several examples into a row, where they fit. A row is as long as the longest example.

    Returns:
      The batch. An example of n tokens takes n - 1 positions, because its last token is only predicted.
    """
    lengths = [len(example.tokens) - 1 for example in examples]
    width = max(lengths)
    rows = rows_of(lengths, width) if packs else [[number] for number in range(len(examples))]
    shape = (len(rows), width)
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
