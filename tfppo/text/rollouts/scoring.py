"""Scores of responses. This part of a rollout is Python code and runs on the host."""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tfppo.text.data.codec import PromptCodec
from tfppo.text.data.metrics import distinct_2, mean_words
from tfppo.text.rewards.callables import Reward, ScoreScale, checked_scores
from tfppo.text.rewards.weighted import WeightedRewards

Scorer = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], Sequence[np.ndarray]]
"""A function on the host that scores responses; see `TextScorer.__call__`."""


class TextScorer:
    """Decodes responses, scores them with a reward, and computes the metrics of their texts.

    Args:
      codec: Decodes tokens.
      reward: Scores texts.
      prompts: The texts of all prompts.
      clip: Largest absolute value of a normalized score; None does not clip.
    """

    def __init__(self, codec: PromptCodec, reward: Reward, prompts: Sequence[str], clip: float | None = None):
        self.codec = codec
        self.reward = reward
        self.prompts = prompts
        self.clip = clip
        self.scale = [tf.Variable(x, dtype=tf.float32, trainable=False) for x in (0.0, 1.0)]  # mean, std

    def __call__(
        self, prompt_indices: np.ndarray, responses: np.ndarray, mask: np.ndarray, rows: np.ndarray
    ) -> Sequence[np.ndarray]:
        """Scores N of B responses, and computes the text metrics of all of them.

        Args:
          prompt_indices: int32 [B], indices into `prompts`. The reward gets these texts, not decoded tokens, because
            decoding loses special tokens.
          responses: int32 [B, R].
          mask: bool [B, R], True for the tokens of each response.
          rows: int32 [N], indices of the responses to score; with several processes each scores a share.

        Returns:
          Four arrays, and one more for each of several rewards. The first is the scores, float32 [N], as the reward
          returned them. The second is the same scores normalized and clipped. They may be NaN or infinite; the
          learner's guard checks them. The next two are the mean number of words and distinct-2 of all B responses,
          float64 scalars. If the reward is the sum of several, their scores follow, without weights, float32 [N] each.

        Raises:
          UsageError: If the reward fails.
        """
        texts = self.codec.decode_masked(responses, mask)
        prompts = [self.prompts[prompt_indices[row]] for row in rows]
        parts: Sequence[np.ndarray] = []
        if isinstance(self.reward, WeightedRewards):
            parts = list(self.reward.parts(prompts, [texts[row] for row in rows]))
            scores = self.reward.total(np.stack(parts))
        else:
            scores = checked_scores(self.reward, prompts, [texts[row] for row in rows], must_be_finite=False)
        mean, std = (float(variable.numpy()) for variable in self.scale)
        scaled = ScoreScale(mean, std, self.clip)(scores)
        words, distinct = np.array(mean_words(texts), np.float64), np.array(distinct_2(texts), np.float64)
        return [scores, scaled, words, distinct, *parts]

    @property
    def part_names(self) -> Sequence[str]:
        """Names of the rewards whose sum is the reward; empty if there is only one."""
        return self.reward.names if isinstance(self.reward, WeightedRewards) else ()

    def fit_scale(self, scores: np.ndarray) -> None:
        """Normalizes all later scores by the mean and the standard deviation of the given ones.

        Args:
          scores: float [N], not normalized. NaN and infinite ones are ignored.

        Raises:
          UsageError: If no score is finite.
        """
        scale = ScoreScale.fit(scores)
        for variable, value in zip(self.scale, (scale.mean, scale.std), strict=True):
            variable.assign(value)
