"""The objective of PPO on a minibatch, and its gradients."""

from typing import Generic, NamedTuple, Protocol, TypeAlias

import tensorflow as tf

from tfppo.errors import UsageError
from tfppo.execution.compilation import compiled
from tfppo.execution.replicas import ALONE, Replicas
from tfppo.execution.variables import as_tensorflow_variable
from tfppo.ops.divergences import approximate_kl, kl_k2, kl_k3
from tfppo.ops.losses import MAX_LOG_RATIO, clipped_surrogate_loss, clipped_value_loss
from tfppo.ops.masking import masked_mean, masked_sum, masked_whiten, sequence_weights, zero_outside
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
AUXILIARY = "loss/pretraining"  # the metric of an auxiliary loss
OF_VALUES = ("loss/value", "value/clip_fraction")  # means over the entries of the value mask


Metrics: TypeAlias = dict[str, tf.Tensor]  # scalars
Gradients: TypeAlias = list[tf.Tensor]  # one per trainable variable, of the same shape


class AuxiliaryLoss(Protocol):
    """A loss on other data, which is added to that of PPO in every gradient step."""

    coeff: float

    def gradients(self, seed: tf.Tensor) -> tuple[tf.Tensor, Gradients]:
        """Computes the loss on data that the seed chooses, before the coefficient.

        Args:
          seed: int [2], another one in every gradient step.

        Returns:
          The loss, a scalar, and its gradients, one per trainable variable of the policy.
        """


class Coefficients(NamedTuple):
    """The coefficients that schedules and adaptive rules change."""

    clip_ratio: tf.Tensor  # []
    clip_ratio_high: tf.Tensor  # []
    entropy_coeff: tf.Tensor  # []
    kl_coeff: tf.Tensor  # []


class Normalizers(NamedTuple):
    """The weights of a whole minibatch. A mean over a part of the minibatch divides by them."""

    actions: tf.Tensor  # [] sum of the weights inside the mask
    values: tf.Tensor  # [] sum of the weights inside the value mask


def counted_entries(batch: Batch[Inputs], config: PPOConfig) -> Normalizers:
    """Returns the sums of the weights of a batch's entries. They may be 0.

    A weight is 1 if the loss is a mean over tokens, so the sums are the numbers of true entries of the masks. In a mean
    over sequences the sums are the numbers of sequences with a true entry.
    """
    ones = tf.ones_like(batch.advantages)
    return Normalizers(*(masked_sum(ones, mask, _weights(mask, config)) for mask in (batch.mask, value_mask_of(batch))))


def _weights(mask: tf.Tensor, config: PPOConfig) -> tf.Tensor | None:
    """Returns the weights of entries in a mean, the shape of the mask. None: all are 1."""
    return sequence_weights(mask) if config.loss_average == "sequences" else None


