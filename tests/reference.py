"""Slow NumPy versions of the equations of the papers, one element at a time, as oracles for the library."""

import functools
import math

import numpy as np
import pytest
import tensorflow as tf

# The function under test must give the same result in all three modes. The parameter wraps it.
every_mode = pytest.mark.parametrize(
    "compiled",
    [lambda function: function, tf.function, functools.partial(tf.function, jit_compile=True)],
    ids=["eager", "graph", "xla"],
)


def counted(values, mask):
    """Returns the entries of values where mask is true, as a flat list. Without a mask it returns all entries."""
    mask = np.ones(np.shape(values), bool) if mask is None else mask
    return [float(values[i]) for i in np.ndindex(np.shape(values)) if mask[i]]


def mean(numbers):
    return sum(numbers) / len(numbers)


def variance(numbers):
    center = mean(numbers)
    return mean([(number - center) ** 2 for number in numbers])


def whiten(values, mask=None, shift_mean=True, epsilon=1e-8):
    numbers = counted(values, mask)
    center, scale = mean(numbers), math.sqrt(variance(numbers)) + epsilon
    whitened = np.zeros(np.shape(values))
    for i in np.ndindex(np.shape(values)):
        if mask is None or mask[i]:
            whitened[i] = (values[i] - center) / scale + (0 if shift_mean else center)
    return whitened


def explained_variance(values, returns, mask=None):
    residuals = np.asarray(returns) - np.asarray(values)
    return 1 - variance(counted(residuals, mask)) / variance(counted(returns, mask))


def generalized_advantage_estimation(rewards, values, next_values, terminated, truncated, gamma, gae_lambda):
    """Computes GAE of one trajectory [T]: the forward sum of Schulman et al. 2016, equation 16, up to episode ends."""
    num_steps = len(rewards)
    gamma = np.broadcast_to(gamma, [num_steps])
    advantages = np.zeros(num_steps)
    for t in range(num_steps):
        weight = 1.0
        for k in range(t, num_steps):
            bootstrap = 0.0 if terminated[k] else gamma[k] * next_values[k]
            advantages[t] += weight * (rewards[k] + bootstrap - values[k])
            if terminated[k] or truncated[k]:
                break
            weight *= gamma[k] * gae_lambda
    return advantages, advantages + values


def discounted_returns(rewards, next_values, terminated, truncated, gamma):
    """Computes the discounted sums of rewards of one trajectory [T] up to the end of the episode or of the rollout."""
    num_steps = len(rewards)
    gamma = np.broadcast_to(gamma, [num_steps])
    returns = np.zeros(num_steps)
    for t in range(num_steps):
        weight = 1.0
        for k in range(t, num_steps):
            returns[t] += weight * rewards[k]
            weight *= gamma[k]
            if terminated[k]:
                break
            if truncated[k] or k == num_steps - 1:
                returns[t] += weight * next_values[k]
                break
    return returns


def for_each_column(function, *arrays):
    """Applies a function of trajectories [T] to every column of arrays [T, ...]. Scalars are passed unchanged."""
    columns = [a.reshape(len(a), -1) if np.ndim(a) else a for a in arrays]
    results = [function(*(c[:, i] if np.ndim(c) else c for c in columns)) for i in range(columns[0].shape[1])]
    if isinstance(results[0], tuple):
        return tuple(np.stack(parts, axis=1).reshape(arrays[0].shape) for parts in zip(*results, strict=True))
    return np.stack(results, axis=1).reshape(arrays[0].shape)


def group_relative_advantages(returns, group_size, divide_by_std=True):
    """Computes the advantages of Shao et al. 2024, section 4.1.2, or those of Liu et al. 2025 without the division."""
    advantages = []
    for first in range(0, len(returns), group_size):
        group = [float(x) for x in returns[first : first + group_size]]
        scale = math.sqrt(variance(group)) if divide_by_std else 1.0
        advantages += [(x - mean(group)) / scale for x in group]
    return advantages


