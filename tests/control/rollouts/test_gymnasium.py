"""Gymnasium's vector environments: every autoreset mode gives the same stream of transitions."""

import sys

import numpy as np
import pytest
import reference
import tensorflow as tf
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorWrapper

from tfppo.control.config import ControlConfig, ControlRunConfig
from tfppo.control.envs.vector import autoreset_mode, make_vector_environment
from tfppo.control.policies.heads import DiscreteHead
from tfppo.control.policies.recurrent import make_recurrent
from tfppo.control.rollouts.batches import to_batch
from tfppo.control.rollouts.gymnasium import GymnasiumCollector, first_seed
from tfppo.control.trainer import ControlTrainer
from tfppo.errors import UsageError
from tfppo.ppo.config import PPOConfig
from tfppo.training.config import RunConfig
from tfppo.training.pipeline import rollout_dataset

NUM_ENVS, LENGTH = 4, 15
FIELDS = ("observations", "rewards", "terminated", "truncated", "values", "next_values")
WEIGHTS = np.array([1.0, 10.0, 100.0])  # weights of the critic: value = step + 10 episode + 100 number


@pytest.fixture(scope="module")
def collector(autoreset, make_counting, counting_policy):
    return GymnasiumCollector(counting_policy, make_counting(NUM_ENVS, autoreset), LENGTH, mode="graph")


@pytest.fixture(scope="module")
def rollouts(collector):
    """Two consecutive rollouts, in each autoreset mode."""
    return collect(collector)


def collect(collector, count=2):
    elements = iter(rollout_dataset(collector.collect))
    return [next(elements) for _ in range(count)]


def join(rollouts, name):
    """Concatenates a field of several rollouts along the time axis; [T, B, ...]."""
    return np.concatenate([getattr(rollout, name) for rollout in rollouts])


def counts(rollouts, number):
    return join(rollouts, "mask")[:, number]


def test_what_counts_is_the_stream_of_the_environment(rollouts, stream):
    """Observations, rewards, flags and the values of the true successors, over two rollouts."""
    for number in range(NUM_ENVS):
        mask = counts(rollouts, number)
        observations, rewards, terminated, truncated, successors = stream(number, mask.sum())
        expected = (observations, rewards, terminated, truncated, observations @ WEIGHTS, successors @ WEIGHTS)
        for name, wanted in zip(FIELDS, expected, strict=True):
            np.testing.assert_allclose(join(rollouts, name)[mask, number], wanted, rtol=1e-6, err_msg=name)
        assert terminated.sum() > 2 and truncated.sum() > 2


def test_steps_that_only_start_an_episode_are_masked(autoreset, collector, rollouts):
    mask, done = join(rollouts, "mask"), join(rollouts, "terminated") | join(rollouts, "truncated")
    if autoreset == AutoresetMode.NEXT_STEP:
        np.testing.assert_array_equal(mask[1:], ~done[:-1])
        assert mask[0].all() and done.sum() > 20
        assert not join(rollouts, "rewards")[~mask].any() and not done[~mask].any()
    else:
        assert mask.all()
    assert collector.statistics.env_steps == mask.sum() == rollouts[-1].metrics["rollout/env_steps"]


def test_whatever_a_starting_step_reports_is_ignored(make_counting, counting_policy, stream):
    """In this step Gymnasium reports reward 0 and no end; other environments may report something else."""

    class Chatty(VectorWrapper):
        starts = np.zeros(NUM_ENVS, bool)

        def step(self, actions):
            observations, rewards, terminated, truncated, infos = super().step(actions)
            starts, self.starts = self.starts, terminated | truncated
            return observations, rewards + 5.0 * starts, terminated | starts, truncated | starts, infos

    collector = GymnasiumCollector(counting_policy, Chatty(make_counting(NUM_ENVS)), LENGTH, mode="graph")
    rollouts = collect(collector)
    for number in range(NUM_ENVS):
        mask = counts(rollouts, number)
        for name, wanted in zip(FIELDS, stream(number, mask.sum())[:4], strict=False):
            np.testing.assert_array_equal(join(rollouts, name)[mask, number], wanted, err_msg=name)
    mask, done = join(rollouts, "mask"), join(rollouts, "terminated") | join(rollouts, "truncated")
    np.testing.assert_array_equal(mask[1:], ~done[:-1])
    assert not join(rollouts, "rewards")[~mask].any() and not done[~mask].any()
    assert rollouts[-1].metrics["rollout/episodes"] == done.sum()


def test_truncation_bootstraps_from_the_final_observation(autoreset, make_counting, counting_policy):
    """Environment 1 truncates in its second step: V' is the value of (2, 0, 1), not that of the reset (0, 1, 1)."""
    collector = GymnasiumCollector(counting_policy, make_counting(2, autoreset), 3, mode="eager")
    (rollout,) = collect(collector, 1)
    assert rollout.truncated[1, 1] and not rollout.terminated[1, 1]
    np.testing.assert_allclose(rollout.next_values[1, 1], 102.0)
    batch = to_batch(counting_policy, rollout, 0.5, 1.0)
    np.testing.assert_allclose(batch.returns[1 * 2 + 1], 2.0 + 0.5 * 102.0)
    np.testing.assert_allclose(batch.returns[0 * 2 + 1], 1.0 + 0.5 * (2.0 + 0.5 * 102.0))


