"""Reward functions of the user: loading by name, checked calls, and normalization of scores."""

import functools
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from tfppo.errors import UsageError, kind_and_text
from tfppo.text.rewards.signature import call_with_texts, check_signature
from tfppo.training.user_modules import load_named

Reward = Callable[[list[str], list[str]], Sequence[float] | np.ndarray]
"""A function `reward(prompts, responses)` that returns one number for each response; higher is better.

If it has parameters of these names, they may be in any order.
"""


class RewardError(UsageError):
    """A reward failed. The text names the reward."""


SHOWN = 200  # largest number of characters of a value in an error message
ROUNDING = np.finfo(np.float32).eps
STD_FLOOR = 0.01  # smallest standard deviation that scores are divided by, as a share of the largest absolute score


def load_reward(reference: str) -> Reward:
    """Loads a reward function (or a Keras model, see `as_reward`) by its name.

    Args:
      reference: "package.module:function"; the part after the colon may contain dots.

    Returns:
      The reward function.

    Raises:
      UsageError: If the reference has another form, the module cannot be imported, or it has no such callable.
    """
    found = load_named(reference, "reward", "function")
    if not callable(found):
        raise UsageError(
            f"reward {reference!r} is {_short(found)} ({type(found).__name__}), which is not callable: give a function "
            "of (prompts, responses)"
        )
    return as_reward(found)


def as_reward(reward: object) -> Reward:
    """Converts a reward to a reward function.

    Args:
      reward: A function of (prompts, responses), which is returned unchanged, the name of one for `load_reward`, the
        folder of a reward model or of the run that trained it, or a `keras.Model`. The model is a
        `keras_hub.models.TextClassifier`, or it is called with a `tf.string` tensor [B] of prompts joined with their
        responses, and must return scores [B] or [B, 1].

    Returns:
      The reward function.

    Raises:
      UsageError: If it is none of these, or a function that cannot take prompts and responses.
    """
    if is_folder(reward):
        from tfppo.text.rewards.reward_model import RewardModel

        return RewardModel.load(Path(reward))
    if isinstance(reward, str):
        return load_reward(reward)
    # If Keras has not been imported, the reward is no Keras model, and the slow import is not needed.
    if "keras" in sys.modules and isinstance(reward, sys.modules["keras"].Model):
        from tfppo.text.rewards.keras_models import KerasReward

        return KerasReward(reward)
    if callable(reward):
        check_signature(reward, f"reward {reward_name(reward)}")
        return reward
    raise UsageError(
        f"reward is {_short(reward)} ({type(reward).__name__}); it must be a function of (prompts, responses), its "
        "name as 'package.module:function', a keras.Model, or the folder of a reward model: give one of these"
    )


def is_folder(reward: object) -> TypeGuard[Path | str]:
    """Returns True if a reward that a user gives is the folder of a reward model, and not the name of a function."""
    return isinstance(reward, Path) or (isinstance(reward, str) and os.path.isdir(reward))


def checked_scores(
    reward: Reward, prompts: Sequence[str], responses: Sequence[str], must_be_finite: bool = True
) -> np.ndarray:
    """Calls a reward function and checks its result.

    The function may return a list, a tuple, an array or a tensor of numbers or bools, [B] or [B, 1]. It gets copies of
    the lists, which it may change.

    Args:
      reward: The reward function, as `as_reward` returns it.
      prompts: B prompts.
      responses: B responses.
      must_be_finite: Raises an error for a NaN or infinite score; False leaves this check to the learner's guard.

    Returns:
      Scores, float32 [B].

    Raises:
      UsageError: If the function raises an exception or `SystemExit`, or does not return B (finite) numbers.
    """
    name = reward_name(reward)
    try:
        values = _plain(call_with_texts(reward, prompts, responses))
    except RewardError:  # of one of several rewards
        raise
    except (Exception, SystemExit) as error:  # the user's function may raise anything; its trace is kept as the cause
        raise RewardError(f"reward {name} raised {kind_and_text(error)}: fix it or give another reward") from error
    if not isinstance(values, Sequence) or isinstance(values, (str, bytes)):
        raise RewardError(
            f"reward {name} returned {_short(values)} ({type(values).__name__}) for {len(responses)} responses; "
            "it must return a list, an array or a tensor with one number for each response"
        )
    if len(values) != len(responses):
        raise RewardError(
            f"reward {name} returned {len(values)} scores for {len(responses)} responses; it must return one "
            "number for each response"
        )
    scores = np.empty(len(values), np.float32)  # [B]
    for index, value in enumerate(values):
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which is checked below
            scores[index] = _number(name, index, value)
        if must_be_finite and not np.isfinite(scores[index]):
            raise RewardError(
                f"reward {name} returned {_short(value)} for response {index} ({_short(responses[index], 40)}); "
                "it must return numbers that are finite in float32"
            )
    return scores


