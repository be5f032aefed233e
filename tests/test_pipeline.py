"""The on-policy pipeline: when an element is collected, with which weights, and where it lands."""

from typing import NamedTuple

import pytest
import tensorflow as tf

from tfppo.pipeline import rollout_dataset


class Element(NamedTuple):
    iteration: tf.Tensor  # [] int64
    version: tf.Tensor  # [] int64, of the weights that collected it
    count: tf.Tensor  # [] int64, of the calls so far
    values: tf.Tensor  # [3]


class Collector:
    """Notes the version of the weights that it reads, and counts in a variable of its own."""

    def __init__(self, jit_compile=False):
        self.version = tf.Variable(0, dtype=tf.int64)
        self.count = tf.Variable(0, dtype=tf.int64)
        self.collect = tf.function(self._collect, autograph=False, jit_compile=jit_compile)

    def _collect(self, iteration):
        self.count.assign_add(1)
        values = tf.cast(iteration, tf.float32) + tf.zeros([3])
        return Element(iteration, self.version.read_value(), self.count.read_value(), values)


def train(collector, elements, length=5):
    """An update after each element, as a trainer does it."""
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
    assert collector.count == 5  # nothing was collected that was not asked for
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


@pytest.mark.gpu
def test_every_tensor_of_a_rollout_is_on_the_gpu():
    from tfppo.control.cartpole import CartPole
    from tfppo.control.networks import make_actor, make_critic
    from tfppo.control.policy import ActorCriticPolicy
    from tfppo.control.rollout import GraphCollector

    with tf.device("/GPU:0"):
        environment = CartPole()
        spaces = environment.observation_space, environment.action_space
        policy = ActorCriticPolicy(make_actor(*spaces, (8,)), make_critic(spaces[0], (8,)))
        collector = GraphCollector(policy, environment, 4, 8)
    elements = iter(rollout_dataset(collector.collect, device="/GPU:0"))
    for rollout in (next(elements), next(elements)):
        for tensor in tf.nest.flatten(rollout):
            assert "GPU:0" in tensor.device
