"""Measures the same PPO for CartPole-v1 in plain JAX, as one compiled program.

It runs on the CPU, unless JAX_PLATFORMS is set. An iteration is a rollout (`lax.scan` over time; an episode is reset by
a separate step that is masked out), the advantages, and 4 epochs x 4 minibatches of Adam, all under one `jax.jit` with
donated buffers. `--scan K` runs K iterations per call. The script prints one JSON line: the time at which the first
call ended (seconds since the epoch), and the environment steps per second of each block of iterations after it.

    make peers
    .venv/peers/bin/python benchmarks/jax_iteration.py --num-envs 64 --rollout-length 128
    .venv/peers/bin/python benchmarks/jax_iteration.py --learn 524288

`--learn STEPS` trains for this number of steps, with a learning rate that decreases to 0. It prints the mean return of
the training episodes that finished in the last tenth of the steps.
"""

import argparse
import json
import os
import time
from functools import partial
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # must be set before JAX is imported

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from jax import lax  # noqa: E402

HIDDEN_UNITS = (64, 64)
MAX_EPISODE_STEPS = 500


class Settings(NamedTuple):
    """Settings of PPO. They are hashable, so that they can be a static argument of the compiled program."""

    num_envs: int = 64
    rollout_length: int = 128
    num_epochs: int = 4
    num_minibatches: int = 4
    num_micro_batches: int = 1  # parts of a minibatch; their gradients are added
    num_iterations: int = 10_000
    learning_rate: float = 4e-3
    clip_ratio: float = 0.2
    value_coeff: float = 0.5
    entropy_coeff: float = 0.01
    max_grad_norm: float = 0.5
    adam_epsilon: float = 1e-5
    gamma: float = 0.98
    gae_lambda: float = 0.9

    @property
    def batch_size(self) -> int:
        return self.num_envs * self.rollout_length


class Episodes(NamedTuple):
    state: jax.Array  # [B, 4]
    returns: jax.Array  # [B]
    lengths: jax.Array  # [B] int32
    done: jax.Array  # [B] bool: the next step starts a new episode


class TrainState(NamedTuple):
    parameters: Any
    optimizer: Any
    episodes: Episodes
    key: jax.Array


class Batch(NamedTuple):
    observations: jax.Array  # [N, 4]
    actions: jax.Array  # [N] int32
    old_log_probs: jax.Array  # [N]
    advantages: jax.Array  # [N]
    returns: jax.Array  # [N]
    mask: jax.Array  # [N] bool


# Networks


def init_mlp(generator, output_units, output_gain):
    """Returns orthogonal weights and zero biases, from NumPy, because compiling JAX's QR decomposition takes 1 s."""
    sizes = (4, *HIDDEN_UNITS, output_units)
    gains = (2**0.5,) * len(HIDDEN_UNITS) + (output_gain,)
    return [
        (gain * orthogonal(generator, rows, columns), np.zeros(columns, np.float32))
        for gain, rows, columns in zip(gains, sizes[:-1], sizes[1:], strict=True)
    ]


def orthogonal(generator, rows, columns):
    """Returns a [rows, columns] matrix with orthonormal rows or columns, whichever are fewer."""
    q, r = np.linalg.qr(generator.standard_normal((max(rows, columns), min(rows, columns))))
    q = (q * np.sign(np.diag(r))).astype(np.float32)
    return q if rows >= columns else q.T


def apply_mlp(layers, x):
    for weights, biases in layers[:-1]:
        x = jnp.tanh(x @ weights + biases)
    weights, biases = layers[-1]
    return x @ weights + biases


def values_of(parameters, observations):
    return apply_mlp(parameters["critic"], observations)[..., 0]


def log_prob_of(logits, actions):
    return jnp.take_along_axis(jax.nn.log_softmax(logits), actions[..., None], axis=-1)[..., 0]


# Environment


def step_cartpole(state, actions):
    """Returns the next states [B, 4], and a mask [B] of the episodes that terminated."""
    position, velocity, angle, angular_velocity = state.T
    force = jnp.where(actions == 1, 10.0, -10.0)
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    pushed = (force + 0.05 * jnp.square(angular_velocity) * sine) / 1.1
    angular_acceleration = (9.8 * sine - cosine * pushed) / (0.5 * (4.0 / 3.0 - 0.1 * jnp.square(cosine) / 1.1))
    acceleration = pushed - 0.05 * angular_acceleration * cosine / 1.1
    rates = jnp.stack([velocity, acceleration, angular_velocity, angular_acceleration], axis=-1)
    state = state + 0.02 * rates  # [B, 4]
    terminated = (jnp.abs(state[:, 0]) > 2.4) | (jnp.abs(state[:, 2]) > 12 * 2 * jnp.pi / 360)
    return state, terminated


