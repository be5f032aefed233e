"""Rules that end a text run early."""

import math
import operator
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from tfppo.text.config import TextConfig

SCORE, KL = "text/score_mean", "text/kl"
SCORE_WINDOW = 5  # iterations, so that one batch of easy prompts does not end a run


class StopRule:
    """Ends a run once the mean of a metric over its latest iterations passes a bound.

    Args:
      metric: Name of the metric.
      passes: Compares the mean with the bound, for example `operator.ge`.
      bound: The bound.
      window: Number of iterations. The rule does not apply before there are so many.
      words: The reason in words, with the fields `mean` and `bound`.
    """

    def __init__(
        self, metric: str, passes: Callable[[float, float], bool], bound: float, window: int = 1, *, words: str
    ):
        self._metric = metric
        self._passes = passes
        self._bound = bound
        self._words = words
        # A variable, so that a checkpoint holds the values and all processes of a run have them.
        self.latest = tf.Variable([math.nan] * window, dtype=tf.float32, trainable=False)

    def record(self, metrics: Mapping[str, float]) -> None:
        """Records the metrics of an iteration.

        Args:
          metrics: Values by name.
        """
        self.latest.assign([*self.latest.numpy()[1:], metrics[self._metric]])

    @property
    def reason(self) -> str | None:
        """Why the run ends now; None if it continues. A value that is not finite never ends a run."""
        mean = float(np.mean(self.latest.numpy(), dtype=np.float64))
        if not (math.isfinite(mean) and self._passes(mean, self._bound)):
            return None
        return self._words.format(mean=f"{mean:.5g}", bound=f"{self._bound:g}")


def make_stop_rules(text: TextConfig) -> dict[str, StopRule]:
    """Makes the rules that end a run early.

    Args:
      text: Settings of the run.

    Returns:
      A rule for each of the settings `stop_kl` and `target_score` that is not None, by the name of the setting.
    """
    rules = {}
    if text.stop_kl is not None:
        rules["stop_kl"] = StopRule(KL, operator.gt, text.stop_kl, words="KL {mean} exceeds stop_kl {bound}")
    if text.target_score is not None:
        words = f"mean score {{mean}} of the last {SCORE_WINDOW} iterations reaches target_score {{bound}}"
        rules["target_score"] = StopRule(SCORE, operator.ge, text.target_score, SCORE_WINDOW, words=words)
    return rules
