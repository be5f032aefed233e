"""The acting loop in the graph, compared with a slow loop."""

import numpy as np
import pytest
import tensorflow as tf
from reference import every_mode
from support.walk import Walk

from tfppo.control.envs.classic import CartPole
from tfppo.control.envs.episodes import fresh_states, start_episodes
from tfppo.control.rollouts.normalization import Normalization
from tfppo.control.rollouts.trajectory import collect_trajectory
from tfppo.ops.random import fold_in, normal

SEED = tf.constant([7, 8])


class Balanced(CartPole):
    """A CartPole that never falls."""

    def step(self, state, actions, seed):
        state, rewards, _ = super().step(state, actions, seed)
        return state, rewards, tf.zeros_like(rewards, tf.bool)


def act_at_random(observations, noise):
    return tf.argmax(noise, -1, output_type=tf.int32), observations * 2


class RandomPolicy:
    """Acts by its noise, and counts the steps of the episode."""

    def step(self, observations, noise, memory):
        return *act_at_random(observations, noise), tuple(x + 1 for x in memory)

    def to_environment(self, actions):
        return actions


def collect(environment, episodes, noise, seed, memory=()):
    """Returns the final episodes and memory, and the trajectory, with random numbers drawn as in a collector."""
    fresh = fresh_states(environment, *noise.shape[:2], fold_in(seed, 0))
    return collect_trajectory(
        environment, RandomPolicy(), Normalization(), episodes, memory, noise, fresh, fold_in(seed, 1)
    )


def noise_of(num_steps, num_envs):
    return normal([num_steps, num_envs, 2], fold_in(SEED, 5))


def slow_trajectory(environment, episodes, act, noise, seed):
    """The slow reference, one environment and step at a time; returns nine lists over time, and the final episodes."""
    num_steps, num_envs = noise.shape[:2]
    fresh = environment.reset(num_steps * num_envs, fold_in(seed, 0))
    state, done = episodes.state, episodes.done.numpy()
    returns, lengths = episodes.returns.numpy().copy(), episodes.lengths.numpy().copy()
    columns = [[] for _ in range(9)]
    for t in range(num_steps):
        observations = environment.observe(state)
        actions, distribution = act(observations, noise[t])
        stepped, rewards, fell = environment.step(state, actions, fold_in(fold_in(seed, 1), t))
        rows = {
            name: np.zeros(num_envs, dtype) for name, dtype in (("r", float), ("x", bool), ("u", bool), ("m", bool))
        }
        new = tf.nest.map_structure(lambda x: x.numpy().copy(), stepped)
        for b in range(num_envs):
            if done[b]:
                for flat, start in zip(tf.nest.flatten(new), tf.nest.flatten(fresh), strict=True):
                    flat[b] = start[t * num_envs + b]
                returns[b] = lengths[b] = 0
                done[b] = False
                continue
            returns[b] += rewards[b]
            lengths[b] += 1
            rows["r"][b], rows["x"][b], rows["m"][b] = rewards[b], fell[b], True
            rows["u"][b] = lengths[b] >= environment.max_episode_steps
            done[b] = rows["x"][b] or rows["u"][b]
        state = tf.nest.map_structure(tf.constant, new)
        record = (observations, actions, distribution, *rows.values(), returns.copy(), lengths.copy())
        for column, value in zip(columns, record, strict=True):
            column.append(np.array(value))
    return columns, state


@pytest.mark.representatives(2)
@every_mode
def test_trajectory_equals_a_slow_loop(compiled):
    """The second of two consecutive trajectories continues where the first one ends."""
    environment, num_envs, num_steps = Walk(), 6, 24
    episodes = start_episodes(environment, num_envs, SEED)
    noise = noise_of(num_steps, num_envs)
    run = compiled(lambda episodes, seed: collect(environment, episodes, noise, seed))
    ends = 0
    for k in range(2):
        expected, state = slow_trajectory(environment, episodes, act_at_random, noise, fold_in(SEED, k))
        episodes, memory, trajectory = run(episodes, fold_in(SEED, k))
        fields = (trajectory.actions, trajectory.distribution, trajectory.rewards)
        fields += (trajectory.terminated, trajectory.truncated, trajectory.mask)
        fields += (trajectory.episode_returns, trajectory.episode_lengths)
        for actual, wanted in zip((trajectory.observations[:-1], *fields), expected, strict=True):
            np.testing.assert_allclose(actual, np.stack(wanted), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(trajectory.observations[-1], environment.observe(state), rtol=1e-4, atol=1e-4)
        assert trajectory.successors == () == memory and trajectory.raw_observations == {}
        ends += np.sum(trajectory.terminated | trajectory.truncated)
    assert ends > 3


def test_starts_are_new_in_every_step_and_place():
    """Four environments that end together every second step never start from the same place twice."""
    environment = Walk(length=1)
    episodes = start_episodes(environment, 4, SEED)
    _, _, trajectory = collect(environment, episodes, noise_of(8, 4), SEED)
    starts = trajectory.observations[::2]  # [5, 4, 2]
    assert not trajectory.mask[1::2].numpy().any() and trajectory.mask[::2].numpy().all()
    assert len(np.unique(starts)) == 5 * 4 * 2


def test_truncation_comes_after_exactly_500_steps():
    environment = Balanced()
    episodes = start_episodes(environment, 2, SEED)
    run = tf.function(collect, autograph=False)
    _, _, trajectory = run(environment, episodes, noise_of(503, 2), SEED)
    returns, lengths = trajectory.episode_returns, trajectory.episode_lengths
    assert np.flatnonzero(trajectory.truncated[:, 0]).tolist() == [499]
    assert np.flatnonzero(~trajectory.mask.numpy()[:, 0]).tolist() == [500]
    assert not trajectory.terminated.numpy().any()
    assert returns[499, 0] == 500 == lengths[499, 0]
    assert returns[500, 0] == 0 == lengths[500, 0] and returns[501, 0] == 1 == lengths[501, 0]


@pytest.mark.representatives(2)
@every_mode
def test_a_memory_is_that_of_the_running_episode(compiled):
    """A policy that counts its steps counts those of the current episode only."""
    environment, noise = Walk(length=3), noise_of(24, 5)
    run = compiled(lambda episodes, memory: collect(environment, episodes, noise, SEED, memory))
    episodes, memory = start_episodes(environment, 5, SEED), (tf.fill([5, 2], 7.0),)
    for stop in range(2):
        episodes, memory, _ = run(episodes, memory)
        np.testing.assert_array_equal(memory[0], np.stack([episodes.lengths] * 2, axis=1), err_msg=str(stop))
    assert 0 < episodes.lengths.numpy().max() <= 3