def step_episodes(episodes, actions, fresh):
    """Steps every environment. An environment with a finished episode moves to its `fresh` state instead."""
    starts = episodes.done
    state, terminated = step_cartpole(episodes.state, actions)
    state = jnp.where(starts[:, None], fresh, state)
    rewards = jnp.where(starts, 0.0, 1.0)
    returns = jnp.where(starts, 0.0, episodes.returns + rewards)
    lengths = jnp.where(starts, 0, episodes.lengths + 1)
    terminated = terminated & ~starts
    truncated = (lengths >= MAX_EPISODE_STEPS) & ~starts
    return Episodes(state, returns, lengths, terminated | truncated), (rewards, terminated, truncated, ~starts, returns)


# PPO


def collect(settings, parameters, episodes, key):
    """Collects a rollout.

    Returns:
      The rollout with its advantages as a Batch, the episodes after it, and the returns of the finished episodes.
    """
    T, B = settings.rollout_length, settings.num_envs
    noise_key, fresh_key = jax.random.split(key)
    noise = jax.random.gumbel(noise_key, (T, B, 2))
    fresh = jax.random.uniform(fresh_key, (T, B, 4), minval=-0.05, maxval=0.05)

    def advance(episodes, drawn):
        noise, fresh = drawn
        observations = episodes.state
        logits = apply_mlp(parameters["actor"], observations)  # [B, 2]
        actions = jnp.argmax(logits + noise, axis=-1)
        values = values_of(parameters, observations)  # here, because the observations are still in the CPU's cache
        episodes, transition = step_episodes(episodes, actions, fresh)
        return episodes, (observations, logits, actions, values, transition)

    episodes, record = lax.scan(advance, episodes, (noise, fresh))
    observations, logits, actions, values, transition = record
    rewards, terminated, truncated, mask, totals = transition  # each [T, B]
    values = jnp.concatenate([values, values_of(parameters, episodes.state)[None]])  # [T + 1, B]
    ended = terminated | truncated
    deltas = rewards + settings.gamma * jnp.where(terminated, 0.0, values[1:]) - values[:-1]
    decays = jnp.where(ended, 0.0, settings.gamma * settings.gae_lambda)

    def accumulate(later, now):
        delta, decay = now
        advantage = delta + decay * later
        return advantage, advantage

    _, advantages = lax.scan(accumulate, jnp.zeros(B), (deltas, decays), reverse=True)
    batch = Batch(observations, actions, log_prob_of(logits, actions), advantages, advantages + values[:-1], mask)
    batch = jax.tree.map(lambda x: x.reshape(T * B, *x.shape[2:]), batch)
    finished = {"episodes": ended.sum(), "return_sum": jnp.where(ended, totals, 0.0).sum()}
    return batch, episodes, finished


def loss_of(parameters, items, count, settings):
    """Computes the loss of a micro-batch of a minibatch with normalized advantages and `count` masked entries."""

    def mean(values):
        return jnp.where(items.mask, values, 0.0).sum() / count

    logits = apply_mlp(parameters["actor"], items.observations)  # [M, 2]
    log_probs = jax.nn.log_softmax(logits)
    log_prob = jnp.take_along_axis(log_probs, items.actions[:, None], axis=-1)[:, 0]
    ratio = jnp.exp(log_prob - items.old_log_probs)
    clipped = jnp.clip(ratio, 1 - settings.clip_ratio, 1 + settings.clip_ratio)
    policy_loss = -mean(jnp.minimum(items.advantages * ratio, items.advantages * clipped))
    value_loss = 0.5 * mean(jnp.square(values_of(parameters, items.observations) - items.returns))
    entropy = mean(-(jnp.exp(log_probs) * log_probs).sum(axis=-1))
    total = policy_loss + settings.value_coeff * value_loss - settings.entropy_coeff * entropy
    return total, {"loss/policy": policy_loss, "loss/value": value_loss, "policy/entropy": entropy}


def gradients_of(parameters, minibatch, settings):
    """Computes the gradients and metrics of a minibatch as sums over its micro-batches."""
    mask = minibatch.mask
    count = jnp.maximum(mask.sum(), 1)
    centred = minibatch.advantages - jnp.where(mask, minibatch.advantages, 0.0).sum() / count
    std = jnp.sqrt(jnp.where(mask, jnp.square(centred), 0.0).sum() / count)
    minibatch = minibatch._replace(advantages=centred / (std + 1e-8))
    differentiate = partial(jax.grad(loss_of, has_aux=True), parameters, count=count, settings=settings)
    if settings.num_micro_batches == 1:
        return differentiate(minibatch)

    def add(sums, items):
        return jax.tree.map(jnp.add, sums, differentiate(items)), None

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(differentiate, minibatch))
    return lax.scan(add, zeros, split(minibatch, settings.num_micro_batches))[0]


def split(batch, pieces):
    """Reshapes [N, ...] to [pieces, N / pieces, ...]."""
    return jax.tree.map(lambda x: x.reshape(pieces, -1, *x.shape[1:]), batch)


