"""Transitions that the user collected, prepared for the learner."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfppo.control.policies.actor_critic import ActorCriticPolicy
from tfppo.errors import UsageError
from tfppo.ops.returns import generalized_advantage_estimation
from tfppo.ppo.types import Batch
from tfppo.settings import check_value


class Transitions(NamedTuple):
    """N transitions in order of time; the last ones may be padding."""

    state: tf.Tensor  # [N, state_dim]
    action: tf.Tensor  # [N] int32
    reward: tf.Tensor  # [N]
    next_state: tf.Tensor  # [N, state_dim]
    terminated: tf.Tensor  # [N] bool
    truncated: tf.Tensor  # [N] bool
    mask: tf.Tensor  # [N] bool, False for padding
    gamma: tf.Tensor  # []


def make_transitions(
    state: np.ndarray,
    action: np.ndarray,
    reward: np.ndarray,
    next_state: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray | None = None,
    *,
    gamma: float,
    episode_len: int,
    state_dim: int,
    action_dim: int,
    multiple: int,
) -> Transitions:
    """Makes transitions from arrays, and pads them to a multiple of `multiple`.

    An episode is truncated where `truncated` is True, after `episode_len` steps, where `next_state` differs from the
    next `state`, and at the end of the arrays.

    Args:
      state: [N, state_dim].
      action: int [N], from 0 to action_dim - 1.
      reward: [N].
      next_state: [N, state_dim], the true next states.
      terminated: bool [N].
      truncated: bool [N]; None means False everywhere.
      gamma: Discount factor.
      episode_len: Maximum steps of an episode.
      state_dim: Size of a state.
      action_dim: Number of actions.
      multiple: The padded length is a multiple of this number.

    Returns:
      The transitions.

    Raises:
      UsageError: If the shapes do not fit together, or if actions, gamma or episode_len are out of range.
    """
    state, reward, next_state = (np.asarray(x, np.float32) for x in (state, reward, next_state))
    action, terminated = np.asarray(action, np.int32), np.asarray(terminated, bool)
    truncated = np.zeros_like(terminated) if truncated is None else np.asarray(truncated, bool)
    count = len(reward) if reward.ndim else 0
    wanted: dict[str, tuple[int, ...]] = {"state": (count, state_dim), "next_state": (count, state_dim)}
    wanted |= dict.fromkeys(("action", "reward", "terminated", "truncated"), (count,))
    given = {"state": state, "next_state": next_state, "action": action, "reward": reward}
    given |= {"terminated": terminated, "truncated": truncated}
    for name, shape in wanted.items():
        if given[name].shape != shape or not count:
            raise UsageError(
                f"{name} has shape {given[name].shape}; for {count} rewards it must be {shape}, and at least 1 reward "
                "is needed: check the arrays"
            )
    if action.min() < 0 or action.max() >= action_dim:
        raise UsageError(
            f"actions are between {action.min()} and {action.max()}; they must be between 0 and {action_dim - 1}: "
            "check action and action_dim"
        )
    check_value("gamma", gamma, "between 0 and 1", lambda v: 0 <= v <= 1)
    check_value("episode_len", episode_len, "at least 1", lambda v: v >= 1)
    padding = -count % multiple
    cuts = _cuts(state, next_state, terminated, truncated, episode_len)
    rows = (state, action, reward, next_state, terminated, cuts)
    padded = [np.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1)) for x in rows]
    mask = np.arange(count + padding) < count
    return Transitions(*map(tf.constant, (*padded, mask, np.float32(gamma))))


def transitions_to_batch(policy: ActorCriticPolicy, transitions: Transitions, gae_lambda: float) -> Batch:
    """Makes a batch for the learner, with the current policy as the old policy.

    Args:
      policy: The policy before the update.
      transitions: The transitions.
      gae_lambda: Lambda of generalized advantage estimation.

    Returns:
      The batch.
    """
    old = policy.evaluate_actions(transitions.state, transitions.action)
    advantages, returns = generalized_advantage_estimation(
        transitions.reward,
        old.values,
        policy.value(transitions.next_state),
        transitions.terminated,
        transitions.truncated,
        transitions.gamma,
        gae_lambda,
    )
    return Batch(
        inputs=transitions.state,
        actions=transitions.action,
        old_log_probs=old.log_probs,
        old_values=old.values,
        advantages=advantages,
        returns=returns,
        mask=transitions.mask,
        old_distribution=old.distribution,
    )


def _cuts(
    state: np.ndarray, next_state: np.ndarray, terminated: np.ndarray, truncated: np.ndarray, episode_len: int
) -> np.ndarray:
    """Returns where an episode is truncated, bool [N]."""
    cut = np.append(np.any(next_state[:-1] != state[1:], axis=1), True) | truncated
    length = 0
    for t in range(len(cut)):
        length += 1
        cut[t] |= length == episode_len
        if cut[t] or terminated[t]:
            length = 0
    return cut & ~terminated
