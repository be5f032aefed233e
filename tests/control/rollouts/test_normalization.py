"""Running statistics of observations and rewards, compared with NumPy on all values."""

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from reference import every_mode

from tfppo.control.envs.classic import CartPole
from tfppo.control.policies.actor_critic import ActorCriticPolicy
from tfppo.control.policies.networks import make_actor, make_critic
from tfppo.control.recipes import make_control_config
from tfppo.control.rollouts.batches import to_batch
from tfppo.control.rollouts.graph import GraphCollector
from tfppo.control.rollouts.gymnasium import GymnasiumCollector
from tfppo.control.rollouts.normalization import Moments, Normalization, initial_moments, merge_moments
from tfppo.control.trainer import ControlTrainer
from tfppo.ppo.config import PPOConfig
from tfppo.ppo.learner import PPOLearner
from tfppo.ppo.types import Trajectory

BOX = spaces.Box(-np.inf, np.inf, [3])
MIXED = spaces.Dict(
    arm=spaces.Box(-1, 1, [2]),
    camera=spaces.Box(0, 255, [36, 36, 1], np.uint8),
    action_mask=spaces.Box(0, 1, [2]),  # a float Box, but a mask
    buttons=spaces.MultiBinary(2),
    count=spaces.Box(0, 99, [1], np.int64),
    wheel=spaces.Discrete(3),
)
GAMMA = 0.9


def make_trajectory(normalization, observations, rewards=None, ended=None):
    """Makes a trajectory of observations [T + 1, B, ...], normalized as in a collector; other fields are dummies."""
    length, num_envs = tf.nest.flatten(observations)[0].shape[:2]
    flags = np.zeros([length - 1, num_envs], bool)
    terminated, truncated = (flags, flags) if ended is None else ended
    rewards = np.zeros([length - 1, num_envs]) if rewards is None else rewards
    tensors = [tf.constant(x) for x in (np.float32(rewards), terminated, truncated, ~flags)]
    nothing = tf.zeros([length - 1, num_envs], tf.int32)
    raw = normalization.measured(observations)
    return Trajectory(normalization.observations(observations), nothing, (), *tensors, nothing, nothing, raw)


