"""Action distributions for continuous actions, with the interface of `distributions.Distribution`.

TensorFlow Probability computes their densities. Its import takes about a second, so it is imported at first use.
Discrete control and language models never import it.
"""

from typing import Any, NamedTuple, Self

import tensorflow as tf

from tfppo.ops import random
from tfppo.ops.divergences import diagonal_normal_kl
from tfppo.ops.masking import check_same_shape


class DiagonalNormal(NamedTuple):
    """Independent normal actions. Actions are float [..., D].

    Log-probability and entropy are sums over D (Huang et al. 2022). `log_std` has the shape of `mean`. If it does not
    depend on the state, the network broadcasts it.
    """

    mean: tf.Tensor  # [..., D]
    log_std: tf.Tensor  # [..., D]

    def log_prob(self, actions: tf.Tensor) -> tf.Tensor:
        """Computes the log-densities of actions, summed over D.

        Args:
          actions: [..., D].

        Returns:
          [...].

        Raises:
          ValueError: If the shapes differ.
        """
        check_same_shape(mean=self.mean, actions=actions, log_std=self.log_std)
        return self.to_tfp().log_prob(actions)

    def entropy(self, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Computes the exact entropies, `sum_i log_std_i + (1 + log 2 pi) / 2`.

        Args:
          seed: Ignored.

        Returns:
          [...].

        Raises:
          ValueError: If the shapes differ.
        """
        del seed
        check_same_shape(mean=self.mean, log_std=self.log_std)
        return self.to_tfp().entropy()

    @staticmethod
    def noise(shape: random.Shape, seed: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
        """Draws standard normal noise for `reparameterize`.

        Args:
          shape: [..., D].
          seed: int [2].
          dtype: float32 or float64.
        """
        return random.normal(shape, seed, dtype)

    def reparameterize(self, noise: tf.Tensor) -> tf.Tensor:
        """Converts noise to actions, `mean + std * noise`.

        Args:
          noise: Standard normal, [..., D].

        Returns:
          [..., D].

        Raises:
          ValueError: If the shapes differ.
        """
        check_same_shape(mean=self.mean, log_std=self.log_std, noise=noise)
        return self.mean + tf.exp(self.log_std) * noise

    def sample(self, seed: tf.Tensor) -> tf.Tensor:
        """Draws reparameterized actions.

        Args:
          seed: int [2].

        Returns:
          [..., D].

        Raises:
          ValueError: If the shapes differ.
        """
        return self.reparameterize(self.noise(tf.shape(self.mean), seed, self.mean.dtype))

    def mode(self) -> tf.Tensor:
        """Returns the mean, [..., D]."""
        return tf.identity(self.mean)

    def kl(self, other: Self) -> tf.Tensor:
        """Computes the exact `KL(self || other)`, [...]."""
        return diagonal_normal_kl(self.mean, self.log_std, other.mean, other.log_std)

    def to_tfp(self) -> Any:
        """Converts to a `tfp.distributions.Independent` of normal distributions."""
        import tensorflow_probability as tfp

        normals = tfp.distributions.Normal(self.mean, tf.exp(self.log_std))
        return tfp.distributions.Independent(normals, reinterpreted_batch_ndims=1)


class SquashedNormal(NamedTuple):
    """The tanh of independent normal actions, for action spaces (-1, 1)^D.

    All methods accept and return actions before tanh, float [..., D]. The reason is that tanh is exactly 1 for large
    inputs in float32, and the density at 1 is NaN. `squash` computes the action for the environment. `log_prob` is the
    density of the squashed action.
    """

    mean: tf.Tensor  # [..., D]
    log_std: tf.Tensor  # [..., D]

    @property
    def base(self) -> DiagonalNormal:
        """The normal distribution before tanh."""
        return DiagonalNormal(self.mean, self.log_std)

    @staticmethod
    def squash(actions: tf.Tensor) -> tf.Tensor:
        """Computes `tanh(actions)`, the actions for the environment; [..., D] to [..., D]."""
        return tf.tanh(actions)

    def log_prob(self, actions: tf.Tensor) -> tf.Tensor:
        """Computes the log-densities of the squashed actions, with x the actions before tanh.

        The equation is::

            log N(x; mean, std) - sum_i log(1 - tanh(x_i)^2)

        Source: Haarnoja et al. 2018 (SAC), appendix C, equation 21. The logarithm is computed as
        `2 (log 2 - x - softplus(-2 x))`, which is finite for every x.

        Args:
          actions: Actions before tanh, [..., D].

        Returns:
          [...].

        Raises:
          ValueError: If the shapes differ.
        """
        actions = tf.convert_to_tensor(actions)
        return self.base.log_prob(actions) - tf.reduce_sum(_log_tanh_slope(actions), axis=-1)

    def entropy(self, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Estimates the entropies, which have no closed form.

        With a seed, the estimate is -log_prob of one reparameterized sample. It is unbiased. Without a seed, it is the
        entropy of the normal distribution plus, for each dimension, the expectation of log(1 - tanh(x)^2) by the
        trapezoidal rule with 25 points. Its error is at most 1e-5 for standard deviations up to 1, and 1e-3 up to 2.

        Args:
          seed: int [2], or None.

        Returns:
          [...].
        """
        if seed is not None:
            return -self.log_prob(self.sample(seed))
        points = tf.linspace(tf.constant(-6, self.mean.dtype), 6, 25)
        weights = tf.nn.softmax(-tf.square(points) / 2)  # density of a standard normal
        actions = self.mean[..., tf.newaxis] + tf.exp(self.log_std)[..., tf.newaxis] * points  # [..., D, 25]
        return self.base.entropy() + tf.reduce_sum(weights * _log_tanh_slope(actions), axis=[-2, -1])

    @staticmethod
    def noise(shape: random.Shape, seed: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
        """Draws standard normal noise for `reparameterize`.

        Args:
          shape: [..., D].
          seed: int [2].
          dtype: float32 or float64.
        """
        return random.normal(shape, seed, dtype)

    def reparameterize(self, noise: tf.Tensor) -> tf.Tensor:
        """Converts noise to actions before tanh, `mean + std * noise`, [..., D]."""
        return self.base.reparameterize(noise)

    def sample(self, seed: tf.Tensor) -> tf.Tensor:
        """Draws reparameterized actions before tanh, [..., D]."""
        return self.base.sample(seed)

    def mode(self) -> tf.Tensor:
        """Returns the mean before tanh, [..., D].

        This is the usual greedy action. Squashed, it is the median of the distribution, not its mode.
        """
        return self.base.mode()

    def kl(self, other: Self) -> tf.Tensor:
        """Computes the exact `KL(self || other)`, [...].

        It equals the KL of the normal distributions, because a bijection such as tanh does not change a KL.
        """
        return self.base.kl(other.base)

    def to_tfp(self) -> Any:
        """Converts to a `tfp.distributions.TransformedDistribution` of the squashed actions."""
        import tensorflow_probability as tfp

        return tfp.distributions.TransformedDistribution(self.base.to_tfp(), tfp.bijectors.Tanh())


def _log_tanh_slope(x: tf.Tensor) -> tf.Tensor:
    """Computes log(1 - tanh(x)^2), which is finite for every x."""
    return 2 * (tf.math.log(tf.constant(2, x.dtype)) - x - tf.math.softplus(-2 * x))
