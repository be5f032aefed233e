"""Action distributions for continuous actions, with the interface of `distributions`.

TensorFlow Probability does their densities; it takes a second to import and is imported on first use, so discrete
control and language models never pay for it.
"""

from typing import Any, NamedTuple, Self

import tensorflow as tf

from tfppo.ops import random
from tfppo.ops.divergences import diagonal_normal_kl
from tfppo.ops.masking import check_same_shape


class DiagonalNormal(NamedTuple):
    """Independent normal actions, float [..., D]; log-probability and entropy are sums over D [Huang et al. 2022].

    log_std has the shape of mean: a state-independent one is broadcast by the network that owns it.
    """

    mean: tf.Tensor  # [..., D]
    log_std: tf.Tensor  # [..., D]

    def log_prob(self, actions: tf.Tensor) -> tf.Tensor:
        """[..., D] -> [...]. Raises ValueError if the shapes differ."""
        check_same_shape(mean=self.mean, actions=actions, log_std=self.log_std)
        return self.to_tfp().log_prob(actions)

    def entropy(self, seed: tf.Tensor | None = None) -> tf.Tensor:
        """sum_i log_std_i + (1 + log 2 pi) / 2, exact; -> [...]. Raises ValueError if the shapes differ."""
        del seed
        check_same_shape(mean=self.mean, log_std=self.log_std)
        return self.to_tfp().entropy()

    @staticmethod
    def noise(shape: random.Shape, seed: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
        """Standard normal noise for `reparameterize`; shape [..., D]."""
        return random.normal(shape, seed, dtype)

    def reparameterize(self, noise: tf.Tensor) -> tf.Tensor:
        """mean + std * noise; -> [..., D]. Raises ValueError if the shapes differ."""
        check_same_shape(mean=self.mean, log_std=self.log_std, noise=noise)
        return self.mean + tf.exp(self.log_std) * noise

    def sample(self, seed: tf.Tensor) -> tf.Tensor:
        """Reparameterised; -> [..., D]. Raises ValueError if the shapes differ."""
        return self.reparameterize(self.noise(tf.shape(self.mean), seed, self.mean.dtype))

    def mode(self) -> tf.Tensor:
        """-> [..., D]."""
        return tf.identity(self.mean)

    def kl(self, other: Self) -> tf.Tensor:
        """KL(self || other), exact; -> [...]."""
        return diagonal_normal_kl(self.mean, self.log_std, other.mean, other.log_std)

    def to_tfp(self) -> Any:
        """The same distribution as a `tfp.distributions.Independent` of normals."""
        import tensorflow_probability as tfp

        normals = tfp.distributions.Normal(self.mean, tf.exp(self.log_std))
        return tfp.distributions.Independent(normals, reinterpreted_batch_ndims=1)


class SquashedNormal(NamedTuple):
    """tanh of independent normals, for actions in (-1, 1)^D.

    Every action passed in or returned is the PRE-tanh one, float [..., D]: in float32 tanh saturates at exactly 1,
    whose density is NaN. `squash` makes the action for the environment, and log_prob is the density of that.
    """

    mean: tf.Tensor  # [..., D]
    log_std: tf.Tensor  # [..., D]

    @property
    def base(self) -> DiagonalNormal:
        """The normals before tanh."""
        return DiagonalNormal(self.mean, self.log_std)

    @staticmethod
    def squash(actions: tf.Tensor) -> tf.Tensor:
        """tanh(actions), what the environment gets; [..., D] -> [..., D]."""
        return tf.tanh(actions)

    def log_prob(self, actions: tf.Tensor) -> tf.Tensor:
        """log N(x; mean, std) - sum_i log(1 - tanh(x_i)^2); [..., D] -> [...].

        Source: Haarnoja et al. 2018 (SAC), appendix C, equation 21; the Jacobian in the form 2 (log 2 - x -
        softplus(-2 x)), finite for every x. Raises ValueError if the shapes differ.
        """
        actions = tf.convert_to_tensor(actions)
        return self.base.log_prob(actions) - tf.reduce_sum(_log_tanh_slope(actions), axis=-1)

    def entropy(self, seed: tf.Tensor | None = None) -> tf.Tensor:
        """There is no closed form; -> [...].

        With a seed -log_prob of one reparameterised sample, which is unbiased; without one the integral, dimension by
        dimension: the normal's entropy and the mean of log(1 - tanh^2) over 25 points of the trapezoidal rule, right
        to 1e-5 for standard deviations up to 1, 1e-3 up to 2.
        """
        if seed is not None:
            return -self.log_prob(self.sample(seed))
        points = tf.linspace(tf.constant(-6, self.mean.dtype), 6, 25)
        weights = tf.nn.softmax(-tf.square(points) / 2)  # of a standard normal
        actions = self.mean[..., tf.newaxis] + tf.exp(self.log_std)[..., tf.newaxis] * points  # [..., D, 25]
        return self.base.entropy() + tf.reduce_sum(weights * _log_tanh_slope(actions), axis=[-2, -1])

    @staticmethod
    def noise(shape: random.Shape, seed: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
        """Standard normal noise for `reparameterize`; shape [..., D]."""
        return random.normal(shape, seed, dtype)

    def reparameterize(self, noise: tf.Tensor) -> tf.Tensor:
        """PRE-tanh: mean + std * noise; -> [..., D]."""
        return self.base.reparameterize(noise)

    def sample(self, seed: tf.Tensor) -> tf.Tensor:
        """PRE-tanh, reparameterised; -> [..., D]."""
        return self.base.sample(seed)

    def mode(self) -> tf.Tensor:
        """PRE-tanh mean, the usual greedy action (the median, not the mode, of the squashed density); -> [..., D]."""
        return self.base.mode()

    def kl(self, other: Self) -> tf.Tensor:
        """KL(self || other), exact: that of the normals, for a bijection changes no KL; -> [...]."""
        return self.base.kl(other.base)

    def to_tfp(self) -> Any:
        """The distribution of the SQUASHED actions as a `tfp.distributions.TransformedDistribution`."""
        import tensorflow_probability as tfp

        return tfp.distributions.TransformedDistribution(self.base.to_tfp(), tfp.bijectors.Tanh())


def _log_tanh_slope(x: tf.Tensor) -> tf.Tensor:
    """log(1 - tanh(x)^2), finite for every x."""
    return 2 * (tf.math.log(tf.constant(2, x.dtype)) - x - tf.math.softplus(-2 * x))