def test_advantages_are_the_same_in_every_mode(rollouts, stream, counting_policy):
    """They equal those of the stream up to the last complete episode; the modes cut the rest at different steps."""
    rollout = rollouts[0]
    batch = tf.function(lambda x: to_batch(counting_policy, x, 0.9, 0.8), autograph=False)(rollout)
    advantages = np.reshape(batch.advantages, [LENGTH, NUM_ENVS])
    for number in range(NUM_ENVS):
        observations, rewards, terminated, truncated, successors = stream(number, counts([rollout], number).sum())
        columns = (rewards, observations @ WEIGHTS, successors @ WEIGHTS, terminated, truncated)
        expected, _ = reference.generalized_advantage_estimation(*columns, 0.9, 0.8)
        complete = np.flatnonzero(terminated | truncated)[-1] + 1
        actual = advantages[counts([rollout], number), number]
        np.testing.assert_allclose(actual[:complete], expected[:complete], rtol=1e-4, atol=1e-3)
        assert complete >= 8


def test_returns_and_lengths_of_episodes(rollouts, stream):
    returns, lengths = [], []
    for number in range(NUM_ENVS):
        total = length = 0
        for _, reward, terminated, truncated, _ in zip(*stream(number, counts(rollouts, number).sum()), strict=True):
            total, length = total + reward, length + 1
            if terminated or truncated:
                returns.append(total)
                lengths.append(length)
                total = length = 0
    metrics = rollouts[-1].metrics
    assert metrics["rollout/episodes"] == len(returns) < 100
    np.testing.assert_allclose(metrics["rollout/episode_return_mean"], np.mean(returns), rtol=1e-6)
    np.testing.assert_allclose(metrics["rollout/episode_length_mean"], np.mean(lengths), rtol=1e-6)


def test_the_environment_gets_the_actions_that_are_recorded(collector, rollouts):
    actions = join(rollouts, "actions")
    for number, single in enumerate(collector.environments[0].envs):
        assert single.actions == actions[counts(rollouts, number), number].tolist()
    assert 0.2 < actions.mean() < 0.8
    assert (rollouts[0].actions != rollouts[1].actions).numpy().any()


def test_eager_graph_and_xla_collect_the_same(make_counting, counting_policy):
    def run(mode):
        return collect(GymnasiumCollector(counting_policy, make_counting(2), 4, seed=3, mode=mode))

    expected = run("eager")
    for mode in ("graph", "xla"):
        for a, b in zip(tf.nest.flatten(run(mode)), tf.nest.flatten(expected), strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.representatives(3)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.uint8])
def test_observations_of_any_number_type_become_float32(dtype, make_counting, counting_policy, stream, autoreset):
    environment = make_counting(2, autoreset, dtype=dtype)
    collector = GymnasiumCollector(counting_policy, environment, 5, mode="eager")
    (rollout,) = collect(collector, 1)
    assert rollout.observations.dtype == tf.float32
    mask = counts([rollout], 0)
    np.testing.assert_array_equal(rollout.observations[:, 0][mask], stream(0, mask.sum())[0])


def test_log_probs_are_those_of_the_policy(make_counting, make_policy):
    environment = make_counting(2)
    policy = make_policy(observation_space=environment.single_observation_space)
    (rollout,) = collect(GymnasiumCollector(policy, environment, 8, mode="graph"), 1)
    inputs = tf.reshape(rollout.observations, [16, 3])
    evaluation = policy.evaluate_actions(inputs, tf.reshape(rollout.actions, [16]))
    np.testing.assert_allclose(tf.reshape(rollout.log_probs, [16]), evaluation.log_probs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(tf.reshape(rollout.values, [16]), evaluation.values, rtol=1e-4, atol=1e-5)


def test_a_memory_ends_with_the_episode_and_goes_on_to_the_next_rollout(make_counting):
    """The second rollout starts with the memory that the first one left, with zeros after each starting step."""
    environment = make_counting(2)
    policy = make_recurrent(environment.single_observation_space, DiscreteHead(2), 4, ())
    first, second = collect(GymnasiumCollector(policy, environment, LENGTH, mode="graph"))
    memory = policy.initial_memory(2)
    for x, zeros in zip(first.memory, memory, strict=True):
        np.testing.assert_array_equal(x, zeros)
    for observations, mask in zip(first.observations, first.mask, strict=True):
        _, memory = policy.greedy_step(observations, memory)
        memory = [x * tf.cast(mask, tf.float32)[:, tf.newaxis] for x in memory]
    assert not first.mask.numpy().all()
    for x, expected in zip(second.memory, memory, strict=True):
        np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)
        assert np.abs(x).min() > 0


