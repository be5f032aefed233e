"""Decides which token ends a response."""

from typing import NamedTuple

import tensorflow as tf


class StopCondition(NamedTuple):
    """Decides which token ends a response. That token is part of the response."""

    end: int | tuple[int, ...]
    """Id of the end token, or of several."""
    stop: int | None = None
    """Id of one more token that ends a response, such as the full stop (Ziegler et al. 2019, section 2.3), or None."""
    stop_after: int = 0
    """First index in a response where `stop` ends it; `end` does so at any index."""

    def __call__(self, tokens: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        """Tests which tokens end their response.

        Args:
          tokens: Token ids, int.
          index: Index of each token in its response, int; broadcasts with `tokens`.

        Returns:
          A bool tensor in the broadcast shape of both.
        """
        first, *others = (self.end,) if isinstance(self.end, int) else self.end
        is_end = tokens == first
        for end in others:
            is_end |= tokens == end
        if self.stop is not None:
            is_end |= (tokens == self.stop) & (index >= self.stop_after)
        return is_end
