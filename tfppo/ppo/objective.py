"""What PPO minimises on a minibatch, and its gradients."""

from typing import Generic, NamedTuple, TypeAlias

import tensorflow as tf

from tfppo.execution.compilation import compiled
from tfppo.execution.replicas import ALONE, Replicas
from tfppo.execution.variables import as_tensorflow_variable
from tfppo.ops.divergences import approximate_kl, kl_k2
from tfppo.ops.losses import MAX_LOG_RATIO, clipped_surrogate_loss, clipped_value_loss
from tfppo.ops.masking import masked_mean, masked_sum, masked_whiten, zero_outside
from tfppo.ops.nest import map_tensors
from tfppo.ppo.config import PPOConfig
from tfppo.ppo.types import ActionEvaluation, Batch, Inputs, Policy, value_mask_of

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


Metrics: TypeAlias = dict[str, tf.Tensor]  # scalars
Gradients: TypeAlias = list[tf.Tensor]  # one of the shape of each trainable variable


class Coefficients(NamedTuple):
    """The weights that schedules and adaptive rules change."""

    clip_ratio: tf.Tensor  # []
    entropy_coeff: tf.Tensor  # []
    kl_coeff: tf.Tensor  # []


class Normalizers(NamedTuple):
    """The counts of a whole minibatch, by which every mean over a piece of it divides."""

    actions: tf.Tensor  # [] entries of the mask, at least 1
    values: tf.Tensor  # [] entries of the value mask, at least 1


