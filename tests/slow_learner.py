"""Implements PPO's update in slow NumPy loops, and a linear policy that it can train.

Tests compare the learner with this implementation.
"""

import keras
import numpy as np
import reference
import tensorflow as tf

from tfppo.ops import random
from tfppo.ops.distributions import Categorical
from tfppo.ppo.types import ActionEvaluation, Batch

NUM_FEATURES, NUM_ACTIONS = 3, 4
RNG = np.random.default_rng(5)
OLD = [RNG.normal(0.0, 0.5, [NUM_FEATURES, NUM_ACTIONS]), RNG.normal(0.0, 0.5, [NUM_FEATURES])]
START = [weights + RNG.normal(0.0, 0.3, weights.shape) for weights in OLD]  # ratios leave the clip range


class LinearPolicy:
    """A policy with logits and values that are linear in the inputs, [N, F] or [N, T, F].

    In eager mode, `inputs` records the inputs of each call.
    """

    def __init__(self, weights=START, has_distribution=True, has_values=True):
        self.actor, self.critic = (keras.Variable(np.float32(w), dtype="float32") for w in weights)
        self.has_distribution = has_distribution
        self.has_values = has_values
        self.inputs = []

    @property
    def trainable_variables(self):
        return [self.actor, self.critic]

    @property
    def weights(self):
        return [variable.numpy() for variable in self.trainable_variables]

    def evaluate_actions(self, inputs, actions):
        if tf.executing_eagerly():
            self.inputs.append(inputs.numpy())
        distribution = Categorical(tf.einsum("...f,fa->...a", inputs, self.actor.value))
        return ActionEvaluation(
            distribution.log_prob(actions),
            distribution.entropy(),
            tf.einsum("...f,f->...", inputs, self.critic.value) if self.has_values else None,
            distribution if self.has_distribution else None,
        )


