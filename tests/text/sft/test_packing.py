"""Packing: rows of several examples, and the loss of packed examples in every family that can pack."""

import numpy as np
import pytest
import tensorflow as tf
from support.families import FAMILIES, VOCABULARY, make_family

from tfppo.text.models.lstm import LSTMLanguageModel
from tfppo.text.sft.examples import Example
from tfppo.text.sft.network import SegmentMask, can_pack, training_network
from tfppo.text.sft.packing import lay_out, layout, rows_of
from tfppo.text.sft.tuner import token_losses

NOT_PACKED = {"Gemma", "Gemma2", "Gemma3", "Mixtral", "QwenMoe", "Qwen3Moe", "Qwen3.5", "Qwen3.5Moe", "GptOss"}
QUICK = {"GPT2", "Llama tied", "SmolLM3", "Mistral", "Falcon"}
PACKED = [
    pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in FAMILIES if name not in NOT_PACKED
]


def example(*tokens, learned=1):
    return Example(np.int32(tokens), np.arange(len(tokens)) >= learned)


def random_examples(lengths=(12, 5, 6, 3, 9, 4, 2)):
    random = np.random.default_rng(0)
    return [example(*random.integers(1, VOCABULARY, length), learned=1 + length // 3) for length in lengths]


def test_a_batch_by_hand():
    examples = [example(5, 6, 7, 8, 9, learned=2), example(4, 3), example(2, 1, 2)]
    packed = lay_out(examples, packs=True)
    np.testing.assert_array_equal(packed.token_ids, [[5, 6, 7, 8, 2, 1, 4]])
    np.testing.assert_array_equal(packed.segments, [[1, 1, 1, 1, 2, 2, 3]])
    np.testing.assert_array_equal(packed.targets, [[6, 7, 8, 9, 1, 2, 3]])
    np.testing.assert_array_equal(packed.weights, [[0, 1, 1, 1, 1, 1, 1]])
    padded = lay_out(examples, packs=False)
    np.testing.assert_array_equal(padded.segments, [[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]])
    np.testing.assert_array_equal(padded.targets, [[6, 7, 8, 9], [3, 0, 0, 0], [1, 2, 0, 0]])
    assert [np.mean(batch.segments == 0) for batch in (packed, padded)] == [0.0, 5 / 12]


def test_rows_hold_each_example_once_and_little_padding():
    lengths = np.random.default_rng(1).integers(1, 30, 200).tolist()
    rows = rows_of(lengths)
    assert sorted(number for row in rows for number in row) == list(range(200))
    used = [sum(lengths[number] for number in row) for row in rows]
    assert 29 <= max(used) <= 2 * 29 + 1
    assert len(used) * max(used) <= 1.03 * sum(lengths)
    assert rows_of([7]) == [[0]] and sorted(map(sorted, rows_of([7, 7]))) in ([[0], [1]], [[0, 1]])


def test_the_mask_and_the_positions_of_segments():
    mask, positions = SegmentMask()(tf.constant([[1, 1, 2, 2, 2, 0]]))
    np.testing.assert_array_equal(positions, [[0, 1, 0, 1, 2, 0]])
    expected = np.zeros([6, 6], int)
    expected[:2, :2] = expected[2:5, 2:5] = expected[5, 5] = 1
    np.testing.assert_array_equal(mask[0], expected)


def losses(network, batch):
    logits = network({"token_ids": batch.token_ids, "padding_mask": batch.segments}, training=False)
    return float(tf.reduce_sum(token_losses(batch.targets, logits) * batch.weights) / batch.weights.sum())


@pytest.mark.parametrize("name", PACKED)
def test_the_packed_loss_is_the_loss_without_packing(name):
    model, examples = make_family(name), random_examples()
    packed = lay_out(examples, packs=True)
    assert len(packed.token_ids) < len(examples) / 2
    alone = np.array([losses(training_network(model, False), lay_out([one], False)) for one in examples])
    expected = np.average(alone, weights=[one.counts.sum() for one in examples])
    assert losses(training_network(model, True), packed) == pytest.approx(expected, abs=1e-5)
    as_one = packed._replace(segments=(packed.segments > 0).astype(np.int32))  # attention between examples
    assert abs(losses(training_network(model, False), as_one) - expected) > 1e-3


@pytest.mark.parametrize(
    "name", ["Gemma3", *(pytest.param(name, marks=pytest.mark.slow) for name in sorted(NOT_PACKED - {"Gemma3"}))]
)
def test_padding_does_not_change_the_loss_of_families_that_are_not_packed(name):
    model, examples = make_family(name), random_examples()
    assert not can_pack(model)
    network = training_network(model, False)
    alone = np.array([losses(network, lay_out([one], False)) for one in examples])
    expected = np.average(alone, weights=[one.counts.sum() for one in examples])
    assert losses(network, lay_out(examples, False)) == pytest.approx(expected, abs=1e-5)


def test_an_lstm_is_not_packed():
    assert not can_pack(LSTMLanguageModel(VOCABULARY, num_layers=1, hidden_dim=8))


def test_rows_of_a_fixed_length_are_padded_further():
    examples = [example(5, 6, 7), example(4, 3)]
    free, fixed = lay_out(examples, packs=False), lay_out(examples, packs=False, width=5)
    assert free.token_ids.shape == (2, 2) and fixed.token_ids.shape == (2, 5)
    for narrow, wide in zip(free, fixed, strict=True):
        np.testing.assert_array_equal(narrow, wide[:, :2])
        assert not wide[:, 2:].any()
    inputs, _, _ = layout(packs=False, width=5).signature
    assert inputs["token_ids"].shape.as_list() == [None, 5]
