"""PPO's update, the same for control and text: epochs x minibatches in one compiled loop. It returns metrics and
never writes."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfppo.config import PPOConfig
from tfppo.divergences import (
    adaptive_kl_coefficient_schulman,
    adaptive_kl_coefficient_ziegler,
    approximate_kl,
    fixed_kl_coefficient,
    kl_k2,
)
from tfppo.losses import MAX_LOG_RATIO, clipped_surrogate_loss, clipped_value_loss
from tfppo.masking import explained_variance, masked_mean, masked_sum, masked_whiten, zero_outside
from tfppo.placement import compiled
from tfppo.random import fold_in, permutation
from tfppo.schedules import make_schedule
from tfppo.settings import exact_div
from tfppo.types import Batch, Evaluation, Policy, map_tensors

MEAN_METRICS = (
    "loss/policy",
    "loss/value",
    "loss/entropy",
    "loss/kl",
    "loss/total",
    "policy/approx_kl",
    "policy/clip_fraction",
    "policy/entropy",
    "policy/grad_norm",
    "value/clip_fraction",
)
OTHER_METRICS = ("policy/ratio_max", "value/explained_variance", "schedule/learning_rate", "schedule/kl_coeff")


class PPOLearner(tf.Module):
    """Trains a policy on batches by proximal policy optimisation [Schulman et al. 2017].

    One `update` is one iteration: `num_epochs` passes over the batch in minibatches, each a step of Adam on
        policy loss + value_coeff * value loss - entropy_coeff * entropy + kl_coeff * KL,
    where KL is KL(old || new), exact where the batch holds the old distribution, or KL(policy || reference) where it
    holds the reference's log-probabilities. With `kl_in` "reward" the last term is left out: whoever prepares the batch
    takes kl_coeff * KL off the rewards.

    Args:
      policy: what is trained: `evaluate(inputs, actions)` and `trainable_variables`.
      config: the hyperparameters.
      num_iterations: updates in the run; the schedules reach their end there.
      prepare: turns what `update` is given into a Batch inside the compiled program (a rollout into advantages,
        say); None: `update` is given a Batch.
      seed: seeds the order of minibatches.
      mode: "xla", "graph" or "eager".
    """

    def __init__(
        self,
        policy: Policy,
        config: PPOConfig,
        num_iterations: int,
        *,
        prepare: Callable[[Any], Batch] | None = None,
        seed: int = 0,
        mode: str = "xla",
    ):
        super().__init__(name="ppo_learner")
        self.policy = policy
        self.config = config
        self.prepare = prepare
        self.seed = tf.constant([seed, 0x0FF5E7], tf.int32)
        self.learning_rate = make_schedule(
            config.learning_rate_schedule, config.learning_rate, num_iterations, config.warmup_iterations
        )
        self.clip_ratio = make_schedule(config.clip_ratio_schedule, config.clip_ratio, num_iterations)
        self.optimizer = keras.optimizers.Adam(config.learning_rate, epsilon=config.adam_epsilon)
        self.optimizer.build(policy.trainable_variables)
        self.iteration = tf.Variable(0, dtype=tf.int64, trainable=False, name="iteration")
        self.kl_coeff = tf.Variable(config.kl_coeff, dtype=tf.float32, trainable=False, name="kl_coeff")
        self.update = compiled(self.update_function, mode)

    def update_function(self, data: Any) -> dict[str, tf.Tensor]:
        """What `update` compiles: trains on one rollout. Returns scalar metrics, named as in `writers.METRICS`: means
        over the minibatches that were evaluated (`policy/ratio_max`: the largest)."""
        batch = data if self.prepare is None else self.prepare(data)
        learning_rate = self.learning_rate(self.iteration)
        clip_ratio = self.clip_ratio(self.iteration)
        self.optimizer.learning_rate.assign(learning_rate)
        sums, last_kl = self._run_epochs(batch, clip_ratio)
        steps = sums.pop("steps")
        metrics = {name: sums[name] / steps for name in MEAN_METRICS}
        metrics["policy/ratio_max"] = sums["policy/ratio_max"]
        metrics["value/explained_variance"] = explained_variance(batch.old_values, batch.returns, _value_mask(batch))
        metrics["schedule/learning_rate"] = learning_rate
        metrics["schedule/kl_coeff"] = self.kl_coeff.read_value()
        kl = last_kl if batch.reference_kl is None else tf.reduce_mean(batch.reference_kl)
        self.kl_coeff.assign(self._next_kl_coeff(kl, batch.actions.shape[0]))
        self.iteration.assign_add(1)
        return metrics

    def _run_epochs(self, batch: Batch, clip_ratio: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """All gradient steps of an iteration. Returns the sums of the metrics and the last epoch's mean KL."""
        config = self.config
        num_items = batch.actions.shape[0]
        num_minibatches = exact_div(num_items, config.minibatch_size, "the batch", "minibatch_size")
        seed = fold_in(self.seed, self.iteration)
        zero = tf.zeros([], batch.advantages.dtype)
        sums = dict.fromkeys((*MEAN_METRICS, "policy/ratio_max", "steps"), zero)

        def epoch_body(epoch, proceed, sums, _):
            order = permutation(num_items, fold_in(seed, epoch))
            rows = [num_minibatches, config.minibatch_size]
            shuffled = map_tensors(lambda x: tf.reshape(tf.gather(x, order), [*rows, *x.shape[1:]]), batch)

            def minibatch_body(index, proceed, sums, epoch_kl):
                minibatch = map_tensors(lambda x: x[index], shuffled)  # [M, ...]
                metrics, gradients = self._gradients(minibatch, clip_ratio)
                proceed = self._step(gradients, metrics["policy/approx_kl"])
                sums = {
                    name: tf.maximum(total, metrics[name]) if name == "policy/ratio_max" else total + metrics[name]
                    for name, total in sums.items()
                }
                return index + 1, proceed, sums, epoch_kl + metrics["loss/kl"]

            index, proceed, sums, epoch_kl = tf.while_loop(
                lambda index, proceed, *_: (index < num_minibatches) & proceed,
                minibatch_body,
                (tf.constant(0), proceed, sums, zero),
            )
            return epoch + 1, proceed, sums, epoch_kl / tf.cast(index, zero.dtype)

        _, _, sums, last_kl = tf.while_loop(
            lambda epoch, proceed, *_: (epoch < config.num_epochs) & proceed,
            epoch_body,
            (tf.constant(0), tf.constant(True), sums, zero),
        )
        return sums, last_kl

    def _gradients(self, minibatch: Batch, clip_ratio: tf.Tensor) -> tuple[dict[str, tf.Tensor], list[tf.Tensor]]:
        """Metrics of a minibatch and its clipped gradients, accumulated over micro-batches.

        Advantages are whitened over the minibatch, and every mean divides by the minibatch's count, before it is cut:
        so the pieces add up to the same gradient.
        """
        if self.config.normalize_advantages:
            minibatch = minibatch._replace(advantages=masked_whiten(minibatch.advantages, minibatch.mask))
        normalizers = tuple(
            tf.maximum(masked_sum(tf.ones_like(minibatch.advantages), mask), 1.0)
            for mask in (minibatch.mask, _value_mask(minibatch))
        )
        pieces = self.config.num_micro_batches
        if pieces == 1:
            metrics, gradients = self._loss_and_gradients(minibatch, clip_ratio, normalizers)
        else:
            cut = map_tensors(
                lambda x: tf.reshape(x, [pieces, x.shape[0] // pieces, *x.shape[1:]]), minibatch
            )  # [P, M / P, ...]

            def piece_body(index, metrics, gradients):
                piece = map_tensors(lambda x: x[index], cut)
                more, slopes = self._loss_and_gradients(piece, clip_ratio, normalizers)
                largest = tf.maximum(metrics["policy/ratio_max"], more["policy/ratio_max"])
                metrics = {name: metrics[name] + more[name] for name in metrics} | {"policy/ratio_max": largest}
                return index + 1, metrics, [a + b for a, b in zip(gradients, slopes, strict=True)]

            first = map_tensors(lambda x: x[0], cut)
            _, metrics, gradients = tf.while_loop(
                lambda index, *_: index < pieces,
                piece_body,
                (tf.constant(1), *self._loss_and_gradients(first, clip_ratio, normalizers)),
            )
        norm = tf.linalg.global_norm(gradients)
        if self.config.max_grad_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self.config.max_grad_norm, use_norm=norm)
        return metrics | {"policy/grad_norm": norm, "steps": tf.ones_like(norm)}, gradients

    def _loss_and_gradients(self, batch: Batch, clip_ratio: tf.Tensor, normalizers: tuple[tf.Tensor, tf.Tensor]):
        config = self.config
        normalizer, value_normalizer = normalizers
        variables = [getattr(v, "value", v) for v in self.policy.trainable_variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            evaluation = self.policy.evaluate(batch.inputs, batch.actions)
            policy_loss, metrics = clipped_surrogate_loss(
                evaluation.log_probs,
                batch.old_log_probs,
                batch.advantages,
                clip_ratio,
                mask=batch.mask,
                normalizer=normalizer,
                dual_clip=config.dual_clip,
            )
            value_loss, value_metrics = clipped_value_loss(
                evaluation.values,
                batch.old_values,
                batch.returns,
                value_clip=config.value_clip,
                mask=_value_mask(batch),
                normalizer=value_normalizer,
            )
            entropy = masked_mean(evaluation.entropies, batch.mask, normalizer)
            kl = masked_mean(_divergence(batch, evaluation), batch.mask, normalizer)
            total = policy_loss + config.value_coeff * value_loss - config.entropy_coeff * entropy
            if config.kl_coeff > 0 and config.kl_in == "loss":  # elsewhere its gradient is not paid for
                total += self.kl_coeff * kl
        gradients = tape.gradient(total, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]  # an embedding's may be sparse
        losses = {
            "loss/policy": policy_loss,
            "loss/value": value_loss,
            "loss/entropy": -entropy,
            "loss/kl": kl,
            "loss/total": total,
            "policy/entropy": entropy,
        }
        return losses | metrics | value_metrics, gradients

    def _step(self, gradients: list[tf.Tensor], approx_kl: tf.Tensor) -> tf.Tensor:
        """Applies the gradients, unless target_kl forbids it. Returns whether the epochs go on."""

        def apply():
            self.optimizer.apply(gradients, self.policy.trainable_variables)
            return tf.constant(True)

        if self.config.target_kl is None:
            return apply()
        return tf.cond(approx_kl <= 1.5 * self.config.target_kl, apply, lambda: tf.constant(False))

    def _next_kl_coeff(self, kl: tf.Tensor, num_items: int) -> tf.Tensor:
        config = self.config
        if config.kl_rule == "schulman":
            return adaptive_kl_coefficient_schulman(self.kl_coeff, kl, config.kl_target)
        if config.kl_rule == "ziegler":
            return adaptive_kl_coefficient_ziegler(self.kl_coeff, kl, config.kl_target, num_items, config.kl_horizon)
        return fixed_kl_coefficient(self.kl_coeff, kl)


def _value_mask(batch: Batch) -> tf.Tensor:
    return batch.mask if batch.value_mask is None else batch.value_mask


def _divergence(batch: Batch, evaluation: Evaluation) -> tf.Tensor:
    """The element-wise KL that is penalised: [N] or [N, T].

    Against a reference, on the policy's own samples, k2 is the estimator whose gradient is that of
    KL(policy || reference). Against the old policy, which sampled, it is exact where its distribution was kept, and
    otherwise k3, whose samples and gradient then fit [Schulman 2020].
    """
    if batch.reference_log_probs is not None:
        return kl_k2(zero_outside(evaluation.log_probs - batch.reference_log_probs, batch.mask))
    if batch.old_distribution is None or evaluation.distribution is None:
        log_ratio = zero_outside(evaluation.log_probs - batch.old_log_probs, batch.mask)
        return approximate_kl(tf.clip_by_value(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO))

    def inside(old, new):  # what is masked may be NaN, which times 0 is NaN: it is given a divergence of 0
        mask = tf.reshape(batch.mask, [*batch.mask.shape, *[1] * (old.shape.rank - batch.mask.shape.rank)])
        return tf.where(mask, old, tf.stop_gradient(new))

    return tf.nest.map_structure(inside, batch.old_distribution, evaluation.distribution).kl(evaluation.distribution)
