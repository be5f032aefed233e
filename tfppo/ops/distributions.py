"""Action distributions as NamedTuples of raw network outputs.

A distribution holds its parameters as tensors, for example logits. It therefore passes through `tf.data`, `tf.function`
and while loops like any other structure of tensors, and a rollout can store it to compute the exact `KL(old || new)`.
All distributions have the interface of `Distribution`. This module holds the distributions of discrete actions,
`normals` those of continuous actions. Random numbers come from `tfppo.ops.random`.
"""

from typing import Any, NamedTuple, Protocol, Self

import tensorflow as tf

from tfppo.ops import random
from tfppo.ops.divergences import categorical_kl
from tfppo.ops.masking import check_same_shape

# Low enough that exp(logit) is exactly 0. Finite, so that 0 * log 0 is 0 in the value and in the gradient.
MASKED_LOGIT = -1e8


class Distribution(Protocol):
    """The interface of all action distributions.

    Leading axes `[...]` are independent rows. Log-probabilities, entropies and KL divergences have one number per row.
    `noise` followed by `reparameterize` draws actions like `sample`. With these two methods one call can draw the noise
    of many steps.
    """

    def log_prob(self, actions: tf.Tensor) -> tf.Tensor:
        """Computes the log-probabilities of actions.

        Args:
          actions: One action per row.

        Returns:
          [...].
        """

    def entropy(self, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Computes the entropies.

        Args:
          seed: int [2]. A distribution without a closed form uses it for an unbiased estimate. The others ignore it.

        Returns:
          [...].
        """

    @staticmethod
    def noise(shape: random.Shape, seed: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
        """Draws the random numbers for `reparameterize`.

        Args:
          shape: Shape of the noise; see the distribution.
          seed: int [2].
          dtype: float32 or float64.
        """

    def reparameterize(self, noise: tf.Tensor) -> tf.Tensor:
        """Converts noise to actions."""

    def sample(self, seed: tf.Tensor) -> tf.Tensor:
        """Draws one action per row.

        Args:
          seed: int [2].
        """

    def mode(self) -> tf.Tensor:
        """Returns the greedy action of each row."""

    def kl(self, other: Self) -> tf.Tensor:
        """Computes `KL(self || other)`, [...]."""

    def to_tfp(self) -> Any:
        """Converts to a distribution of TensorFlow Probability."""


def mask_logits(logits: tf.Tensor, action_mask: tf.Tensor) -> tf.Tensor:
    """Replaces the logits of forbidden actions by -1e8, or by the lowest number of the dtype if that is higher.

    The probability, the term `p log p` and the gradient of a forbidden action then are exactly 0.

    Source: Huang and Ontanon 2020, "A closer look at invalid action masking in policy gradient algorithms".

    Args:
      logits: [..., A].
      action_mask: bool [..., A], true where the action is allowed. At least one action per row must be allowed.

    Returns:
      The masked logits, [..., A].

    Raises:
      ValueError: If the shapes differ.
    """
    logits = tf.convert_to_tensor(logits)
    check_same_shape(logits=logits, action_mask=action_mask)
    return tf.where(action_mask, logits, tf.constant(max(MASKED_LOGIT, float(logits.dtype.min)), logits.dtype))


class Categorical(NamedTuple):
    """One discrete action per row. Actions are int [...]."""

    logits: tf.Tensor  # [..., A]

    def log_prob(self, actions: tf.Tensor) -> tf.Tensor:
        """Computes the log-probabilities of actions, `log softmax(logits)[action]`.

        Args:
          actions: int [...].

        Returns:
          [...].

        Raises:
          ValueError: If the shape of `actions` does not match the rows.
        """
        return -tf.nn.sparse_softmax_cross_entropy_with_logits(labels=actions, logits=self.logits)

    def entropy(self, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Computes the exact entropies, `-sum_a p_a log p_a`.

        Args:
          seed: Ignored.

        Returns:
          [...].
        """
        del seed
        log_probs = tf.nn.log_softmax(self.logits)
        return -tf.reduce_sum(tf.exp(log_probs) * log_probs, axis=-1)

    @staticmethod
    def noise(shape: random.Shape, seed: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
        """Draws Gumbel noise for `reparameterize`.

        Args:
          shape: [..., A]. An additional leading axis gives the noise of several steps.
          seed: int [2].
          dtype: float32 or float64.
        """
        return random.gumbel(shape, seed, dtype)

    def reparameterize(self, noise: tf.Tensor) -> tf.Tensor:
        """Converts noise to actions, `argmax_a (logits_a + noise_a)`.

        Args:
          noise: Gumbel noise, [..., A].

        Returns:
          int32 [...].
        """
        return tf.argmax(self.logits + noise, axis=-1, output_type=tf.int32)

    def sample(self, seed: tf.Tensor) -> tf.Tensor:
        """Draws one action per row, int32 [...]."""
        return random.categorical(self.logits, seed)

    def mode(self) -> tf.Tensor:
        """Returns the most probable actions, int32 [...]."""
        return tf.argmax(self.logits, axis=-1, output_type=tf.int32)

    def kl(self, other: Self) -> tf.Tensor:
        """Computes the exact `KL(self || other)`, [...]."""
        return categorical_kl(self.logits, other.logits)

    def to_tfp(self) -> Any:
        """Converts to a `tfp.distributions.Categorical`."""
        import tensorflow_probability as tfp

        return tfp.distributions.Categorical(logits=self.logits)


class MultiCategorical(NamedTuple):
    """K independent discrete actions per row (Gymnasium's MultiDiscrete). Actions are int [..., K].

    Each action has a head of its own. Log-probability, entropy and KL divergence are sums over the heads.

    Source: Huang et al. 2022, "The 37 implementation details of proximal policy optimization".
    """

    logits: tuple[tf.Tensor, ...]  # K tensors [..., A_k]

    @property
    def heads(self) -> list[Categorical]:
        """The distribution of each of the K actions."""
        return [Categorical(logits) for logits in self.logits]

    def log_prob(self, actions: tf.Tensor) -> tf.Tensor:
        """Computes the log-probabilities of actions, summed over the heads.

        Args:
          actions: int [..., K].

        Returns:
          [...].

        Raises:
          ValueError: If the last axis does not have one action per head.
        """
        actions = tf.convert_to_tensor(actions)
        if actions.shape.rank == 0 or actions.shape[-1] != len(self.logits):
            raise ValueError(
                f"the shape of actions is {actions.shape}; it must be [..., {len(self.logits)}], one action per head"
            )
        by_head = tf.unstack(actions, axis=-1)  # K times [...]
        return tf.add_n([head.log_prob(a) for head, a in zip(self.heads, by_head, strict=True)])

    def entropy(self, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Computes the exact entropies, summed over the heads.

        Args:
          seed: Ignored.

        Returns:
          [...].
        """
        del seed
        return tf.add_n([head.entropy() for head in self.heads])

    @staticmethod
    def noise(shape: random.Shape, seed: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
        """Draws Gumbel noise for `reparameterize`.

        Args:
          shape: [..., A_1 + ... + A_K].
          seed: int [2].
          dtype: float32 or float64.
        """
        return random.gumbel(shape, seed, dtype)

    def reparameterize(self, noise: tf.Tensor) -> tf.Tensor:
        """Converts noise to actions, with the argmax of each head.

        Args:
          noise: Gumbel noise, [..., A_1 + ... + A_K].

        Returns:
          int32 [..., K].
        """
        pieces = tf.split(noise, [logits.shape[-1] for logits in self.logits], axis=-1)
        return tf.stack([head.reparameterize(x) for head, x in zip(self.heads, pieces, strict=True)], axis=-1)

    def sample(self, seed: tf.Tensor) -> tf.Tensor:
        """Draws one action per head and row, int32 [..., K]."""
        return tf.stack([head.sample(random.fold_in(seed, k)) for k, head in enumerate(self.heads)], axis=-1)

    def mode(self) -> tf.Tensor:
        """Returns the most probable action of each head, int32 [..., K]."""
        return tf.stack([head.mode() for head in self.heads], axis=-1)

    def kl(self, other: Self) -> tf.Tensor:
        """Computes the exact `KL(self || other)`, summed over the heads, [...]."""
        return tf.add_n([p.kl(q) for p, q in zip(self.heads, other.heads, strict=True)])

    def to_tfp(self) -> Any:
        """Converts to a `tfp.distributions.Blockwise` over int vectors [..., K]."""
        import tensorflow_probability as tfp

        return tfp.distributions.Blockwise([head.to_tfp() for head in self.heads])


def gumbel_softmax(logits: tf.Tensor, temperature: float) -> Any:
    """Makes the relaxed one-hot distribution `softmax((logits + Gumbel noise) / temperature)`.

    Its samples are differentiable in the logits, but PPO cannot use it; see `random.categorical`.

    Source: Jang et al. 2017, "Categorical reparameterization with Gumbel-softmax".

    Args:
      logits: [..., A].
      temperature: Above 0. With a lower temperature samples are closer to one-hot vectors.

    Returns:
      A `tfp.distributions.RelaxedOneHotCategorical` over [..., A].
    """
    import tensorflow_probability as tfp

    return tfp.distributions.RelaxedOneHotCategorical(temperature, logits=logits)
