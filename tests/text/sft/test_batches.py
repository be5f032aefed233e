"""The order of the examples, which depends on the seed and the epoch alone."""

import numpy as np
import pytest

from tfppo.text.sft.examples import Example
from tfppo.text.sft.packing import layout
from tfppo.text.supervised.batches import Batches


def examples_of(lengths):
    return [
        Example(np.full(length, number + 1, np.int32), np.arange(length) > 0) for number, length in enumerate(lengths)
    ]


LENGTHS = np.random.default_rng(0).integers(2, 40, 103).tolist()


@pytest.mark.parametrize("packs", [True, False])
def test_each_epoch_has_each_example_once_in_another_order(packs):
    batches = Batches(examples_of(LENGTHS), 8, layout(packs), seed=3)
    assert len(batches) == 13
    orders = [np.concatenate(batches.order(epoch)).tolist() for epoch in range(3)]
    for order in orders:
        assert sorted(order) == list(range(103))
    assert orders[0] != orders[1] and orders[1] != orders[2]
    again = Batches(examples_of(LENGTHS), 8, layout(packs), seed=3)
    assert [np.concatenate(again.order(epoch)).tolist() for epoch in range(3)] == orders
    other = Batches(examples_of(LENGTHS), 8, layout(packs), seed=4)
    assert np.concatenate(other.order(0)).tolist() != orders[0]


def test_a_later_start_gives_the_same_batches():
    batches = Batches(examples_of(LENGTHS), 8, layout(True), seed=3)
    whole, rest = list(batches.steps(0, 30)), list(batches.steps(17, 30))
    for one, other in zip(whole[17:], rest, strict=True):
        for left, right in zip(one, other, strict=True):
            np.testing.assert_array_equal(left, right)


def test_packing_and_similar_lengths_need_little_padding():
    examples = examples_of(LENGTHS * 8)
    packed, similar = (Batches(examples, 16, layout(packs), seed=3).padding() for packs in (True, False))
    plain = Batches(examples, 16, layout(False)).padding()  # in the given order, one example a row
    assert packed < 0.05 and similar < 0.1 and plain > 0.35


def test_the_dataset_has_the_batches():
    batches = Batches(examples_of(LENGTHS[:20]), 8, layout(True), seed=3)
    elements = list(batches.dataset(1, 5).as_numpy_iterator())
    assert len(elements) == 4
    for (inputs, targets, weights), batch in zip(elements, batches.steps(1, 5), strict=True):
        found = (inputs["token_ids"], inputs["padding_mask"], targets, weights)
        for left, right in zip(found, batch, strict=True):
            np.testing.assert_array_equal(left, right)
