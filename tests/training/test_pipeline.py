"""Tests when the on-policy pipeline collects an element, with which weights, and on which device."""

from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from tfppo.errors import UsageError
from tfppo.training.pipeline import prompt_dataset, rollout_dataset


class Element(NamedTuple):
    iteration: tf.Tensor  # [] int64
    version: tf.Tensor  # [] int64, of the weights that collected it
    count: tf.Tensor  # [] int64, of the calls so far
    values: tf.Tensor  # [3]


class Collector:
    """Records the version of the weights that it reads, and counts its calls in a variable."""

    def __init__(self, jit_compile=False):
        self.version = tf.Variable(0, dtype=tf.int64)
        self.count = tf.Variable(0, dtype=tf.int64)
        self.collect = tf.function(self._collect, autograph=False, jit_compile=jit_compile)

    def _collect(self, iteration):
        self.count.assign_add(1)
        values = tf.cast(iteration, tf.float32) + tf.zeros([3])
        return Element(iteration, self.version.read_value(), self.count.read_value(), values)


def train(collector, elements, length=5):
    """Updates the weights after each element, as a trainer does."""
    for element in elements:
        yield element
        collector.version.assign_add(1)
        if collector.version == length:
            return


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_element_k_is_collected_with_the_weights_of_version_k(jit_compile):
    collector = Collector(jit_compile)
    elements = list(train(collector, rollout_dataset(collector.collect)))
    assert [int(e.version) for e in elements] == [0, 1, 2, 3, 4]
    assert [int(e.iteration) for e in elements] == [0, 1, 2, 3, 4]
    assert [int(e.count) for e in elements] == [1, 2, 3, 4, 5]
    assert collector.count == 5  # no element was collected before it was requested
    assert isinstance(elements[-1], Element) and elements[-1].values.numpy().tolist() == [4.0, 4.0, 4.0]


def test_nothing_is_collected_before_it_is_asked_for():
    collector = Collector()
    elements = iter(rollout_dataset(collector.collect))
    assert collector.count == 0
    next(elements)
    collector.version.assign(41)
    assert collector.count == 1
    assert next(elements).version == 41


def test_start_is_the_first_iteration():
    elements = iter(rollout_dataset(Collector().collect, start=7))
    assert [int(next(elements).iteration) for _ in range(3)] == [7, 8, 9]


def test_prefetching_is_switched_off():
    options = rollout_dataset(Collector().collect).options()
    assert options.experimental_optimization.inject_prefetch is False
    assert options.autotune.enabled is False
    assert options.deterministic is True


# ----- Prompts


class PromptedCollector(Collector):
    """Takes prompts and returns them as values."""

    def _collect(self, iteration, prompts, lengths, *_):
        element = super()._collect(iteration)
        return element._replace(values=prompts), lengths


def numbered_prompts():
    """Returns an infinite dataset with the elements ([k], 10 k)."""
    numbers = tf.data.Dataset.counter(0, dtype=tf.int32)
    return numbers.map(lambda k: (k[None], 10 * k))


@pytest.mark.parametrize("start", [0, 3])
def test_element_k_is_given_element_k_of_the_source(start):
    collector = PromptedCollector()
    elements = iter(rollout_dataset(collector.collect, start, source=numbered_prompts()))
    for k in range(start, start + 4):
        element, lengths = next(elements)
        assert element.iteration == k and element.values.numpy().tolist() == [k] and lengths == 10 * k


def test_with_a_source_too_element_k_is_collected_with_the_weights_of_version_k():
    collector = PromptedCollector()
    dataset = rollout_dataset(collector.collect, source=numbered_prompts().prefetch(2))
    elements = list(train(collector, dataset))
    assert [int(element.version) for element, _ in elements] == [0, 1, 2, 3, 4]
    assert [int(element.count) for element, _ in elements] == [1, 2, 3, 4, 5]
    assert collector.count == 5


NUM_PROMPTS = 10


def make_prompts():
    """Prompt n is n + 1 times the token n + 1, but at most four times, padded with 0."""
    lengths = np.minimum(np.arange(1, NUM_PROMPTS + 1), 4).astype(np.int32)
    tokens = np.where(np.arange(4) < lengths[:, None], np.arange(1, NUM_PROMPTS + 1)[:, None], 0).astype(np.int32)
    return tokens, lengths