def numbers(*shape, seed=0, mean=0.0, std=1.0):
    return (mean + std * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def slow_normalized(x, seen):
    """Normalizes x with mean and standard deviation of the rows [N, ...]."""
    seen = np.asarray(seen, float)
    return np.clip((x - seen.mean(axis=0)) / np.sqrt(seen.var(axis=0) + 1e-8), -10, 10)


# ----- Moments


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)], ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_merged_moments_are_those_of_the_joined_data(shape, seed):
    """The data are cut into pieces of 1 to 40 rows."""
    rng = np.random.default_rng(seed)
    data = rng.normal(size=[200, *shape]) * 10.0 ** rng.uniform(-3, 3, size=shape) + rng.normal(size=shape) * 100
    cuts = np.unique(np.concatenate([[0, 1], rng.integers(1, 200, size=8), [200]]))
    moments = initial_moments(shape)
    for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
        moments = merge_moments(moments, tf.constant(data[start:stop]))
        seen = data[:stop]
        assert moments.count == stop and moments.mean.shape == moments.variance.shape == shape
        np.testing.assert_allclose(moments.mean, seen.mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(moments.variance, seen.var(axis=0), rtol=1e-9, atol=1e-12)


def test_moments_of_large_numbers_that_vary_little_are_exact():
    """Sums of squares, or float32, would lose the variance."""
    data = 1e7 + np.random.default_rng(0).integers(-2, 3, size=[1000, 1])
    moments = initial_moments((1,))
    for piece in np.split(data, 10):
        moments = merge_moments(moments, tf.constant(piece, tf.float32))
    np.testing.assert_allclose(moments.mean, data.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance, data.var(axis=0), rtol=1e-6)


# ----- Observations


def test_off_changes_nothing_and_has_no_variables():
    for normalization in (
        Normalization(),
        Normalization(BOX, 2, GAMMA),
        Normalization(spaces.Discrete(3), 2, 0.9, True),
    ):
        observations = tf.constant(numbers(4, 2, 3, mean=50))
        trajectory = make_trajectory(normalization, observations, numbers(3, 2))
        assert normalization.state == []
        assert trajectory.observations is observations and trajectory.raw_observations == {}
        for a, b in zip(tf.nest.flatten(normalization.finish(trajectory)), tf.nest.flatten(trajectory), strict=True):
            assert a is b


def test_observations_are_normalised_by_what_came_before():
    """The first trajectory is normalized by nothing, later ones by all earlier ones.

    The last row of a trajectory belongs to the next one.
    """
    normalization = Normalization(BOX, 4, observations=True)
    pieces = [numbers(7, 4, 3, seed=k, mean=5 * k, std=1 + k) for k in range(3)]
    seen = np.zeros([0, 3])
    for piece in pieces:
        before = normalization.observations(tf.constant(piece))
        finished = normalization.finish(make_trajectory(normalization, tf.constant(piece)))
        expected = slow_normalized(piece, seen) if len(seen) else np.clip(piece, -10, 10)
        np.testing.assert_allclose(finished.observations, expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(finished.observations, before)
        seen = np.concatenate([seen, piece[:-1].reshape(-1, 3)])
    assert finished.observations.dtype == tf.float32 and len(normalization.state) == 3
    again = normalization.observations(tf.constant(seen, tf.float32))
    np.testing.assert_allclose(np.mean(again, axis=0), 0.0, atol=1e-4)
    np.testing.assert_allclose(np.std(again, axis=0), 1.0, rtol=1e-4)
    assert normalization.observations(tf.constant(numbers(3))).shape == [3]  # with any leading axes


def test_observations_are_clipped_at_ten_standard_deviations():
    normalization = Normalization(BOX, 100, observations=True)
    normalization.finish(make_trajectory(normalization, tf.constant(numbers(11, 100, 3, mean=2, std=3))))
    _, mean, variance = normalization.state
    for factor, expected in ((9.9, 9.9), (10.1, 10.0), (1e6, 10.0)):
        for sign in (1, -1):
            given = normalization.observations(tf.cast(mean + sign * factor * tf.sqrt(variance), tf.float32))
            np.testing.assert_allclose(given, [sign * expected] * 3, rtol=1e-5)


def test_what_never_varied_stays_finite():
    normalization = Normalization(BOX, 2, observations=True)
    still = np.full([4, 2, 3], 7.0, np.float32)
    normalization.finish(make_trajectory(normalization, tf.constant(still)))
    np.testing.assert_array_equal(normalization.observations(tf.constant(still)), np.zeros_like(still))
    assert np.abs(normalization.observations(tf.constant(still + 1))).max() == 10.0


def test_images_choices_and_masks_of_a_dict_are_left_alone():
    normalization = Normalization(MIXED, 2, observations=True)
    observations = {
        "arm": tf.constant(numbers(5, 2, 2, mean=3)),
        "camera": tf.constant(np.random.default_rng(0).integers(256, size=[5, 2, 36, 36, 1]), tf.uint8),
        "action_mask": tf.constant(np.random.default_rng(1).integers(2, size=[5, 2, 2]), tf.float32),
        "buttons": tf.ones([5, 2, 2], tf.int32),
        "count": tf.fill([5, 2, 1], 50.0),  # integers are normalized
        "wheel": tf.fill([5, 2], 2),
    }
    trajectory = make_trajectory(normalization, observations)
    normalization.finish(trajectory)
    assert len(normalization.state) == 6 and trajectory.raw_observations.keys() == {"arm", "count"}
    finished = normalization.finish(make_trajectory(normalization, observations)).observations
    assert set(finished) == set(MIXED)
    for key in set(MIXED) - {"arm", "count"}:
        np.testing.assert_array_equal(finished[key], observations[key])
        assert finished[key].dtype == observations[key].dtype
    np.testing.assert_array_equal(finished["count"], np.zeros([5, 2, 1]))
    arm = observations["arm"].numpy()
    np.testing.assert_allclose(finished["arm"], slow_normalized(arm, arm[:-1].reshape(-1, 2)), rtol=1e-4, atol=1e-4)


# ----- Rewards


def slow_scaled(rewards, ended, running, seen, mask=None):
    """Divides rewards [T, B] by the standard deviation of the discounted returns, one step and environment at a time.

    The function updates `running` [B] and the list `seen`. Steps outside the mask only start an episode.
    """
    for t, b in np.ndindex(rewards.shape):
        if mask is not None and not mask[t, b]:
            continue
        running[b] = GAMMA * running[b] + rewards[t, b]
        seen.append(running[b])
        if ended[t, b]:
            running[b] = 0.0
    return np.clip(rewards / np.sqrt(np.var(seen) + 1e-8), -10, 10)


@every_mode
def test_rewards_are_scaled_as_by_a_slow_loop(compiled):
    """Returns continue over three consecutive trajectories, with terminated and truncated episodes."""
    rng = np.random.default_rng(0)
    normalization = Normalization(None, 3, GAMMA, rewards=True)
    finish = compiled(normalization.finish)
    running, seen = np.zeros(3), []
    for k in range(3):
        rewards = numbers(8, 3, seed=k, mean=2.0, std=3.0)
        ended = rng.random([2, 8, 3]) < 0.1
        ended[k % 2, -1, k] = True  # also in the last step
        observations = tf.constant(numbers(9, 3, 2, mean=50))
        finished = finish(make_trajectory(normalization, observations, rewards, ended))
        expected = slow_scaled(rewards, ended[0] | ended[1], running, seen)
        np.testing.assert_allclose(finished.rewards, expected, rtol=1e-4)
        np.testing.assert_allclose(normalization.state[-1], running, rtol=1e-4)
        np.testing.assert_array_equal(finished.observations, observations)
    assert normalization.state[0] == 3 * 8 * 3 and len(normalization.state) == 4
    np.testing.assert_allclose(normalization.state[1], np.mean(seen), rtol=1e-5)
    np.testing.assert_allclose(normalization.state[2], np.var(seen), rtol=1e-5)
    assert (running != 0).any()


def test_the_mean_of_rewards_stays():
    """Rewards keep their sign, equal rewards stay equal, and zeros stay zeros."""
    normalization = Normalization(None, 4, GAMMA, rewards=True)
    rewards = np.full([20, 4], -3.0, np.float32)
    rewards[::5] = 0.0
    scaled = normalization.finish(make_trajectory(normalization, tf.zeros([21, 4, 1]), rewards)).rewards.numpy()
    assert (scaled[rewards == 0] == 0).all() and len(np.unique(scaled)) == 2
    assert (scaled[rewards != 0] < -0.1).all()


def test_rewards_are_clipped_at_ten():
    """A rare reward is more than 10 standard deviations of the return."""
    normalization = Normalization(None, 1, 0.0, rewards=True)
    rewards = np.zeros([1000, 1], np.float32)
    rewards[500], rewards[700] = 1000.0, -900.0
    scaled = normalization.finish(make_trajectory(normalization, tf.zeros([1001, 1, 1]), rewards)).rewards.numpy()
    assert scaled[500] == 10.0 and scaled[700] == -10.0 and not scaled[:500].any()


# ----- The state


def test_state_that_is_put_back_goes_on_the_same_way():
    def finish(normalization, k):
        ended = np.random.default_rng(k).random([2, 6, 2]) < 0.2
        observations = tf.constant(numbers(7, 2, 3, seed=k, mean=k))
        return normalization.finish(make_trajectory(normalization, observations, numbers(6, 2, seed=k), ended))

    one, two = (Normalization(BOX, 2, GAMMA, observations=True, rewards=True) for _ in range(2))
    finish(one, 0)
    assert len(one.state) == 3 + 3 + 1 and not any(variable.trainable for variable in one.state)
    for mine, theirs in zip(two.state, one.state, strict=True):
        mine.assign(theirs.numpy())
    for k in (1, 2):
        for a, b in zip(tf.nest.flatten(finish(two, k)), tf.nest.flatten(finish(one, k)), strict=True):
            np.testing.assert_array_equal(a, b)
    for mine, theirs in zip(two.state, one.state, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    fresh = Normalization(BOX, 2, GAMMA, observations=True, rewards=True)
    assert not np.allclose(finish(fresh, 3).observations, finish(one, 3).observations)


# ----- In collectors


class Drift:
    """Observations depend only on the number of the environment and on its clock, and are far from mean 0.

    An episode ends after 5 steps, and the reward is the clock.
    """

    observation_space = spaces.Box(-np.inf, np.inf, [2])
    action_space = spaces.Discrete(2)
    max_episode_steps = 5

    def reset(self, num_envs, seed):
        return tf.stack([tf.range(num_envs) % 3, tf.zeros([num_envs], tf.int32)], axis=-1)

    def observe(self, state):
        number, clock = tf.unstack(tf.cast(state, tf.float32), axis=-1)
        return tf.stack([100.0 + 3.0 * number + clock, 0.01 * clock], axis=-1)

    def step(self, state, actions, seed):
        return state + [0, 1], tf.cast(state[:, 1], tf.float32), tf.zeros(state.shape[:1], tf.bool)


def small_policy(space):
    """Makes a policy whose logits clearly depend on the observation."""
    actor = make_actor(space, spaces.Discrete(2), (8,))
    actor.set_weights([w * 100 if w.shape[-1] == 2 else w for w in actor.get_weights()])
    return ActorCriticPolicy(actor, make_critic(space, (8,)))


def raw_moments(rows):
    return Moments(len(rows), rows.mean(axis=0), rows.var(axis=0))


@pytest.mark.parametrize("mode", ["eager", "graph", pytest.param("xla", marks=pytest.mark.slow)])
def test_statistics_stand_still_during_a_rollout_and_move_after_it(mode):
    """Rollout k is normalized with the raw observations of rollouts 0 to k - 1.

    All raw observations are known, because the clock advances by one in every step. The policy acts on the normalized
    ones.
    """
    num_envs, length = 3, 8
    environment = Drift()
    plain = GraphCollector(small_policy(Drift.observation_space), environment, num_envs, length, mode="eager")
    normalization = Normalization(Drift.observation_space, num_envs, observations=True)
    policy = small_policy(Drift.observation_space)
    collector = GraphCollector(policy, environment, num_envs, length, normalization=normalization, mode=mode)
    seen = np.zeros([0, 2])
    for k in range(3):
        iteration = tf.constant(k, tf.int64)
        raw, rollout = plain.collect(iteration).observations.numpy(), collector.collect(iteration)
        expected = slow_normalized(raw, seen) if k else np.clip(raw, -10, 10)
        np.testing.assert_allclose(rollout.observations, expected, rtol=1e-4, atol=1e-4)
        flat = tf.reshape(rollout.observations, [-1, 2])
        evaluation = policy.evaluate_actions(flat, tf.reshape(rollout.actions, [-1]))
        np.testing.assert_allclose(
            tf.reshape(rollout.distribution.logits, [-1, 2]), evaluation.distribution.logits, rtol=1e-4, atol=1e-4
        )
        np.testing.assert_allclose(tf.reshape(rollout.values, [-1]), evaluation.values, rtol=1e-4, atol=1e-5)
        seen = np.concatenate([seen, raw[rollout.mask.numpy()]])
        for variable, wanted in zip(normalization.state, raw_moments(seen), strict=True):
            np.testing.assert_allclose(variable, wanted, rtol=1e-6)
    assert (~rollout.mask.numpy()).any() and np.std(rollout.observations) > 0.5


def collect_normalised(environment, mode, length=8):
    """Returns a collector of 4 environments, with its normalization."""
    in_graph = isinstance(environment, CartPole)
    space = environment.observation_space if in_graph else environment.single_observation_space
    normalization = Normalization(space, 4, GAMMA, observations=True, rewards=True)
    if in_graph:
        return GraphCollector(small_policy(space), environment, 4, length, normalization=normalization, mode=mode)
    return GymnasiumCollector(small_policy(space), environment, length, normalization=normalization, mode=mode)


@pytest.mark.representatives(1)
@pytest.mark.parametrize(
    "kind",
    [
        "in_graph",
        AutoresetMode.NEXT_STEP,
        *(pytest.param(m, marks=pytest.mark.slow) for m in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED)),
    ],
    ids=str,
)
def test_every_ratio_of_the_first_minibatch_is_1(kind, make_counting):
    """The stored observation is the normalized one that the policy acted on, in every iteration."""
    collector = collect_normalised(CartPole() if kind == "in_graph" else make_counting(4, kind), "graph")
    config = PPOConfig(minibatch_size=32, num_epochs=1, learning_rate=0.1, learning_rate_schedule="constant")
    prepare = lambda x: to_batch(collector.policy, x, GAMMA, 0.9)  # noqa: E731
    learner = PPOLearner(collector.policy, config, 3, prepare=prepare, mode="graph")
    for k in range(3):
        before = [variable.numpy() for variable in collector.normalization.state]
        metrics = learner.update(collector.collect(tf.constant(k, tf.int64)))
        np.testing.assert_allclose(metrics["policy/ratio_max"], 1.0, rtol=1e-5)
        assert abs(metrics["policy/approx_kl"]) < 1e-6 and metrics["policy/clip_fraction"] == 0
        assert metrics["policy/grad_norm"] > 1e-4
        moved = [not np.array_equal(a, b) for a, b in zip(before, collector.normalization.state, strict=True)]
        assert all(moved)


@pytest.mark.parametrize("kind", ["in_graph", *AutoresetMode], ids=str)
def test_every_observation_is_normalised_once(kind, make_counting):
    """There are T + 1 rows, and T rows of successors if they are separate; in the graph, one call gets the shapes."""
    collector = collect_normalised(CartPole() if kind == "in_graph" else make_counting(4, kind), "eager")
    (moments,) = collector.normalization._moments.values()
    normalized, rows = moments.normalized, []
    moments.normalized = lambda x: (rows.append(np.prod(x.shape[:-1])), normalized(x))[1]
    collector.collect(tf.constant(0, tf.int64))
    times = {"in_graph": 8 + 1 + 1, AutoresetMode.NEXT_STEP: 8 + 1}.get(kind, 8 + 1 + 8)
    assert sum(rows) == times * 4


def test_a_gymnasium_policy_sees_normalised_observations(autoreset, make_counting, stream):
    """In every autoreset mode, it also computes the values of normalized true successors."""
    collector = collect_normalised(make_counting(4, autoreset), "eager")
    policy, normalization = collector.policy, collector.normalization
    acted_on = []
    act = policy.act
    policy.act = lambda observations, noise: (acted_on.append(observations.numpy()), act(observations, noise))[1]
    first = collector.collect(tf.constant(0, tf.int64))
    count, mean, variance = (variable.numpy() for variable in normalization.state[:3])
    assert count == np.sum(first.mask)
    acted_on.clear()
    rollout = collector.collect(tf.constant(1, tf.int64))
    np.testing.assert_allclose(np.stack(acted_on), rollout.observations, rtol=1e-5, atol=1e-5)
    for number in range(4):
        mask, played = rollout.mask.numpy()[:, number], np.sum(first.mask[:, number])
        raw, *_, successors = (x[played:] for x in stream(number, played + mask.sum()))
        raw, successors = (np.clip((x - mean) / np.sqrt(variance + 1e-8), -10, 10) for x in (raw, successors))
        np.testing.assert_allclose(rollout.observations.numpy()[mask, number], raw, rtol=1e-4, atol=1e-4)
        values = policy.value(tf.constant(successors, tf.float32))
        np.testing.assert_allclose(rollout.next_values.numpy()[mask, number], values, rtol=1e-3, atol=1e-4)
        if autoreset != AutoresetMode.NEXT_STEP:
            np.testing.assert_allclose(rollout.successors[:, number], successors, rtol=1e-4, atol=1e-4)
    # The statistics include observations, but not successors.
    seen = mean + rollout.observations.numpy()[rollout.mask] * np.sqrt(variance + 1e-8)
    total = count + len(seen)
    assert np.abs(rollout.observations).max() < 10 and normalization.state[0] == total
    np.testing.assert_allclose(normalization.state[1], (mean * count + seen.sum(axis=0)) / total, rtol=1e-4)


def test_no_statistic_depends_on_the_autoreset_mode(make_counting):
    """After 14 steps, or 10 without those that only start an episode, each environment has played four episodes."""
    found = []
    for mode in AutoresetMode:
        collector = collect_normalised(make_counting(4, mode), "eager", 14 if mode == AutoresetMode.NEXT_STEP else 10)
        rollout = collector.collect(tf.constant(0, tf.int64))
        assert rollout.metrics["rollout/env_steps"] == 40 and rollout.metrics["rollout/episodes"] == 16
        mask = rollout.mask.numpy()
        rewards = np.stack([rollout.rewards.numpy()[mask[:, number], number] for number in range(4)])
        metrics = [value.numpy() for _, value in sorted(rollout.metrics.items())]
        found.append([*(variable.numpy() for variable in collector.normalization.state), rewards, *metrics])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_rewards_of_short_episodes_are_scaled_alike_in_every_autoreset_mode():
    """Episodes of one step with reward 1: version 0.1 scaled the reward to 2 or to 10, as the mode was."""

    class Short(gymnasium.Env):
        observation_space, action_space = spaces.Box(-1, 1, [1]), spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return np.zeros(1, np.float32), {}

        def step(self, action):
            return np.zeros(1, np.float32), 1.0, True, False, {}

    for mode in AutoresetMode:
        environment = SyncVectorEnv([Short] * 2, autoreset_mode=mode)
        normalization = Normalization(None, 2, GAMMA, rewards=True)
        collector = GymnasiumCollector(
            small_policy(Short.observation_space), environment, 8, normalization=normalization, mode="eager"
        )
        rollout = collector.collect(tf.constant(0, tf.int64))
        np.testing.assert_array_equal(rollout.rewards[rollout.mask], 10.0)  # no return differs from the others


def test_rewards_reach_the_learner_scaled_and_the_statistics_of_episodes_as_they_were(make_counting, stream):
    environment = make_counting(2)
    normalization = Normalization(None, 2, GAMMA, rewards=True)
    policy = small_policy(environment.single_observation_space)
    collector = GymnasiumCollector(policy, environment, 12, normalization=normalization, mode="eager")
    running, seen, played = np.zeros(2), [], [0, 0]
    for k in range(2):
        rollout = collector.collect(tf.constant(k, tf.int64))
        done, mask = (rollout.terminated | rollout.truncated).numpy(), rollout.mask.numpy()
        rewards = np.zeros([12, 2])
        for number in range(2):
            before, played[number] = played[number], played[number] + mask[:, number].sum()
            rewards[mask[:, number], number] = stream(number, played[number])[1][before:]
        np.testing.assert_allclose(
            rollout.rewards, slow_scaled(rewards, done, running, seen, mask), rtol=1e-4, atol=1e-6
        )
    assert rollout.metrics["rollout/episode_return_mean"] > 10.0  # far above any scaled reward


@pytest.mark.parametrize("backend", ["graph", pytest.param("gymnasium", marks=pytest.mark.slow)])
def test_the_policy_evaluates_what_it_acted_on(backend):
    """The stored observations are the normalized ones, and the ratio is 1 at first (statement 22)."""
    trainer = ControlTrainer(
        make_control_config(
            "Acrobot-v1",
            backend=backend,
            num_envs=4,
            rollout_length=16,
            total_steps=64 * 3,
            minibatch_size=64,
            num_epochs=1,
            hidden_units=(8,),
            device="cpu",
        )
    )
    for _, row in trainer.iterations():
        assert row["policy/ratio_max"] == pytest.approx(1, abs=1e-5)
        assert row["loss/kl"] == pytest.approx(0, abs=1e-9)
    count, mean = trainer.normalization.state[:2]
    assert count == 3 * 64 and np.abs(mean).max() > 0.1
    rollout = trainer.collector.collect(tf.constant(3, tf.int64))
    assert np.abs(rollout.observations).max() <= 10
    assert np.abs(np.mean(rollout.observations[..., 0])) < 5
    assert trainer.state["normalization"] is not None and len(trainer.normalization.state) == 7
    trainer.close()
