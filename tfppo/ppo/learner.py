"""PPO's update, the same for control and text: epochs x minibatches in one compiled loop. It returns metrics and
never writes."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfppo.errors import UsageError
from tfppo.execution.compilation import compiled
from tfppo.execution.replicas import ALONE, Replicas
from tfppo.ops.divergences import (
    adaptive_kl_coefficient_schulman,
    adaptive_kl_coefficient_ziegler,
    fixed_kl_coefficient,
)
from tfppo.ops.masking import explained_variance
from tfppo.ops.nest import map_tensors
from tfppo.ops.random import fold_in, permutation
from tfppo.ppo.config import PPOConfig
from tfppo.ppo.guard import NOTHING, Guard
from tfppo.ppo.objective import MEAN_METRICS, Coefficients, Objective
from tfppo.ppo.schedules import make_schedule
from tfppo.ppo.types import Batch, Policy, value_mask_of
from tfppo.settings import exact_div

SCHEDULES = ("schedule/learning_rate", "schedule/clip_ratio", "schedule/entropy_coeff", "schedule/kl_coeff")
RATIOS = ("policy/ratio_max", "policy/first_ratio_max")  # the largest of an update's steps, and of its first step
METRICS = (*MEAN_METRICS, *RATIOS, "value/explained_variance", *SCHEDULES, "guard/skipped_updates")


class PPOLearner(tf.Module):
    """Trains a policy on batches by proximal policy optimisation [Schulman et al. 2017].

    One `update` is one iteration: `num_epochs` passes over the batch in minibatches, each a step of Adam on the
    objective (see `objective.Objective`). Numbers that are not finite never reach the weights (see `guards.Guard`).

    Args:
      policy: what is trained: `evaluate_actions(inputs, actions)` and `trainable_variables`.
      config: the hyperparameters.
      num_iterations: updates in the run; the schedules reach their end there.
      prepare: turns what `update` is given into a Batch inside the compiled program (a rollout into advantages,
        say); None: `update` is given a Batch.
      refresh: as `prepare`, but with the values of the policy as it is now: where `recompute_advantages` is on, each
        epoch takes its advantages and returns [Andrychowicz et al. 2021].
      seed: seeds the order of minibatches.
      mode: "xla", "graph" or "eager".
      replicas: who share each minibatch; all of them are given the same data.

    Raises:
      UsageError: if `recompute_advantages` is on without a `refresh`, or minibatches cannot be shared.
    """

    def __init__(
        self,
        policy: Policy,
        config: PPOConfig,
        num_iterations: int,
        *,
        prepare: Callable[[Any], Batch] | None = None,
        refresh: Callable[[Any], Batch] | None = None,
        seed: int = 0,
        mode: str = "xla",
        replicas: Replicas = ALONE,
    ):
        super().__init__(name="ppo_learner")
        self.policy = policy
        self.config = config
        self.replicas = replicas
        replicas.divide(config.minibatch_size, "minibatch_size", config.num_micro_batches)
        mode, share_mode = replicas.modes(mode)
        self.objective = Objective(policy, config, replicas, share_mode)
        self.prepare = prepare
        self.refresh = refresh if config.recompute_advantages else None
        if config.recompute_advantages and refresh is None:
            raise UsageError("recompute_advantages wants values anew in each epoch, but there is no refresh: give one")
        self.seed = tf.constant([seed, 0x0FF5E7], tf.int32)
        self.learning_rate = make_schedule(
            config.learning_rate_schedule, config.learning_rate, num_iterations, config.warmup_iterations
        )
        self.clip_ratio = make_schedule(config.clip_ratio_schedule, config.clip_ratio, num_iterations)
        self.entropy_coeff = make_schedule(config.entropy_coeff_schedule, config.entropy_coeff, num_iterations)
        with replicas.scope():
            self.optimizer = keras.optimizers.Adam(config.learning_rate, epsilon=config.adam_epsilon)
            self.optimizer.build(policy.trainable_variables)
        self.guard = Guard()
        self.iteration = tf.Variable(0, dtype=tf.int64, trainable=False, name="iteration")
        self.kl_coeff = tf.Variable(config.kl_coeff, dtype=tf.float32, trainable=False, name="kl_coeff")
        self.update = compiled(self.update_function, mode)

    def update_function(self, data: Any) -> dict[str, tf.Tensor]:
        """What `update` compiles: trains on one rollout. Returns scalar metrics, named as in `metrics.METRICS`: means
        over the minibatches that were evaluated and finite (`policy/ratio_max`: the largest)."""
        batch = data if self.prepare is None else self.prepare(data)
        learning_rate = self.learning_rate(self.iteration)
        coefficients = Coefficients(
            self.clip_ratio(self.iteration), self.entropy_coeff(self.iteration), self.kl_coeff.read_value()
        )
        self.optimizer.learning_rate.assign(learning_rate)
        trained = [*self.policy.trainable_variables, *self.optimizer.variables]
        before = [tf.identity(variable) for variable in trained]  # TensorFlow copies what is about to be written
        sums, ratios, last_kl, found = self._run_epochs(data, batch, coefficients)
        self._undo_unless(found == NOTHING, trained, before)
        steps = sums[-1]
        metrics = dict(zip(MEAN_METRICS, tf.unstack(sums[:-1] / steps), strict=True))
        metrics |= zip(RATIOS, tf.unstack(ratios), strict=True)
        metrics["value/explained_variance"] = explained_variance(batch.old_values, batch.returns, value_mask_of(batch))
        metrics |= zip(SCHEDULES, (learning_rate, *coefficients), strict=True)
        kl = last_kl if batch.reference_kl is None else tf.reduce_mean(batch.reference_kl)
        kl_coeff = self._next_kl_coeff(kl, batch.actions.shape[0])
        self.kl_coeff.assign(tf.where(found == NOTHING, kl_coeff, self.kl_coeff))
        metrics["guard/skipped_updates"] = self.guard.count(found)
        self.iteration.assign_add(1)
        return metrics

    def _run_epochs(
        self, data: Any, batch: Batch, coefficients: Coefficients
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """All gradient steps of an iteration. Returns the sums of MEAN_METRICS and the number of steps, RATIOS, the
        last epoch's mean KL, and what the guard has found, which ends the iteration."""
        config = self.config
        num_items = batch.actions.shape[0]
        num_minibatches = exact_div(num_items, config.minibatch_size, "the batch", "minibatch_size")
        seed = fold_in(self.seed, self.iteration)
        zero = tf.zeros([], batch.advantages.dtype)
        sums, ratios = tf.zeros([len(MEAN_METRICS) + 1], zero.dtype), tf.zeros([len(RATIOS)], zero.dtype)
        found = self.guard.of_batch(data, batch)

        def epoch_body(epoch, proceed, sums, ratios, _, found):
            order = permutation(num_items, fold_in(seed, epoch))
            rows = [num_minibatches, config.minibatch_size]
            current = batch
            if self.refresh is not None:
                anew = self.refresh(data)
                current = batch._replace(advantages=anew.advantages, returns=anew.returns)
            shuffled = map_tensors(lambda x: tf.reshape(tf.gather(x, order), [*rows, *x.shape[1:]]), current)

            def minibatch_body(index, proceed, sums, ratios, epoch_kl, found):
                minibatch = map_tensors(lambda x: x[index], shuffled)  # [M, ...]
                metrics, gradients = self.objective.gradients(minibatch, coefficients)
                found = self.guard.of_step(metrics["loss/total"], metrics["policy/grad_norm"])
                is_finite = found == NOTHING
                proceed = self._step(gradients, metrics["policy/approx_kl"]) & is_finite
                ratio = metrics["policy/ratio_max"]
                largest = tf.stack([tf.maximum(ratios[0], ratio), tf.where(sums[-1] == 0, ratio, ratios[1])])
                row = tf.stack([metrics[name] for name in (*MEAN_METRICS, "steps")])
                sums, ratios = tf.where(is_finite, sums + row, sums), tf.where(is_finite, largest, ratios)
                return index + 1, proceed, sums, ratios, epoch_kl + metrics["loss/kl"], found

            index, proceed, sums, ratios, epoch_kl, found = tf.while_loop(
                lambda index, proceed, *_: (index < num_minibatches) & proceed,
                minibatch_body,
                (tf.constant(0), proceed, sums, ratios, zero, found),
            )
            return epoch + 1, proceed, sums, ratios, epoch_kl / tf.cast(index, zero.dtype), found

        _, _, sums, ratios, last_kl, found = tf.while_loop(
            lambda epoch, proceed, *_: (epoch < config.num_epochs) & proceed,
            epoch_body,
            (tf.constant(0), found == NOTHING, sums, ratios, zero, found),
        )
        return sums, ratios, last_kl, found

    def _step(self, gradients: list[tf.Tensor], approx_kl: tf.Tensor) -> tf.Tensor:
        """Applies the gradients, unless target_kl forbids it. Returns whether the epochs go on."""

        def apply():
            self.replicas.apply(self.optimizer, gradients, self.policy.trainable_variables)
            return tf.constant(True)

        if self.config.target_kl is None:
            return apply()
        return tf.cond(approx_kl <= 1.5 * self.config.target_kl, apply, lambda: tf.constant(False))

    @staticmethod
    def _undo_unless(is_finite: tf.Tensor, variables: list[Any], before: list[tf.Tensor]) -> None:
        """Gives the variables back what they were before the update, if something in it was not finite.

        Once an update: to ask before each gradient step would cost a plain graph a tenth of its time.
        """

        def undo():
            for variable, value in zip(variables, before, strict=True):
                variable.assign(value)
            return tf.constant(False)

        tf.cond(is_finite, lambda: tf.constant(True), undo)

    def _next_kl_coeff(self, kl: tf.Tensor, num_items: int) -> tf.Tensor:
        config = self.config
        if config.kl_controller == "schulman":
            return adaptive_kl_coefficient_schulman(self.kl_coeff, kl, config.adaptive_kl_target)
        if config.kl_controller == "ziegler":
            return adaptive_kl_coefficient_ziegler(
                self.kl_coeff, kl, config.adaptive_kl_target, num_items, config.kl_horizon
            )
        return fixed_kl_coefficient(self.kl_coeff, kl)
