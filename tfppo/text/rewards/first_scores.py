"""Describes the scores that the normalization is fitted on, so that a user sees rare or constant scores."""

import numpy as np

from tfppo.text.rewards.callables import ROUNDING, STD_FLOOR, ScoreScale

RARE = 0.05  # largest share of scores that count as rare


def describe_first_scores(scores: np.ndarray) -> str:
    """Describes scores of the reference policy's responses in one line.

    Args:
      scores: Scores [N], of which at least one is finite.

    Returns:
      The number, the mean, the standard deviation and the range of the scores. It also says how many scores are not
      finite, and if the scores are equal, almost equal or rare.
    """
    finite = scores[np.isfinite(scores)].astype(np.float64)
    mean, std, low, high = finite.mean(), finite.std(), finite.min(), finite.max()
    largest = np.abs(finite).max()
    parts = [
        f"scores of {len(scores)} responses before training: mean {mean:.4g}, standard deviation {std:.4g}, "
        f"from {low:.4g} to {high:.4g}"
    ]
    if len(finite) < len(scores):
        parts.append(f"{len(scores) - len(finite)} of {len(scores)} are not finite and are ignored")
    different = int((np.abs(finite - np.median(finite)) > STD_FLOOR * largest).sum())
    if std <= ROUNDING * largest:
        parts.append("all equal, so they are not scaled")
    elif std < STD_FLOOR * largest:
        parts.append(f"almost equal, so they are scaled by the floor {ScoreScale.fit(scores).std:.4g}")
    elif different <= RARE * len(finite):
        parts.append(f"only {different} of {len(finite)} {'differs' if different == 1 else 'differ'} from the rest")
    return "; ".join(parts)
