"""Reward functions from outside: found by name, called with care, and put on a scale."""

import functools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tfppo.errors import UsageError, kind_and_text
from tfppo.training.user_modules import import_named

if TYPE_CHECKING:
    import keras

Reward = Callable[[list[str], list[str]], Sequence[float] | np.ndarray]
"""reward(prompts, responses) -> one number a response, the higher the better."""

SHOWN = 200  # characters of somebody else's value that an error repeats
ROUNDING = np.finfo(np.float32).eps


def load_reward(reference: str) -> Reward:
    """The reward function (or Keras model, see `as_reward`) that "package.module:function" names.

    What stands after the colon may be dotted.

    Raises:
      UsageError: if the reference has no such form, the module cannot be imported, or the name in it is missing or
        not callable.
    """
    module_name, _, attribute = reference.partition(":")
    if not (module_name and attribute):
        raise UsageError(
            f"reward {reference!r} must be package.module:function: give a module that can be imported, a colon, and "
            "the name of a function in it"
        )
    module = import_named(module_name, f"reward {reference!r}")
    try:
        found = functools.reduce(getattr, attribute.split("."), module)
    except AttributeError:
        raise UsageError(
            f"reward {reference!r}: module {module_name} ({getattr(module, '__file__', None) or 'no file'}) has no "
            f"{attribute}; give the name of a function that it defines"
        ) from None
    if not callable(found):
        raise UsageError(
            f"reward {reference!r} is {_short(found)} ({type(found).__name__}), which cannot be called; give a "
            "function of (prompts, responses)"
        )
    return as_reward(found)


def as_reward(reward: object) -> Reward:
    """A callable as it is; a keras.Model as the reward function that calls it.

    The model gets a tf.string tensor [B], each prompt with its response right behind it, and gives [B] or [B, 1].

    Raises:
      UsageError: if it is neither.
    """
    # A Keras model exists only where Keras has been imported; the others need not wait for it.
    if "keras" in sys.modules and isinstance(reward, sys.modules["keras"].Model):
        return _model_reward(reward)
    if callable(reward):
        return reward
    raise UsageError(
        f"a reward must be a function of (prompts, responses) or a keras.Model, not {_short(reward)} "
        f"({type(reward).__name__}): give one of the two, or load_reward('package.module:function')"
    )


def checked_scores(
    reward: Reward, prompts: Sequence[str], responses: Sequence[str], must_be_finite: bool = True
) -> np.ndarray:
    """What a reward function gives for B responses, [B] float32; unless it is left to the learner's guard, all finite.

    The function may give a list, a tuple, an array or a tensor, [B] or [B, 1]; a bool is a number. It gets lists of
    its own, which it may change.

    Raises:
      UsageError: naming the reward, if it raised, or gave anything but B (finite) numbers.
    """
    name = reward_name(reward)
    try:
        values = _plain(reward(list(prompts), list(responses)))
    except Exception as error:  # whatever the user's function does; its trace hangs on this one
        raise UsageError(f"reward {name} raised {kind_and_text(error)}; mend it or give another") from error
    if not isinstance(values, Sequence) or isinstance(values, (str, bytes)):
        raise UsageError(
            f"reward {name} gave {_short(values)} ({type(values).__name__}) for {len(responses)} responses: "
            "it must return a list, an array or a tensor with one number a response"
        )
    if len(values) != len(responses):
        raise UsageError(
            f"reward {name} gave {len(values)} scores for {len(responses)} responses: it must return one "
            "number a response"
        )
    scores = np.empty(len(values), np.float32)  # [B]
    for index, value in enumerate(values):
        with np.errstate(over="ignore"):  # beyond float32 is infinite, and told below
            scores[index] = _number(name, index, value)
        if must_be_finite and not np.isfinite(scores[index]):
            raise UsageError(
                f"reward {name} gave {_short(value)} for response {index} ({_short(responses[index], 40)}): "
                "it must return finite numbers (of float32)"
            )
    return scores


@dataclass(frozen=True, slots=True)
class ScoreScale:
    """Scores on a scale where reference samples have mean 0 and standard deviation 1 (Ziegler et al. 2019)."""

    mean: float = 0.0
    """What becomes 0."""
    std: float = 1.0
    """What becomes a distance of 1; positive."""
    clip: float | None = None
    """Scaled scores end at plus and minus this; None: nowhere."""

    def __post_init__(self) -> None:
        for name in ("mean", "std", "clip"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and (value > 0 or name == "mean")):
                wanted = "a finite number" if name == "mean" else "positive and finite"
                raise UsageError(f"{name} of a score scale must be {wanted}, not {value!r}")

    @classmethod
    def fit(cls, scores: Sequence[float] | np.ndarray, clip: float | None = None) -> "ScoreScale":
        """Takes the scale from reference samples' scores [N]: their mean and (population) standard deviation.

        Scores that differ by no more than float32's rounding get standard deviation 1.

        Raises:
          UsageError: if there is no score, or one that is not finite.
        """
        wide = np.asarray(scores, np.float64)
        if wide.size == 0 or not np.isfinite(wide).all():
            raise UsageError(f"a score scale needs finite scores of reference samples, not {_short(wide.tolist())}")
        mean, std = float(wide.mean()), float(wide.std())
        return cls(mean, std if std > ROUNDING * np.abs(wide).max() else 1.0, clip)

    def __call__(self, scores: Sequence[float] | np.ndarray) -> np.ndarray:
        """Computes (scores - mean) / std, clipped: float32, in the shape of the scores."""
        scaled = (np.asarray(scores, np.float64) - self.mean) / self.std
        return (scaled if self.clip is None else np.clip(scaled, -self.clip, self.clip)).astype(np.float32)


def _model_reward(model: "keras.Model") -> Reward:
    def score(prompts: list[str], responses: list[str]) -> np.ndarray:
        import tensorflow as tf

        texts = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
        scores = np.asarray(model(tf.constant(texts, tf.string, [len(texts)])))  # [B] or [B, 1]
        return scores[:, 0] if scores.ndim == 2 and scores.shape[1] == 1 else scores

    score.__module__, score.__qualname__ = type(model).__module__, model.name  # by which errors call it
    return score


def _plain(values: Any) -> Any:
    """An array or a tensor as Python's lists and numbers; anything else as it is."""
    if hasattr(values, "__array__") and not hasattr(values, "tolist"):  # TensorFlow's
        values = np.asarray(values)
    return values.tolist() if hasattr(values, "tolist") else values


def _number(name: str, index: int, value: Any) -> float:
    """A float from a number, from [number], or from an array or a tensor of one."""
    number = _plain(value)
    if isinstance(number, (list, tuple)) and len(number) == 1:
        number = number[0]
    try:
        if not isinstance(number, (str, bytes)):
            return float(number)
    except OverflowError:  # a whole number beyond float64
        return math.inf
    except (TypeError, ValueError):
        pass
    raise UsageError(
        f"reward {name} gave {_short(value)} ({type(value).__name__}) for response {index}: it must return "
        "one number a response"
    )


def reward_name(reward: object) -> str:
    """A reward as package.module:function, which `load_reward` finds again if it can be imported."""
    while isinstance(reward, functools.partial):
        reward = reward.func
    named = reward if hasattr(reward, "__qualname__") else type(reward)
    return f"{named.__module__}:{named.__qualname__}"


def _short(value: object, limit: int = SHOWN) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= limit else text[:limit] + "..."