class Objective(Generic[Inputs]):
    """policy loss + value_coeff * value loss - entropy_coeff * entropy + kl_coeff * KL [Schulman et al. 2017, eq. 9].

    KL is KL(old || new), exact where the batch holds the old distribution, or KL(policy || reference) where it holds
    the reference's log-probabilities. With `kl_in` "reward" the last term is left out, because the
    batch has kl_coeff * KL taken off its rewards.

    Args:
      policy: what is trained: `evaluate_actions(inputs, actions)` and `trainable_variables`.
      config: the hyperparameters.
      replicas: they share each minibatch.
      mode: "xla", "graph" or "eager": how a replica's share is compiled.
    """

    def __init__(self, policy: Policy[Inputs], config: PPOConfig, replicas: Replicas = ALONE, mode: str = "eager"):
        self.policy = policy
        self.config = config
        self.replicas = replicas
        self._of_share = compiled(self._accumulated, mode)

    def gradients(self, minibatch: Batch[Inputs], coefficients: Coefficients) -> tuple[Metrics, Gradients]:
        """Computes the metrics of a minibatch and its clipped gradients, summed over replicas and micro-batches.

        Advantages are whitened over the whole minibatch, and every mean divides by the whole minibatch's count, so that
        the pieces add up to the same gradient.
        """
        if self.config.normalize_advantages:
            minibatch = minibatch._replace(advantages=masked_whiten(minibatch.advantages, minibatch.mask))
        ones = tf.ones_like(minibatch.advantages)
        normalizers = Normalizers(
            actions=tf.maximum(masked_sum(ones, minibatch.mask), 1.0),
            values=tf.maximum(masked_sum(ones, value_mask_of(minibatch)), 1.0),
        )

        def share(index: int) -> tuple[tuple[Metrics, Gradients], tf.Tensor]:
            metrics, gradients = self._of_share(self.replicas.cut(minibatch, index), coefficients, normalizers)
            largest = metrics.pop("policy/ratio_max")
            return (metrics, gradients), largest

        (metrics, gradients), largest = self.replicas.reduce(share)
        norm = tf.linalg.global_norm(gradients)
        if self.config.max_grad_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self.config.max_grad_norm, use_norm=norm)
        metrics |= {"policy/ratio_max": largest, "policy/grad_norm": norm}
        return metrics, gradients

    def _accumulated(
        self, minibatch: Batch[Inputs], coefficients: Coefficients, normalizers: Normalizers
    ) -> tuple[Metrics, Gradients]:
        """Computes metrics and gradients of a minibatch or a share of it, micro-batch by micro-batch."""
        pieces = self.config.num_micro_batches
        if pieces == 1:
            metrics, gradients = self._loss_and_gradients(minibatch, coefficients, normalizers)
        else:
            cut = map_tensors(
                lambda x: tf.reshape(x, [pieces, x.shape[0] // pieces, *x.shape[1:]]), minibatch
            )  # [P, M / P, ...]

            def piece_body(
                index: tf.Tensor, metrics: Metrics, gradients: Gradients
            ) -> tuple[tf.Tensor, Metrics, Gradients]:
                piece = map_tensors(lambda x: x[index], cut)
                more, slopes = self._loss_and_gradients(piece, coefficients, normalizers)
                largest = tf.maximum(metrics["policy/ratio_max"], more["policy/ratio_max"])
                metrics = {name: metrics[name] + more[name] for name in metrics} | {"policy/ratio_max": largest}
                return index + 1, metrics, [a + b for a, b in zip(gradients, slopes, strict=True)]

            first = map_tensors(lambda x: x[0], cut)
            _, metrics, gradients = tf.while_loop(
                lambda index, *_: index < pieces,
                piece_body,
                (tf.constant(1), *self._loss_and_gradients(first, coefficients, normalizers)),
            )
        return metrics, gradients

    def _loss_and_gradients(
        self, batch: Batch[Inputs], coefficients: Coefficients, normalizers: Normalizers
    ) -> tuple[Metrics, Gradients]:
        config = self.config
        variables = [as_tensorflow_variable(variable) for variable in self.policy.trainable_variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            evaluation = self.policy.evaluate_actions(batch.inputs, batch.actions)
            policy_loss, metrics = clipped_surrogate_loss(
                evaluation.log_probs,
                batch.old_log_probs,
                batch.advantages,
                coefficients.clip_ratio,
                mask=batch.mask,
                normalizer=normalizers.actions,
                dual_clip=config.dual_clip,
            )
            value_loss, value_metrics = clipped_value_loss(
                evaluation.values,
                batch.old_values,
                batch.returns,
                value_clip=config.value_clip,
                mask=value_mask_of(batch),
                normalizer=normalizers.values,
            )
            entropy = masked_mean(evaluation.entropies, batch.mask, normalizers.actions)
            kl = masked_mean(_divergence(batch, evaluation), batch.mask, normalizers.actions)
            total = policy_loss + config.value_coeff * value_loss - coefficients.entropy_coeff * entropy
            if config.kl_coeff > 0 and config.kl_in == "loss":  # elsewhere its gradient is not paid for
                total += coefficients.kl_coeff * kl
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


def _divergence(batch: Batch[Inputs], evaluation: ActionEvaluation) -> tf.Tensor:
    """Computes the element-wise KL that is penalised: [N] or [N, T].

    Against a reference, on the policy's own samples, k2 is the estimator whose gradient is that of
    KL(policy || reference). Against the old policy, which sampled, it is exact where its distribution was kept, and
    otherwise k3, whose samples and gradient then fit [Schulman 2020].
    """
    if batch.reference_log_probs is not None:
        return kl_k2(zero_outside(evaluation.log_probs - batch.reference_log_probs, batch.mask))
    if batch.old_distribution is None or evaluation.distribution is None:
        log_ratio = zero_outside(evaluation.log_probs - batch.old_log_probs, batch.mask)
        return approximate_kl(tf.clip_by_value(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO))

    def inside(old: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
        # What is masked may be NaN, which times 0 is NaN: it is given a divergence of 0.
        mask = tf.reshape(batch.mask, [*batch.mask.shape, *[1] * (old.shape.rank - batch.mask.shape.rank)])
        return tf.where(mask, old, tf.stop_gradient(new))

    return tf.nest.map_structure(inside, batch.old_distribution, evaluation.distribution).kl(evaluation.distribution)