def make_optimizer(settings):
    steps = settings.num_epochs * settings.num_minibatches

    def learning_rate(count):
        return settings.learning_rate * (1.0 - (count // steps) / settings.num_iterations)

    return optax.chain(
        optax.clip_by_global_norm(settings.max_grad_norm), optax.adam(learning_rate, eps=settings.adam_epsilon)
    )


def permutation(size, key):
    """Returns a random permutation by one sort of random integers. `jax.random.permutation` sorts twice."""
    return lax.sort_key_val(jax.random.bits(key, (size,)), jnp.arange(size))[1]


def iterate(settings, state):
    """Runs one iteration: a rollout, then epochs x minibatches."""
    optimizer = make_optimizer(settings)
    key, rollout_key, update_key = jax.random.split(state.key, 3)
    batch, episodes, finished = collect(settings, state.parameters, state.episodes, rollout_key)

    def step(carry, minibatch):
        parameters, optimizer_state = carry
        gradients, metrics = gradients_of(parameters, minibatch, settings)
        updates, optimizer_state = optimizer.update(gradients, optimizer_state, parameters)
        return (optax.apply_updates(parameters, updates), optimizer_state), metrics

    def epoch(carry, key):
        order = permutation(settings.batch_size, key)
        shuffled = jax.tree.map(lambda x: x[order], batch)
        return lax.scan(step, carry, split(shuffled, settings.num_minibatches))

    keys = jax.random.split(update_key, settings.num_epochs)
    (parameters, optimizer_state), metrics = lax.scan(epoch, (state.parameters, state.optimizer), keys)
    return TrainState(parameters, optimizer_state, episodes, key), jax.tree.map(jnp.mean, metrics) | finished


def init(settings, seed):
    generator = np.random.default_rng(seed)
    parameters = {"actor": init_mlp(generator, 2, 0.01), "critic": init_mlp(generator, 1, 1.0)}
    B = settings.num_envs
    fresh = generator.uniform(-0.05, 0.05, (B, 4)).astype(np.float32)
    episodes = Episodes(fresh, np.zeros(B, np.float32), np.zeros(B, np.int32), np.zeros(B, bool))

    @jax.jit
    def on_device(parameters, episodes):
        return TrainState(parameters, make_optimizer(settings).init(parameters), episodes, jax.random.key(seed))

    return on_device(parameters, episodes)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def train(settings, iterations, state):
    """Runs `iterations` iterations in one call. If there are several, the metrics have a leading axis over them."""
    if iterations == 1:
        return iterate(settings, state)
    return lax.scan(lambda state, _: iterate(settings, state), state, length=iterations)


def measure(settings, scan, blocks, iterations, seed):
    """Measures the speed. Results are awaited only at the end of a block, because JAX runs asynchronously."""
    state = init(settings, seed)
    state, _ = jax.block_until_ready(train(settings, scan, state))
    first = time.time()
    steps_per_s = []
    for _ in range(blocks):
        began = time.perf_counter()
        for _ in range(exact_div(iterations, scan)):
            state, metrics = train(settings, scan, state)
        jax.block_until_ready((state, metrics))
        steps_per_s.append(round(iterations * settings.batch_size / (time.perf_counter() - began)))
    return {"first_iteration_at": first, "env_steps_per_s": steps_per_s}


def learn(settings, scan, seed):
    """Returns the mean return of the episodes that finished in the last tenth of the run."""
    state = init(settings, seed)
    rows = []
    for _ in range(exact_div(settings.num_iterations, scan)):
        state, metrics = train(settings, scan, state)
        rows.append(metrics)
    rows = jax.device_get(rows)
    returns, episodes = (np.concatenate([np.atleast_1d(row[k]) for row in rows]) for k in ("return_sum", "episodes"))
    last = slice(-max(1, settings.num_iterations // 10), None)
    mean = returns[last].sum() / episodes[last].sum()
    return {"seed": seed, "episode_return_mean": round(float(mean), 1), "episodes": int(episodes[last].sum())}


def exact_div(total, part):
    if total % part:
        raise SystemExit(f"{total} is not a multiple of {part}")
    return total // part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--rollout-length", type=int, default=128)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=20, help="iterations per block")
    parser.add_argument("--scan", type=int, default=1, help="iterations per call")
    parser.add_argument("--micro-batches", type=int, default=1, help="micro-batches per minibatch")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--learn", type=int, metavar="STEPS", help="train for STEPS steps instead of measuring")
    arguments = parser.parse_args()
    settings = Settings(arguments.num_envs, arguments.rollout_length, num_micro_batches=arguments.micro_batches)
    if arguments.learn:
        settings = settings._replace(num_iterations=exact_div(arguments.learn, settings.batch_size))
        print(json.dumps(learn(settings, arguments.scan, arguments.seed)))
        return
    print(json.dumps(measure(settings, arguments.scan, arguments.blocks, arguments.iterations, arguments.seed)))


if __name__ == "__main__":
    main()
