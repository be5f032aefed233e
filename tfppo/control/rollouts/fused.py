"""Iterations as one compiled program: rollout, advantages, and all epochs and minibatches of the update."""

import time
from collections.abc import Callable, Iterator

import tensorflow as tf

from tfppo.control.rollouts.graph import GraphCollector
from tfppo.execution.compilation import compiled
from tfppo.ppo.learner import METRICS, PPOLearner


def fuse(
    collector: GraphCollector, learner: PPOLearner, mode: str
) -> Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]:
    """Makes a program that runs several iterations in one call.

    It uses the same functions that `collector.collect` and `learner.update` compile separately. The host gets no
    information before the program ends.

    Args:
      collector: Collects the rollouts.
      learner: Does the updates.
      mode: Compilation mode: "xla", "graph" or "eager".

    Returns:
      A function of two int64 scalars, the number of the first iteration and the number of iterations, which returns the
      metrics of the last iteration.
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
    """Trains up to iteration `stop` with a fused program.

    A call runs until the next multiple of one of the intervals.

    Args:
      collector: Collects the rollouts.
      learner: Does the updates.
      stop: Number of iterations of the run.
      device: The device of the program.
      mode: Compilation mode: "xla", "graph" or "eager".
      intervals: Intervals of logging and checkpoints, in iterations.

    Yields:
      After each call, the number of its last iteration, the number of iterations in the call, the metrics of the last
      one, and the seconds that the call took.

    Raises:
      UsageError: If too many consecutive updates were skipped because of values that are not finite.
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
