"""Schedules over the iterations of a run, driven by the iteration and never by optimizer steps: skipped steps
(target_kl) must not derail them. The curves are Keras' own; only the warm-up around them is ours."""

import keras
import tensorflow as tf

from tfppo.errors import UsageError


class Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly to the value of `schedule` over `warmup_iterations`, then follows it.

    The first iteration already has 1 / (warmup_iterations + 1) of the value, so that no rollout is trained on with a
    learning rate of 0.
    """

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule, warmup_iterations: int):
        super().__init__()
        self.schedule = schedule
        self.warmup_iterations = warmup_iterations

    def __call__(self, iteration: tf.Tensor) -> tf.Tensor:
        iteration = tf.cast(iteration, tf.float32)
        rise = tf.minimum(1.0, (iteration + 1.0) / (self.warmup_iterations + 1.0))
        return rise * self.schedule(tf.maximum(0.0, iteration - self.warmup_iterations))

    def get_config(self) -> dict[str, object]:
        return {"schedule": self.schedule, "warmup_iterations": self.warmup_iterations}


def make_schedule(
    kind: str, initial_value: float, num_iterations: int, warmup_iterations: int = 0
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Makes a schedule: a callable of iteration k of K = `num_iterations`, usable inside a compiled program.

    constant: v. linear: v (1 - k / K). cosine: v (1 + cos(pi k / K)) / 2. With a warm-up of W iterations the decay
    takes the K - W iterations after it.

    Raises:
      UsageError: on an unknown kind, or a warm-up that leaves no iteration.
    """
    if warmup_iterations >= num_iterations:
        raise UsageError(f"warmup_iterations = {warmup_iterations} leaves none of the {num_iterations} iterations")
    decay_steps = num_iterations - warmup_iterations
    curves = {
        "constant": lambda: keras.optimizers.schedules.PolynomialDecay(initial_value, decay_steps, initial_value),
        "linear": lambda: keras.optimizers.schedules.PolynomialDecay(initial_value, decay_steps, 0.0),
        "cosine": lambda: keras.optimizers.schedules.CosineDecay(initial_value, decay_steps),
    }
    if kind not in curves:
        raise UsageError(f"schedule must be one of {', '.join(curves)}, not {kind!r}")
    return Warmup(curves[kind](), warmup_iterations)
