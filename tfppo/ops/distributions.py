"""Action distributions: NamedTuples of a network's raw outputs.

The parameters themselves are the value, so that a distribution travels through tf.data, tf.function and while loops,
and is stored in the rollout for the exact KL(old || new). All share the interface of `Distribution`.

Samples come from `tfppo.ops.random`. The continuous ones are in `normals`.
"""

from typing import Any, NamedTuple, Protocol, Self

import tensorflow as tf

from tfppo.ops import random
from tfppo.ops.divergences import categorical_kl
from tfppo.ops.masking import check_same_shape

# Large enough that exp(logit) is exactly 0, finite so that 0 * log 0 comes out as 0 in value and gradient.
MASKED_LOGIT = -1e8


class Distribution(Protocol):
    """The interface of all distributions. Leading axes [...] are independent rows.

    Log-probabilities, entropies and KLs are one number a row. `noise` and `reparameterize` together are `sample`, with
    the noise of many steps in one draw.
    """

    def log_prob(self, actions: tf.Tensor) -> tf.Tensor:
        """Computes log-probabilities [...] of actions, one action a row."""

    def entropy(self, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Computes entropies [...]; where there is no closed form, a seed gives an unbiased estimate."""

    @staticmethod
    def noise(shape: random.Shape, seed: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
        """Draws the random numbers of `reparameterize`."""

    def reparameterize(self, noise: tf.Tensor) -> tf.Tensor:
        """Makes actions of noise."""

    def sample(self, seed: tf.Tensor) -> tf.Tensor:
        """Draws one action a row."""

    def mode(self) -> tf.Tensor:
        """Returns the most probable action of each row."""

    def kl(self, other: Self) -> tf.Tensor:
        """Computes KL(self || other), [...]."""

    def to_tfp(self) -> Any:
        """Makes the same distribution of TensorFlow Probability."""


def mask_logits(logits: tf.Tensor, action_mask: tf.Tensor) -> tf.Tensor:
    """Logits with the forbidden actions' set to -1e8: probability, p log p and gradient become exactly 0.

    Source: Huang and Ontanon 2020, "A closer look at invalid action masking in policy gradient algorithms".

    Args:
      logits: [..., A].
      action_mask: bool [..., A], true where the action is allowed; at least one a row.

    Returns: [..., A].

    Raises:
      ValueError: if the shapes differ.
    """
    logits = tf.convert_to_tensor(logits)
    check_same_shape(logits=logits, action_mask=action_mask)
    return tf.where(action_mask, logits, tf.constant(max(MASKED_LOGIT, float(logits.dtype.min)), logits.dtype))


class Categorical(NamedTuple):
    """One discrete action a row; actions are int [...]. Plain TensorFlow throughout."""

    logits: tf.Tensor  # [..., A]

    def log_prob(self, actions: tf.Tensor) -> tf.Tensor:
        """log softmax(logits)[action]; int [...] -> [...]. Raises ValueError if the actions do not match the rows."""
        return -tf.nn.sparse_softmax_cross_entropy_with_logits(labels=actions, logits=self.logits)

    def entropy(self, seed: tf.Tensor | None = None) -> tf.Tensor:
        """-sum_a p_a log p_a, exact; -> [...]."""
        del seed
        log_probs = tf.nn.log_softmax(self.logits)
        return -tf.reduce_sum(tf.exp(log_probs) * log_probs, axis=-1)

    @staticmethod
    def noise(shape: random.Shape, seed: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
        """Gumbel noise for `reparameterize`; shape [..., A], so that many steps' noise comes from one draw."""
        return random.gumbel(shape, seed, dtype)

    def reparameterize(self, noise: tf.Tensor) -> tf.Tensor:
        """The action that noise [..., A] picks: argmax_a (logits_a + noise_a); -> int32 [...]."""
        return tf.argmax(self.logits + noise, axis=-1, output_type=tf.int32)

    def sample(self, seed: tf.Tensor) -> tf.Tensor:
        """One action a row; -> int32 [...]."""
        return random.categorical(self.logits, seed)

    def mode(self) -> tf.Tensor:
        """The most probable action; -> int32 [...]."""
        return tf.argmax(self.logits, axis=-1, output_type=tf.int32)

    def kl(self, other: Self) -> tf.Tensor:
        """KL(self || other), exact; -> [...]."""
        return categorical_kl(self.logits, other.logits)

    def to_tfp(self) -> Any:
        """The same distribution as a `tfp.distributions.Categorical`."""
        import tensorflow_probability as tfp

        return tfp.distributions.Categorical(logits=self.logits)


class MultiCategorical(NamedTuple):
    """K independent discrete actions a row (gymnasium's MultiDiscrete); actions are int [..., K].

    Log-probability, entropy and KL are sums over the heads [Huang et al. 2022].
    """

    logits: tuple[tf.Tensor, ...]  # K tensors [..., A_k]

    @property
    def heads(self) -> list[Categorical]:
        """One Categorical a head."""
        return [Categorical(logits) for logits in self.logits]

    def log_prob(self, actions: tf.Tensor) -> tf.Tensor:
        """int [..., K] -> [...]. Raises ValueError unless the last axis has one action a head."""
        actions = tf.convert_to_tensor(actions)
        if actions.shape.rank == 0 or actions.shape[-1] != len(self.logits):
            raise ValueError(f"actions have shape {actions.shape}; want [..., {len(self.logits)}], one action a head")
        by_head = tf.unstack(actions, axis=-1)  # K times [...]
        return tf.add_n([head.log_prob(a) for head, a in zip(self.heads, by_head, strict=True)])

    def entropy(self, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Exact; -> [...]."""
        del seed
        return tf.add_n([head.entropy() for head in self.heads])

    @staticmethod
    def noise(shape: random.Shape, seed: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
        """Gumbel noise for `reparameterize`; shape [..., A_1 + ... + A_K]."""
        return random.gumbel(shape, seed, dtype)

    def reparameterize(self, noise: tf.Tensor) -> tf.Tensor:
        """The actions that noise [..., A_1 + ... + A_K] picks; -> int32 [..., K]."""
        pieces = tf.split(noise, [logits.shape[-1] for logits in self.logits], axis=-1)
        return tf.stack([head.reparameterize(x) for head, x in zip(self.heads, pieces, strict=True)], axis=-1)

    def sample(self, seed: tf.Tensor) -> tf.Tensor:
        """-> int32 [..., K]."""
        return tf.stack([head.sample(random.fold_in(seed, k)) for k, head in enumerate(self.heads)], axis=-1)

    def mode(self) -> tf.Tensor:
        """-> int32 [..., K]."""
        return tf.stack([head.mode() for head in self.heads], axis=-1)

    def kl(self, other: Self) -> tf.Tensor:
        """KL(self || other), exact; -> [...]."""
        return tf.add_n([p.kl(q) for p, q in zip(self.heads, other.heads, strict=True)])

    def to_tfp(self) -> Any:
        """The same distribution, over int vectors [..., K], as a `tfp.distributions.Blockwise`."""
        import tensorflow_probability as tfp

        return tfp.distributions.Blockwise([head.to_tfp() for head in self.heads])


def gumbel_softmax(logits: tf.Tensor, temperature: float) -> Any:
    """The relaxed one-hot distribution softmax((logits + Gumbel noise) / temperature), differentiable in the logits.

    Source: Jang et al. 2017, "Categorical reparameterization with Gumbel-softmax". It has no PPO ratio; see
    `random.categorical`.

    Args:
      logits: [..., A].
      temperature: > 0; a smaller one is closer to one-hot.

    Returns: `tfp.distributions.RelaxedOneHotCategorical` over [..., A].
    """
    import tensorflow_probability as tfp

    return tfp.distributions.RelaxedOneHotCategorical(temperature, logits=logits)
