"""Whole iterations as one program: rollout, advantages, all epochs and minibatches, several iterations a call."""

import time
from collections.abc import Callable, Iterator

import tensorflow as tf

from tfppo.control.rollouts.graph import GraphCollector
from tfppo.execution.compilation import compiled
from tfppo.ppo.learner import METRICS, PPOLearner


def fuse(
    collector: GraphCollector, learner: PPOLearner, mode: str
) -> Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]:
    """A program of (first, count), scalar int64 tensors: the iterations from `first` on, `count` of them, by the same
    functions that `collector.collect` and `learner.update` compile one by one. It gives the last one's metrics.

    Nothing is told to the host before the program ends.
    """

    def program(first: tf.Tensor, count: tf.Tensor) -> dict[str, tf.Tensor]:
        def body(iteration: tf.Tensor, _: dict[str, tf.Tensor]) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
            rollout = collector.collect_function(iteration)
            return iteration + 1, {**rollout.metrics, **learner.update_function(rollout)}

        nothing = collector.statistics.metrics() | dict.fromkeys(METRICS, tf.zeros([]))
        _, metrics = tf.while_loop(lambda iteration, _: iteration < first + count, body, (first, nothing))
        return metrics

    return compiled(program, mode)


def fused_iterations(
    collector: GraphCollector, learner: PPOLearner, stop: int, device: str, mode: str, intervals: tuple[int, ...]
) -> Iterator[tuple[int, int, dict[str, float], float]]:
    """Trains up to iteration `stop`, each call as many iterations as no interval ends within.

    Yields, after each call: the number of the last iteration, how many there were, its metrics, and their seconds.

    Raises:
      UsageError: if too many updates in a row were skipped because something was not finite.
    """
    program = fuse(collector, learner, mode)
    first = int(learner.iteration.numpy())
    while first < stop:
        count = min(stop, *((first // interval + 1) * interval for interval in intervals)) - first
        began = time.perf_counter()
        with tf.device(device):
            metrics = program(tf.constant(first, tf.int64), tf.constant(count, tf.int64))
        row = {name: float(value) for name, value in metrics.items()}
        first += count
        if row["guard/skipped_updates"]:
            learner.guard.check(first - 1)
        yield first - 1, count, row, time.perf_counter() - began