class Objective(Generic[Inputs]):
    """The loss that PPO minimizes.

    The loss is::

        policy loss + value_coeff * value loss - entropy_coeff * entropy + kl_coeff * KL

    Source: Schulman et al. 2017, equation 9 with the KL penalty of equation 8. Without values, the value loss is left
    out. Each term is a mean over tokens or over sequences (`loss_average`). An auxiliary loss is added with its own
    coefficient. KL is `KL(policy || reference)` if the
    batch has log-probabilities of a reference, and otherwise `KL(old || new)`. The latter is exact if the batch has the
    old distribution. With `kl_in` "reward" the last term is left out, because the rewards of the batch already contain
    it.

    Args:
      policy: The policy to train.
      config: The settings of PPO.
      replicas: The replicas that share each minibatch.
      mode: "xla", "graph" or "eager", the compilation mode of the share of a replica.
      auxiliary: A loss on other data. None: there is none.

    Raises:
      UsageError: If there are several replicas and an auxiliary loss, which cannot be divided.
    """

    def __init__(
        self,
        policy: Policy[Inputs],
        config: PPOConfig,
        replicas: Replicas = ALONE,
        mode: str = "eager",
        auxiliary: AuxiliaryLoss | None = None,
    ):
        if auxiliary is not None and replicas.count > 1:
            raise UsageError(
                f"pretraining_data is given and there are {replicas.count} replicas, which cannot divide it: leave it "
                "out, or set distribute to none"
            )
        self.policy = policy
        self.config = config
        self.replicas = replicas
        self.auxiliary = auxiliary
        self._of_share = compiled(self._accumulated, mode)

    def mean_metrics(self, batch: Batch[Inputs]) -> tuple[str, ...]:
        """Returns the names of the metrics that are means: `MEAN_METRICS`, for a batch without values not `OF_VALUES`.

        With an auxiliary loss, its metric is one more.
        """
        names = MEAN_METRICS if batch.has_values else tuple(name for name in MEAN_METRICS if name not in OF_VALUES)
        return names if self.auxiliary is None else (*names, AUXILIARY)

    def gradients(
        self, minibatch: Batch[Inputs], coefficients: Coefficients, seed: tf.Tensor
    ) -> tuple[Metrics, Gradients]:
        """Computes the metrics and the clipped gradients of a minibatch.

        Advantages are whitened over the whole minibatch. Every mean divides by the weights of the whole minibatch, so
        the gradients of replicas and micro-batches add up to the gradient of the minibatch.

        Args:
          minibatch: The minibatch, with M items.
          coefficients: The current coefficients.
          seed: int [2], chooses the data of the auxiliary loss.

        Returns:
          A tuple of metrics, scalars by name, and gradients, one per trainable variable.
        """
        if self.config.normalize_advantages:
            minibatch = minibatch._replace(advantages=masked_whiten(minibatch.advantages, minibatch.mask))
        normalizers = Normalizers(*(tf.maximum(count, 1.0) for count in counted_entries(minibatch, self.config)))

        def share(index: int) -> tuple[tuple[Metrics, Gradients], tf.Tensor]:
            metrics, gradients = self._of_share(self.replicas.cut(minibatch, index), coefficients, normalizers)
            largest = metrics.pop("policy/ratio_max")
            return (metrics, gradients), largest

        (metrics, gradients), largest = self.replicas.reduce(share)
        if self.auxiliary is not None:
            loss, slopes = self.auxiliary.gradients(seed)
            gradients = [a + self.auxiliary.coeff * b for a, b in zip(gradients, slopes, strict=True)]
            metrics |= {AUXILIARY: loss, "loss/total": metrics["loss/total"] + self.auxiliary.coeff * loss}
        norm = tf.linalg.global_norm(gradients)
        if self.config.max_grad_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self.config.max_grad_norm, use_norm=norm)
        metrics |= {"policy/ratio_max": largest, "policy/grad_norm": norm}
        return metrics, gradients

    def _accumulated(
        self, minibatch: Batch[Inputs], coefficients: Coefficients, normalizers: Normalizers
    ) -> tuple[Metrics, Gradients]:
        """Computes metrics and gradients of a minibatch, or of a replica's share, one micro-batch after another."""
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
            weights = _weights(batch.mask, config)
            policy_loss, metrics = clipped_surrogate_loss(
                evaluation.log_probs,
                batch.old_log_probs,
                batch.advantages,
                coefficients.clip_ratio,
                mask=batch.mask,
                normalizer=normalizers.actions,
                dual_clip=config.dual_clip,
                clip_ratio_high=coefficients.clip_ratio_high,
                weights=weights,
            )
            total = policy_loss
            value_losses = self._value_losses(batch, evaluation, normalizers)
            if batch.has_values:
                total += config.value_coeff * value_losses["loss/value"]
            entropy = masked_mean(evaluation.entropies, batch.mask, normalizers.actions, weights)
            divergence = _divergence(batch, evaluation, config.kl_estimator)
            kl = masked_mean(divergence, batch.mask, normalizers.actions, weights)
            total -= coefficients.entropy_coeff * entropy
            if config.kl_coeff > 0 and config.kl_in == "loss":  # otherwise its gradient is not computed
                total += coefficients.kl_coeff * kl
        gradients = tape.gradient(total, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        gradients = [
            tf.convert_to_tensor(gradient) for gradient in gradients
        ]  # the gradient of an embedding may be sparse
        losses = {
            "loss/policy": policy_loss,
            "loss/entropy": -entropy,
            "loss/kl": kl,
            "loss/total": total,
            "policy/entropy": entropy,
        }
        return losses | metrics | value_losses, gradients

    def _value_losses(
        self, batch: Batch[Inputs], evaluation: ActionEvaluation, normalizers: Normalizers
    ) -> dict[str, tf.Tensor]:
        """Returns the value loss and its metric, `OF_VALUES`. Empty if the batch has no values."""
        if batch.has_values != (evaluation.values is not None):
            policy, data = ("no values", "returns") if batch.has_values else ("values", "no returns")
            raise UsageError(f"the policy has {policy} and the batch has {data}; it must be both or none")
        if not batch.has_values:
            return {}
        value_mask = value_mask_of(batch)
        loss, metrics = clipped_value_loss(
            evaluation.values,
            batch.old_values,
            batch.returns,
            value_clip=self.config.value_clip,
            mask=value_mask,
            normalizer=normalizers.values,
            weights=_weights(value_mask, self.config),
        )
        return {"loss/value": loss, **metrics}


def _divergence(batch: Batch[Inputs], evaluation: ActionEvaluation, estimator: str) -> tf.Tensor:
    """Computes the KL of each entry, [N] or [N, T].

    - With a reference, it is k2 or k3 on samples of the policy. The expectation of the gradient of k2 is the gradient
      of `KL(policy || reference)` (Schulman 2020). k3 is that of Shao et al. 2024, equation 4.
    - Without a reference, it is the exact `KL(old || new)` if the old and the new distribution are given.
    - Otherwise it is k3 on samples of the old policy, an estimate of `KL(old || new)` (Schulman 2020).
    """
    if batch.reference_log_probs is not None:
        log_ratio = zero_outside(evaluation.log_probs - batch.reference_log_probs, batch.mask)
        if estimator == "k3":
            return kl_k3(tf.clip_by_value(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO))
        return kl_k2(log_ratio)
    if batch.old_distribution is None or evaluation.distribution is None:
        log_ratio = zero_outside(evaluation.log_probs - batch.old_log_probs, batch.mask)
        return approximate_kl(tf.clip_by_value(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO))

    def inside(old: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
        # Masked entries may be NaN, and NaN * 0 is NaN. Equal distributions give these entries a divergence of 0.
        mask = tf.reshape(batch.mask, [*batch.mask.shape, *[1] * (old.shape.rank - batch.mask.shape.rank)])
        return tf.where(mask, old, tf.stop_gradient(new))

    return tf.nest.map_structure(inside, batch.old_distribution, evaluation.distribution).kl(evaluation.distribution)