def make_batch(shape=(12,), weights=OLD, seed=0, **fields):
    """Returns a random masked batch of float64 NumPy arrays. A policy with the given weights took the actions."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=[*shape, NUM_FEATURES])
    actions = rng.integers(NUM_ACTIONS, size=shape)
    log_probs, _, values, logits = evaluate(weights, inputs, actions)
    batch = Batch(
        inputs=inputs,
        actions=actions,
        old_log_probs=log_probs,
        old_values=values,
        advantages=rng.normal(size=shape),
        returns=rng.normal(size=shape),
        mask=rng.random(shape) < 0.7,
        old_distribution=Categorical(logits),
    )
    return batch._replace(**fields)


def tensors(batch):
    """Converts a batch to float32, int32 and bool tensors for the learner."""
    dtypes = {"f": tf.float32, "i": tf.int32, "b": tf.bool}
    return tf.nest.map_structure(lambda x: x if x is None else tf.constant(x, dtypes[x.dtype.kind]), batch)


def evaluate(weights, inputs, actions):
    """Returns (log_probs, entropies, values, logits) of the linear policy."""
    logits = inputs @ weights[0]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    log_probs = np.take_along_axis(log_p, actions[..., None], -1)[..., 0]
    return log_probs, -(np.exp(log_p) * log_p).sum(-1), inputs @ weights[1], logits


def divergences(batch, log_probs, logits, estimator):
    """Returns the penalized KL of each entry: to the reference, exact to the old policy, or estimated from samples."""
    if batch.reference_log_probs is not None and estimator == "k3":  # Shao et al. 2024, equation 4
        ratio = np.exp(batch.reference_log_probs) / np.exp(log_probs)
        return ratio - np.log(ratio) - 1
    if batch.reference_log_probs is not None:
        return (log_probs - batch.reference_log_probs) ** 2 / 2
    if batch.old_distribution is not None:
        old = batch.old_distribution.logits
        return np.array([reference.categorical_kl(old[i], logits[i]) for i in np.ndindex(log_probs.shape)]).reshape(
            log_probs.shape
        )
    log_ratio = log_probs - batch.old_log_probs
    return np.exp(log_ratio) - 1 - log_ratio


def loss(weights, batch, config, clip_ratios, kl_coeff):
    """Returns the loss and the metrics of one minibatch."""
    log_probs, entropies, values, logits = evaluate(weights, batch.inputs, batch.actions)
    advantages = batch.advantages
    if config.normalize_advantages:
        advantages = reference.whiten(advantages, batch.mask)
    of = config.loss_average
    policy_loss, metrics = reference.clipped_surrogate_loss(
        log_probs, batch.old_log_probs, advantages, clip_ratios[0], batch.mask, config.dual_clip, clip_ratios[1], of
    )
    entropy = reference.average_inside(entropies, batch.mask, of)
    kl = reference.average_inside(divergences(batch, log_probs, logits, config.kl_estimator), batch.mask, of)
    total = policy_loss - config.entropy_coeff * entropy
    value_metrics = {}
    if batch.returns is not None:
        value_loss, value_metrics = reference.clipped_value_loss(
            values, batch.old_values, batch.returns, config.value_clip, value_mask_of(batch), of
        )
        value_metrics["loss/value"] = value_loss
        total += config.value_coeff * value_loss
    if config.kl_in == "loss":
        total += kl_coeff * kl
    losses = {"loss/policy": policy_loss, "loss/entropy": -entropy, "loss/kl": kl}
    return total, metrics | value_metrics | losses | {"loss/total": total, "policy/entropy": entropy}


def gradient(weights, *arguments, step=1e-5):
    """Computes the gradient of the loss by central finite differences."""
    slopes = [np.zeros_like(w) for w in weights]
    for array, slope in zip(weights, slopes, strict=True):
        for i in np.ndindex(array.shape):
            value = array[i]
            sides = []
            for side in (1, -1):
                array[i] = value + side * step
                sides.append(loss(weights, *arguments)[0])
            array[i] = value
            slope[i] = (sides[0] - sides[1]) / (2 * step)
    return slopes


def value_mask_of(batch):
    return batch.mask if batch.value_mask is None else batch.value_mask


def global_norm(arrays):
    return np.sqrt(sum((a**2).sum() for a in arrays))


def mean_over_minibatches(rows, name):
    """Returns the mean of a metric over the entries that count, or over gradient steps for the metrics of a step."""
    if name in ("loss/total", "policy/grad_norm"):
        return np.mean([row[name] for row in rows])
    count = "count/values" if name in ("loss/value", "value/clip_fraction") else "count/actions"
    return np.average([row[name] for row in rows], weights=[row[count] for row in rows])


class SlowLearner:
    """The learner in plain Python and NumPy loops. It draws minibatches with `permutation` of the package."""

    def __init__(self, config, num_iterations, weights=START, seed=0):
        self.config, self.num_iterations, self.seed = config, num_iterations, seed
        self.weights = [np.float64(np.float32(w)) for w in weights]
        self.first_moments = [np.zeros_like(w) for w in self.weights]
        self.second_moments = [np.zeros_like(w) for w in self.weights]
        self.steps = self.iteration = 0
        self.kl_coeff = config.kl_coeff

    def update(self, batch):
        """Trains in place. Returns one row of metrics for each minibatch that was evaluated."""
        config, rows = self.config, []
        left = 1 - self.iteration / self.num_iterations
        learning_rate = config.learning_rate * (left if config.learning_rate_schedule == "linear" else 1)
        high = config.clip_ratio if config.clip_ratio_high is None else config.clip_ratio_high
        part = left if config.clip_ratio_schedule == "linear" else 1
        clip_ratios = config.clip_ratio * part, high * part
        seed = random.fold_in(tf.constant([self.seed, 0x0FF5E7]), self.iteration)
        self.iteration += 1
        for epoch in range(config.num_epochs):
            epoch_rows = []
            order = random.permutation(len(batch.actions), random.fold_in(seed, epoch)).numpy()
            for indices in order.reshape(-1, config.minibatch_size):
                minibatch = tf.nest.map_structure(lambda x, i=indices: None if x is None else x[i], batch)
                arguments = (minibatch, config, clip_ratios, self.kl_coeff)
                _, metrics = loss(self.weights, *arguments)
                slopes = gradient(self.weights, *arguments)
                norm = global_norm(slopes)
                counts = {"count/actions": minibatch.mask, "count/values": value_mask_of(minibatch)}
                if config.loss_average == "sequences":
                    counts = {name: mask.reshape(len(mask), -1).any(axis=1) for name, mask in counts.items()}
                counts = {name: mask.sum() for name, mask in counts.items()}
                epoch_rows.append(metrics | {"policy/grad_norm": norm} | counts)
                if config.target_kl is not None and metrics["policy/approx_kl"] > 1.5 * config.target_kl:
                    return rows + epoch_rows
                if config.max_grad_norm is not None and norm > config.max_grad_norm:
                    slopes = [slope * config.max_grad_norm / norm for slope in slopes]
                self.apply(slopes, learning_rate)
            rows += epoch_rows
        return rows

    def apply(self, slopes, learning_rate, beta_1=0.9, beta_2=0.999):
        """Applies Adam as at the end of section 2 of Kingma and Ba 2015: epsilon is added to the uncorrected root."""
        self.steps += 1
        rate = learning_rate * np.sqrt(1 - beta_2**self.steps) / (1 - beta_1**self.steps)
        for w, m, v, slope in zip(self.weights, self.first_moments, self.second_moments, slopes, strict=True):
            m += (1 - beta_1) * (slope - m)
            v += (1 - beta_2) * (slope**2 - v)
            w -= rate * m / (np.sqrt(v) + self.config.adam_epsilon)