def leave_one_out_advantages(returns, group_size):
    """Computes the advantages of Ahmadian et al. 2024 (RLOO)."""
    advantages = []
    for first in range(0, len(returns), group_size):
        group = [float(x) for x in returns[first : first + group_size]]
        advantages += [x - mean(group[:i] + group[i + 1 :]) for i, x in enumerate(group)]
    return advantages


def average(numbers, of="tokens"):
    """Returns the mean of numbers by index: over all of them, or over sequences, with the mean of each sequence."""
    if of == "tokens":
        return mean(list(numbers.values()))
    rows = sorted({i[0] for i in numbers})
    return mean([mean([x for i, x in numbers.items() if i[0] == row]) for row in rows])


def average_inside(values, mask, of="tokens"):
    return average({i: float(values[i]) for i in np.ndindex(np.shape(values)) if mask is None or mask[i]}, of)


def clipped_surrogate_loss(
    log_probs, old_log_probs, advantages, clip_ratio, mask=None, dual_clip=None, clip_ratio_high=None, of="tokens"
):
    """Computes the negative of Schulman et al. 2017, equation 7, with the bound of Ye et al. 2020 (dual-clip PPO).

    The upper bound of the ratio may be another (Yu et al. 2025, section 3.1), and the mean may be one over sequences.
    """
    high = clip_ratio if clip_ratio_high is None else clip_ratio_high
    objectives, kls, clipped, ratios = {}, {}, {}, []
    for i in np.ndindex(log_probs.shape):
        if mask is not None and not mask[i]:
            continue
        log_ratio = min(max(float(log_probs[i]) - float(old_log_probs[i]), -20.0), 20.0)
        ratio, advantage = math.exp(log_ratio), float(advantages[i])
        objective = min(ratio * advantage, min(max(ratio, 1 - clip_ratio), 1 + high) * advantage)
        if dual_clip is not None and advantage < 0:
            objective = max(objective, dual_clip * advantage)
        objectives[i] = objective
        kls[i] = ratio - 1 - log_ratio
        clipped[i] = float(not 1 - clip_ratio <= ratio <= 1 + high)
        ratios.append(ratio)
    metrics = {
        "policy/approx_kl": average(kls, of),
        "policy/clip_fraction": average(clipped, of),
        "policy/ratio_max": max(ratios),
    }
    return -average(objectives, of), metrics


def clipped_value_loss(values, old_values, returns, value_clip=None, mask=None, of="tokens"):
    losses, clipped = {}, {}
    for i in np.ndindex(values.shape):
        if mask is not None and not mask[i]:
            continue
        value, old, target = float(values[i]), float(old_values[i]), float(returns[i])
        loss = (value - target) ** 2
        if value_clip is not None:
            near = min(max(value, old - value_clip), old + value_clip)
            loss = max(loss, (near - target) ** 2)
            clipped[i] = float(abs(value - old) > value_clip)
        losses[i] = loss
    return average(losses, of) / 2, {"value/clip_fraction": average(clipped, of) if clipped else 0.0}


def softmax(logits):
    exponentials = [math.exp(x - max(logits)) for x in logits]
    return [e / sum(exponentials) for e in exponentials]


def categorical_kl(logits_p, logits_q):
    p, q = softmax(logits_p), softmax(logits_q)
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def normal_log_density(x, mean, log_std):
    return sum(
        -((a - m) ** 2) / (2 * math.exp(s) ** 2) - s - math.log(2 * math.pi) / 2
        for a, m, s in zip(x, mean, log_std, strict=True)
    )


def diagonal_normal_kl(mean_p, log_std_p, mean_q, log_std_q):
    kl = 0.0
    for m_p, s_p, m_q, s_q in zip(mean_p, log_std_p, mean_q, log_std_q, strict=True):
        kl += s_q - s_p + (math.exp(s_p) ** 2 + (m_p - m_q) ** 2) / (2 * math.exp(s_q) ** 2) - 0.5
    return kl


def adaptive_kl_coefficient_schulman(coefficient, kl, target):
    if kl < target / 1.5:
        return coefficient / 2
    if kl > target * 1.5:
        return coefficient * 2
    return coefficient


def adaptive_kl_coefficient_ziegler(coefficient, kl, target, num_episodes, horizon):
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coefficient * (1 + error * num_episodes / horizon)