@dataclass(frozen=True, slots=True)
class ScoreScale:
    """Normalizes scores so that responses of the reference policy have mean 0 and standard deviation 1.

    Source: Ziegler et al. 2019.
    """

    mean: float = 0.0
    """Mean of the scores before normalization."""
    std: float = 1.0
    """Standard deviation of the scores before normalization; positive."""
    clip: float | None = None
    """Largest absolute value of a normalized score; None: no clipping."""

    def __post_init__(self) -> None:
        for name in ("mean", "std", "clip"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and (value > 0 or name == "mean")):
                wanted = "a finite number" if name == "mean" else "positive and finite"
                raise UsageError(f"{name} of a score scale is {value!r}; it must be {wanted}")

    @classmethod
    def fit(cls, scores: Sequence[float] | np.ndarray, clip: float | None = None) -> "ScoreScale":
        """Makes the scale that normalizes the given scores.

        Args:
          scores: Scores [N] of the reference policy's responses. NaN and infinite ones are ignored.
          clip: Largest absolute value of a normalized score; None does not clip.

        Returns:
          A scale with their mean and their (population) standard deviation. The standard deviation is at least
          STD_FLOOR times the largest absolute score, so that a score which differs from almost equal ones does not
          become huge. It is 1 if the scores differ by no more than the rounding of float32.

        Raises:
          UsageError: If no score is finite.
        """
        wide = np.asarray(scores, np.float64)
        finite = wide[np.isfinite(wide)]
        if not finite.size:
            raise UsageError(
                f"scores of the reference policy are {_short(wide.tolist())}; normalization needs at least one finite "
                "score: fix the reward"
            )
        mean, std, largest = float(finite.mean()), float(finite.std()), float(np.abs(finite).max())
        return cls(mean, max(std, STD_FLOOR * largest) if std > ROUNDING * largest else 1.0, clip)

    def __call__(self, scores: Sequence[float] | np.ndarray) -> np.ndarray:
        """Normalizes and clips scores.

        Args:
          scores: Scores in any shape.

        Returns:
          `(scores - mean) / std`, clipped, as float32 in the same shape. Infinite scores stay infinite, so that the
          learner's guard finds them.
        """
        scaled = (np.asarray(scores, np.float64) - self.mean) / self.std
        if self.clip is not None:
            scaled = np.where(np.isfinite(scaled), np.clip(scaled, -self.clip, self.clip), scaled)
        return scaled.astype(np.float32)


def _plain(values: Any) -> Any:
    """Converts an array or a tensor to lists and numbers; returns anything else unchanged."""
    if hasattr(values, "__array__") and not hasattr(values, "tolist"):  # a tensor of TensorFlow
        values = np.asarray(values)
    return values.tolist() if hasattr(values, "tolist") else values


def _number(name: str, index: int, value: Any) -> float:
    """Converts a number, or a list, an array or a tensor of one number, to a float."""
    number = _plain(value)
    if isinstance(number, (list, tuple)) and len(number) == 1:
        number = number[0]
    try:
        if not isinstance(number, (str, bytes)):
            return float(number)
    except OverflowError:  # an integer that is too large for float64
        return math.inf
    except (TypeError, ValueError):
        pass
    raise RewardError(
        f"reward {name} returned {_short(value)} ({type(value).__name__}) for response {index}; it must return "
        "one number for each response"
    )


def reward_name(reward: object) -> str:
    """Describes a reward as "package.module:function" in messages.

    Args:
      reward: A function, a partial of one, or another callable object, which is named by its class.
    """
    while isinstance(reward, functools.partial):
        reward = reward.func
    named = reward if hasattr(reward, "__qualname__") else type(reward)
    return f"{getattr(named, '__module__', None) or 'builtins'}:{named.__qualname__}"  # some builtins have no module


def _short(value: object, limit: int = SHOWN) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= limit else text[:limit] + "..."