def take(dataset, count):
    """Returns the first tokens of `count` batches of prompts, which are the prompts' numbers, in one list."""
    return [int(row[0]) for tokens, *_ in dataset.take(count) for row in tokens.numpy()]


@pytest.mark.parametrize("batch_size", [5, 4, 10, 15])
def test_every_prompt_comes_once_before_any_comes_again(batch_size):
    seen = take(prompt_dataset(*make_prompts(), batch_size, seed=1), 12)
    assert len(seen) == 12 * batch_size
    rounds = [seen[i : i + NUM_PROMPTS] for i in range(0, len(seen) - NUM_PROMPTS + 1, NUM_PROMPTS)]
    assert all(sorted(one) == list(range(1, NUM_PROMPTS + 1)) for one in rounds)
    assert len({tuple(one) for one in rounds}) == len(rounds) > 3  # shuffled again in each pass


@pytest.mark.parametrize("repeats", [2, 4])
def test_a_prompt_fills_as_many_neighbors_as_it_is_repeated(repeats):
    seen = take(prompt_dataset(*make_prompts(), 8, seed=1, repeats=repeats), 10)
    once = take(prompt_dataset(*make_prompts(), 8 // repeats, seed=1), 10)
    assert seen == [prompt for prompt in once for _ in range(repeats)]
    spec = prompt_dataset(*make_prompts(), 8, seed=1, repeats=repeats).element_spec
    assert [part.shape for part in spec] == [[8, 4], [8], [8]]


def test_repeats_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(UsageError, match="batch_size = 8 is not a multiple of repeats = 3"):
        prompt_dataset(*make_prompts(), 8, seed=1, repeats=3)


def test_the_order_of_prompts_hangs_on_the_seed():
    orders = [take(prompt_dataset(*make_prompts(), 5, seed), 6) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_the_order_of_prompts_hangs_on_nothing_but_the_seed():
    tf.random.set_seed(7)
    dataset = prompt_dataset(*make_prompts(), 5, seed=1)
    orders = [take(dataset, 6), take(dataset, 6)]  # the same dataset can be iterated again
    tf.random.set_seed(8)
    orders.append(take(prompt_dataset(*make_prompts(), 5, seed=1), 6))
    assert orders[0] == orders[1] == orders[2]


def test_batches_of_prompts_keep_their_lengths_and_their_padding():
    prompts, all_lengths = make_prompts()
    for tokens, lengths, rows in prompt_dataset(prompts, all_lengths, 5, seed=1).take(4):
        assert tokens.shape == [5, 4] and lengths.shape == rows.shape == [5]
        assert tokens.dtype == lengths.dtype == rows.dtype == tf.int32
        numbers = tokens.numpy()[:, 0] - 1
        np.testing.assert_array_equal(rows, numbers)
        np.testing.assert_array_equal(tokens, prompts[numbers])
        np.testing.assert_array_equal(lengths, all_lengths[numbers])


def test_shapes_of_batches_of_prompts_are_known_before_they_are_made():
    tokens, lengths, rows = prompt_dataset(*make_prompts(), 5, seed=1).element_spec
    assert tokens.shape == [5, 4] and lengths.shape == rows.shape == [5]


def test_a_resumed_run_goes_on_with_the_prompts_that_would_have_come():
    collector = PromptedCollector()

    def numbers(start, count):
        dataset = rollout_dataset(collector.collect, start, source=prompt_dataset(*make_prompts(), 4, seed=1))
        return [element.values.numpy()[:, 0].tolist() for element, _ in dataset.take(count)]

    assert numbers(0, 7)[3:] == numbers(3, 4)


@pytest.mark.gpu
def test_every_tensor_of_a_rollout_is_on_the_gpu():
    from tfppo.control.envs.classic import CartPole
    from tfppo.control.policies.actor_critic import ActorCriticPolicy
    from tfppo.control.policies.networks import make_actor, make_critic
    from tfppo.control.rollouts.graph import GraphCollector

    with tf.device("/GPU:0"):
        environment = CartPole()
        spaces = environment.observation_space, environment.action_space
        policy = ActorCriticPolicy(make_actor(*spaces, (8,)), make_critic(spaces[0], (8,)))
        collector = GraphCollector(policy, environment, 4, 8)
    elements = iter(rollout_dataset(collector.collect, device="/GPU:0"))
    for rollout in (next(elements), next(elements)):
        for tensor in tf.nest.flatten(rollout):
            assert "GPU:0" in tensor.device
