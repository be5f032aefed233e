"""Schedules over the iterations of a run.

A schedule depends on the iteration and not on the number of optimizer steps, because `target_kl` may skip steps. The
curves are Keras schedules; this module adds the warm-up.
"""

import keras
import tensorflow as tf

from tfppo.errors import UsageError


class Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that rises linearly to the value of another schedule and then follows it.

    The first iteration already has 1 / (warmup_iterations + 1) of the value, because an iteration with a learning rate
    of 0 would waste a rollout.

    Args:
      schedule: The schedule after the warm-up.
      warmup_iterations: Number of iterations of the warm-up.
    """

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule, warmup_iterations: int):
        super().__init__()
        self.schedule = schedule
        self.warmup_iterations = warmup_iterations

    def __call__(self, iteration: tf.Tensor) -> tf.Tensor:
        """Computes the value at an iteration, scalar."""
        iteration = tf.cast(iteration, tf.float32)
        rise = tf.minimum(1.0, (iteration + 1.0) / (self.warmup_iterations + 1.0))
        return rise * self.schedule(tf.maximum(0.0, iteration - self.warmup_iterations))

    def get_config(self) -> dict[str, object]:
        """Returns the constructor arguments."""
        return {"schedule": self.schedule, "warmup_iterations": self.warmup_iterations}


def make_schedule(
    kind: str, initial_value: float, num_iterations: int, warmup_iterations: int = 0
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Makes a schedule, a callable of the iteration that works inside compiled programs.

    With value v at the start and iteration k of K = `num_iterations`, it is

    - constant: `v`
    - linear: `v (1 - k / K)`
    - cosine: `v (1 + cos(pi k / K)) / 2`

    After a warm-up of W iterations, the decay takes the remaining K - W iterations.

    Args:
      kind: "constant", "linear" or "cosine".
      initial_value: v.
      num_iterations: K.
      warmup_iterations: W.

    Returns:
      The schedule.

    Raises:
      UsageError: If the kind is unknown, or if the warm-up is not shorter than the run.
    """
    if warmup_iterations >= num_iterations:
        raise UsageError(
            f"warmup_iterations is {warmup_iterations}; it must be below the {num_iterations} iterations of the run: "
            "lower it, or train for longer"
        )
    decay_steps = num_iterations - warmup_iterations
    curves = {
        "constant": lambda: keras.optimizers.schedules.PolynomialDecay(initial_value, decay_steps, initial_value),
        "linear": lambda: keras.optimizers.schedules.PolynomialDecay(initial_value, decay_steps, 0.0),
        "cosine": lambda: keras.optimizers.schedules.CosineDecay(initial_value, decay_steps),
    }
    if kind not in curves:
        raise UsageError(f"schedule is {kind!r}; it must be one of {', '.join(curves)}")
    return Warmup(curves[kind](), warmup_iterations)
