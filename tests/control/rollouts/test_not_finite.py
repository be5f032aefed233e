"""The observation in which an episode has terminated has no effect, and may be not finite (statement 16)."""

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from tfppo.control.config import ControlConfig, ControlRunConfig
from tfppo.control.envs.environment import IN_GRAPH_ENVIRONMENTS
from tfppo.control.trainer import ControlTrainer
from tfppo.errors import UsageError
from tfppo.ppo.config import PPOConfig
from tfppo.training.config import RunConfig

FINITE, NAN = 7.0, float("nan")


class Walk:
    """A place that moves up or down; an episode ends at 3 or -3, where the observation is `END`."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, [2], np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    max_episode_steps = 9
    END = FINITE

    def reset(self, num_envs, seed):
        return tf.zeros([num_envs])

    def observe(self, state):
        seen = tf.stack([state, tf.ones_like(state)], axis=-1)
        return tf.where(tf.abs(seen[..., :1]) < 3, seen, self.END)

    def step(self, state, actions, seed):
        state = state + 2.0 * tf.cast(actions, tf.float32) - 1.0
        return state, state, tf.abs(state) >= 3


class SingleWalk(gymnasium.Env):
    """The same walk as a Gymnasium environment."""

    observation_space, action_space = Walk.observation_space, Walk.action_space
    END = FINITE

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0.0
        return np.array([0.0, 1.0], np.float32), {}

    def step(self, action):
        self.place += 2.0 * float(action) - 1.0
        is_end = abs(self.place) >= 3
        seen = [self.END] * 2 if is_end else [self.place, 1.0]
        return np.array(seen, np.float32), self.place, is_end, False, {}


class Cut(Walk):
    """Episodes are truncated by their number of steps, with the observation `END`; its value has an effect."""

    max_episode_steps = 3

    def reset(self, num_envs, seed):
        return tf.zeros([num_envs])

    def observe(self, state):
        seen = tf.stack([state, tf.ones_like(state)], axis=-1)
        return tf.where(seen[..., :1] < 3, seen, self.END)

    def step(self, state, actions, seed):
        return state + 1.0, tf.ones_like(state), tf.zeros_like(state, tf.bool)


def trained(monkeypatch, walk, end, backend="graph", iterations=3, **settings):
    monkeypatch.setattr(walk, "END", end)
    name = f"{walk.__name__}NotFinite-v0"
    if backend == "graph":
        monkeypatch.setitem(IN_GRAPH_ENVIRONMENTS, name, walk)
    else:
        monkeypatch.setitem(
            gymnasium.registry, name, gymnasium.envs.registration.EnvSpec(name, walk, max_episode_steps=9)
        )
    control = {
        "num_envs": 2,
        "rollout_length": 16,
        "total_steps": 32 * iterations,
        "hidden_units": (4,),
        "backend": backend,
    }
    ppo = PPOConfig(minibatch_size=16, num_epochs=2, learning_rate=0.01)
    run = RunConfig(seed=1, compile_rollout="eager", compile_update="eager")  # three short rollouts repay no tracing
    trainer = ControlTrainer(ControlRunConfig(run, ControlConfig(env=name, **control | settings), ppo))
    rows = [row for _, row in trainer.iterations()]
    trainer.close()
    assert all(row["guard/skipped_updates"] == 0 for row in rows)
    return trainer


def weights(*given, **settings):
    return np.concatenate([np.reshape(x, -1) for x in trained(*given, **settings).policy.trainable_variables])


@pytest.mark.fault(
    "The observation at the end of an episode is not finite",
    "It does not count: training gives the same bits as with a finite one.",
)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        pytest.param({"backend": "gymnasium"}, marks=pytest.mark.slow),
        pytest.param({"lstm_units": 3}, marks=pytest.mark.slow),
        pytest.param({"backend": "gymnasium", "lstm_units": 3}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_training_is_the_same_bit_for_bit(monkeypatch, settings):
    walk = SingleWalk if "backend" in settings else Walk
    given, expected = (weights(monkeypatch, walk, end, **settings) for end in (NAN, FINITE))
    np.testing.assert_array_equal(given, expected)
    start = weights(monkeypatch, walk, FINITE, iterations=1, **settings)
    assert np.isfinite(given).all() and (given != start).any()


@pytest.mark.representatives(1)
@pytest.mark.parametrize("end", [NAN, np.inf])
def test_moments_of_observations_are_learnt_all_the_same(monkeypatch, end):
    trainer = trained(monkeypatch, Walk, end, normalize_observations=True)
    count, mean, variance = (x.numpy() for x in trainer.normalization.state)
    assert count == trainer.env_steps == 84 and mean[1] == pytest.approx(1, abs=1e-3)
    assert 0.2 < variance[0] < 4 and variance[1] == pytest.approx(0, abs=1e-2)


@pytest.mark.fault(
    "The observation where a time limit cuts an episode is not finite",
    "The update is skipped: the value of this observation counts.",
)
def test_where_an_episode_is_only_cut_the_observation_is_named(monkeypatch):
    with pytest.raises(UsageError, match="an observation was not finite in 5 updates in a row"):
        trained(monkeypatch, Cut, NAN, iterations=6)
