"""Sums of several rewards, and a limit on the time that a reward may take."""

import functools
import itertools
import queue
import threading
from collections import Counter
from collections.abc import Sequence

import numpy as np

from tfppo.errors import UsageError
from tfppo.text.rewards.callables import Reward, as_reward, checked_scores, reward_name

SEPARATOR = ","  # between the names of several rewards


class WeightedRewards:
    """The weighted sum of several rewards.

    Args:
      rewards: K reward functions.
      weights: K weights.
    """

    def __init__(self, rewards: Sequence[Reward], weights: Sequence[float]):
        self.rewards = tuple(rewards)
        self.weights = np.asarray(weights, np.float64)
        self.names = _short_names(rewards)

    def __call__(self, prompts: list[str], responses: list[str]) -> np.ndarray:
        """Returns the sum for each response, float32 [B]."""
        return self.total(self.parts(prompts, responses))

    def parts(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Scores responses by each reward.

        Args:
          prompts: B prompts.
          responses: B responses.

        Returns:
          Scores without weights, float32 [K, B]. They may be NaN or infinite.

        Raises:
          UsageError: If a reward fails.
        """
        return np.stack([checked_scores(reward, prompts, responses, must_be_finite=False) for reward in self.rewards])

    def total(self, parts: np.ndarray) -> np.ndarray:
        """Returns the weighted sum, float32 [B], of scores [K, B]. A reward of weight 0 counts nothing."""
        counts = self.weights != 0
        return (self.weights[counts] @ parts[counts].astype(np.float64)).astype(np.float32)


def combined(rewards: Sequence[Reward], weights: Sequence[float], timeout: float | None) -> Reward:
    """Combines the rewards of a run.

    Args:
      rewards: At least one reward.
      weights: One weight for each reward. Empty: all are 1.
      timeout: Largest number of seconds that a reward may take for a batch. None: it may take any time.

    Returns:
      The reward, or the weighted sum of several.

    Raises:
      UsageError: If the number of weights is not the number of rewards, or all weights are 0.
    """
    if weights and len(weights) != len(rewards):
        raise UsageError(
            f"reward_weights has {len(weights)} values, and the run has {len(rewards)} "
            f"{'rewards' if len(rewards) > 1 else 'reward'}: give one weight for each reward"
        )
    if weights and not any(weights):
        raise UsageError(
            "reward_weights are all 0, so every score is 0 and nothing is learnt: give at least one reward a weight"
        )
    if timeout is not None:
        rewards = [_with_timeout(reward, timeout) for reward in rewards]
    if len(rewards) == 1 and not weights:
        return rewards[0]
    return WeightedRewards(rewards, weights or [1.0] * len(rewards))


def parts_of_reward(reward: Reward) -> Sequence[Reward]:
    """Returns the rewards of a sum, or the reward itself."""
    return reward.rewards if isinstance(reward, WeightedRewards) else [reward]


def split_names(names: str) -> list[str]:
    """Returns the names of rewards in a setting, such as "mine:exact,mine:short"."""
    return [name.strip() for name in names.split(SEPARATOR)]


def as_rewards(given: object) -> list[Reward]:
    """Converts one reward, or a list of rewards, to reward functions; see `as_reward`.

    Args:
      given: A reward, a text with the names of rewards, or a list of rewards.

    Returns:
      The reward functions.

    Raises:
      UsageError: If one of them is no reward, or the list is empty.
    """
    if isinstance(given, str):
        given = split_names(given)
    if not isinstance(given, list | tuple):
        given = [given]
    if not given:
        raise UsageError("reward is an empty list; it must have at least one reward: add one")
    return [as_reward(reward) for reward in given]


def _short_names(rewards: Sequence[Reward]) -> tuple[str, ...]:
    """Returns a short name of each reward, for its metric. Equal names are numbered."""
    short = [reward_name(reward).partition(":")[2].split(".")[-1].strip("<>") for reward in rewards]
    counts, names = Counter(short), list[str]()
    taken = {name for name, count in counts.items() if count == 1}
    for name in short:
        if counts[name] > 1:
            numbered = (f"{name}_{number}" for number in itertools.count(1))
            name = next(one for one in numbered if one not in taken)
            taken.add(name)
        names.append(name)
    return tuple(names)


def _with_timeout(reward: Reward, seconds: float) -> Reward:
    """Calls a reward in another thread, and raises an error if it does not answer in time.

    A thread cannot be stopped. It is a daemon, so that it does not keep the process alive.
    """

    @functools.wraps(reward, updated=())
    def timed(*args: object, **kwargs: object) -> object:
        answers = queue.SimpleQueue[tuple[object, BaseException | None]]()

        def answer() -> None:
            try:
                answers.put((reward(*args, **kwargs), None))  # type: ignore[arg-type]
            except BaseException as error:  # it is raised again below
                answers.put((None, error))

        threading.Thread(target=answer, name=f"reward {reward_name(reward)}", daemon=True).start()
        try:
            scores, error = answers.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError(f"no answer within {seconds:g} seconds (reward_timeout)") from None
        if error is not None:
            raise error
        return scores

    timed.__module__, _, timed.__qualname__ = reward_name(reward).partition(":")  # also of a partial or an object
    return timed  # type: ignore[return-value]