# ----- Invalid input


@pytest.mark.parametrize("metadata", [{}, {"autoreset_mode": "Sometimes"}, {"autoreset_mode": None}])
def test_an_environment_without_a_known_autoreset_mode_is_refused_by_name(metadata, make_counting, counting_policy):
    environment = make_counting(2)
    environment.metadata = metadata
    with pytest.raises(UsageError, match=r"SyncVectorEnv.*AutoresetMode.NEXT_STEP, .*SAME_STEP, .*DISABLED") as error:
        GymnasiumCollector(counting_policy, environment, 5)
    assert repr(metadata.get("autoreset_mode")) in str(error.value)


def test_autoreset_modes_are_read_from_the_metadata(autoreset, make_counting):
    environment = make_counting(1, autoreset)
    assert autoreset_mode(environment) == autoreset
    environment.metadata = {"autoreset_mode": autoreset.value}  # as a string
    assert autoreset_mode(environment) == autoreset


def test_same_step_environments_must_tell_their_final_observations(make_counting, counting_policy):
    class Forgetful(VectorWrapper):
        def step(self, actions):
            *result, _ = super().step(actions)
            return *result, {}

    environment = Forgetful(make_counting(2, AutoresetMode.SAME_STEP))
    collector = GymnasiumCollector(counting_policy, environment, 5, mode="eager")
    with pytest.raises(UsageError, match="final_obs"):
        collector._step_through(np.int64(0))


@pytest.mark.fault("Gymnasium cannot make the environment", "A one-line error gives Gymnasium's reason.")
@pytest.mark.parametrize(
    ("env", "reason"), [("NoSuchGame-v0", "NoSuchGame"), ("Uninstalled-v0", "no_such_package_of_environments")]
)
def test_environments_that_cannot_be_made_are_refused_in_one_line(env, reason):
    with pytest.raises(UsageError, match=f"cannot make environment '{env}': .*{reason}") as error:
        make_vector_environment(env, 2)
    assert "\n" not in str(error.value)


@pytest.mark.fault(
    "A package that the environment needs is not installed", "A one-line error gives the command to install it."
)
@pytest.mark.parametrize(
    ("env", "package", "extra"), [("LunarLander-v3", "Box2D", "box2d"), ("Hopper-v5", "mujoco", "mujoco")]
)
def test_what_an_environment_lacks_is_named_with_the_command_that_installs_it(env, package, extra, monkeypatch):
    for module in [name for name in sys.modules if name.startswith(f"gymnasium.envs.{extra}")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError) as error:
        make_vector_environment(env, 1)
    wanted = f"{extra} is not installed: run make setup EXTRAS={extra}, or pip install 'gymnasium[{extra}]'"
    assert str(error.value) == f"cannot make environment '{env}': {wanted}"


def test_vector_environments_are_stepped_in_this_process(autoreset):
    environment = make_vector_environment("CartPole-v1", 3, autoreset=autoreset)
    assert isinstance(environment.unwrapped, SyncVectorEnv) and environment.num_envs == 3
    assert autoreset_mode(environment) == autoreset
    environment.close()


@pytest.mark.representatives(1)
@pytest.mark.parametrize(("env", "done"), [("FailingAtOnce-v0", []), ("FailingLater-v0", [0])])
def test_the_exception_of_an_environment_comes_out_of_the_trainer(env, done, motor_error):
    trainer = ControlTrainer(
        ControlRunConfig(
            RunConfig(device="cpu", compile_rollout="graph", compile_update="graph"),
            ControlConfig(env=env, num_envs=2, rollout_length=3, total_steps=60, hidden_units=(4,)),
            PPOConfig(minibatch_size=6, num_epochs=1),
        )
    )
    steps = []
    with pytest.raises(UsageError, match="raised MotorError: the motor is hot") as error:
        for iteration, _ in trainer.iterations():
            steps.append(iteration)
    assert steps == done
    assert isinstance(error.value.__cause__, motor_error)
    trainer.close()


def test_closing_the_collector_closes_the_environments(make_counting, counting_policy):
    environment = make_counting(2)
    GymnasiumCollector(counting_policy, environment, 5, mode="eager").close()
    assert environment.closed


def test_runs_with_other_seeds_have_no_starts_in_common():
    """In version 0.1 the runs with the seeds 1 and 2 shared seven of eight starts."""
    starts = []
    for seed in (1, 2, 3):
        environment = make_vector_environment("MountainCar-v0", 8)
        policy = make_recurrent(environment.single_observation_space, DiscreteHead(3), 4, hidden_units=(4,))
        collector = GymnasiumCollector(policy, environment, 1, seed=seed, mode="eager")
        starts += collector._steppers[0]._observations[:, 0].tolist()
        collector.close()
    assert len(set(starts)) == 24
    assert first_seed(1) == first_seed(1) and first_seed(2**31 - 1) + 4096 <= 2**31
