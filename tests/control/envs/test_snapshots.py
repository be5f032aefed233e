"""Saved environments continue exactly where they were, or a message says how many do not."""

import random
import time
from itertools import islice

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tfppo.control.config import ControlConfig, ControlRunConfig
from tfppo.control.envs import episode_replay
from tfppo.control.envs.archive import fingerprint, read_archive, write_archive
from tfppo.control.envs.snapshots import restore_snapshot, take_snapshot
from tfppo.control.envs.vector import make_vector_environment
from tfppo.control.policies.actor_critic import ActorCriticPolicy
from tfppo.control.policies.heads import make_head
from tfppo.control.policies.networks import make_actor, make_critic
from tfppo.control.policies.recurrent import make_recurrent
from tfppo.control.rollouts import gymnasium as collecting
from tfppo.control.rollouts.gymnasium import GymnasiumCollector
from tfppo.control.trainer import ControlTrainer
from tfppo.errors import UsageError
from tfppo.ppo.config import PPOConfig
from tfppo.training.config import RunConfig

FILE = "environments.npz"


class Walk(gymnasium.Env):
    """A random walk that ends after 9 steps; `wild`, its kind, says what else it does."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, [2])
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, wild=""):
        self.wild = wild
        self.episodes = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.number = seed
            if self.wild == "foreign generator":
                self.np_random = np.random.Generator(np.random.MT19937(seed))
        self.episodes += 1
        self.steps, self.place = 0, self.np_random.normal()
        return self._observation(), {}

    def step(self, action):
        self.steps += 1
        self.place += self.np_random.normal() + action + (0.5 * self.episodes if self.wild == "outlasting" else 0.0)
        reward = self.place
        if self.wild == "shared generator" or (self.wild == "even" and self.number % 2 == 0):
            self.place += random.random()
        elif self.wild == "shared numpy":
            np.random.random()
        elif self.wild == "hidden":
            self.np_random.normal(size=self.episodes if self.steps == 6 else 0)
        elif self.wild == "clock":
            self.place += time.perf_counter()
        elif self.wild == "reward":
            reward = time.perf_counter() if self.steps < 3 else 0.0
        return self._observation(), reward, self.steps == 9, False, {}

    def _observation(self):
        return np.array([self.place, self.steps], np.float32)


WILD = ("shared generator", "shared numpy", "clock", "reward", "outlasting", "hidden", "foreign generator")
for kind in ("", "even", *WILD):
    name = f"Walk{kind.title().replace(' ', '')}-v0"
    gymnasium.register(name, Walk, disable_env_checker=True, kwargs={"wild": kind})


@pytest.fixture
def make():
    """Makes environments that are closed after the test."""
    made = []

    def make(*arguments, **options):
        made.append(make_vector_environment(*arguments, **options))
        return made[-1]

    yield make
    for environment in made:
        environment.close()


def make_collector(environment, length=7, seed=5, lstm_units=0):
    space, action_space = environment.single_observation_space, environment.single_action_space
    policy = ActorCriticPolicy(make_actor(space, action_space, (4,)), make_critic(space, (4,)))
    if lstm_units:
        policy = make_recurrent(space, make_head(action_space), lstm_units, (4,))
    return GymnasiumCollector(policy, environment, length, seed=seed, mode="eager")


def collect(collector, numbers):
    return [collector._step_through(np.int64(k)) for k in numbers]


def unflatten(collector, arrays):
    """Returns trajectory and memory."""
    return collector._pack(arrays)


def assert_equal(ours, theirs):
    for a, b in zip(tf.nest.flatten(ours), tf.nest.flatten(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


# ----- A whole run


def make_trainer(env, num_envs=4, length=16, **control):
    return ControlTrainer(
        ControlRunConfig(
            RunConfig(seed=2, device="cpu", compile_rollout="eager", compile_update="eager"),
            ControlConfig(
                env=env,
                backend="gymnasium",
                num_envs=num_envs,
                rollout_length=length,
                total_steps=8 * num_envs * length,
                hidden_units=(4,),
                **control,
            ),
            PPOConfig(minibatch_size=num_envs * length, num_epochs=1),
        )
    )


def metrics(rows):
    return [x for _, row in rows for name, x in sorted(row.items()) if not name.startswith("time/")]


@pytest.mark.parametrize(
    ("env", "control"),
    [
        ("CartPole-v1", {"vectorization": "sync", "normalize_observations": True, "normalize_rewards": True}),
        ("CartPole-v1", {"vectorization": "native"}),
        pytest.param(
            "CartPole-v1", {"vectorization": "async", "double_buffer": True, "lstm_units": 3}, marks=pytest.mark.slow
        ),
        pytest.param("Pendulum-v1", {"vectorization": "async"}, marks=pytest.mark.slow),
    ],
    ids=["sync normalised", "native", "async halves LSTM", "async"],
)
def test_a_run_goes_on_as_if_it_had_not_been_stopped(env, control, tmp_path):
    whole, resumed = make_trainer(env, **control), make_trainer(env, **control)
    try:
        iterations = whole.iterations()
        before = list(islice(iterations, 2))
        path = tf.train.Checkpoint(**whole.state).write(str(tmp_path / "state"))
        whole.collector.save_environments(tmp_path)
        rows = list(islice(iterations, 3))
        tf.train.Checkpoint(**resumed.state).restore(path).expect_partial()
        told = resumed.collector.restore_environments(tmp_path)
        assert told == "all 4 environments continue exactly where they were"
        assert_equal(metrics(islice(resumed.iterations(), 3)), metrics(rows))
        for name, value in whole.state.items():
            assert_equal(values(resumed.state[name]), values(value))
        if env == "CartPole-v1":
            assert rows[-1][1]["rollout/episodes"] > before[-1][1]["rollout/episodes"] > 0
    finally:
        whole.close()
        resumed.close()


def values(state):
    state = getattr(state, "weights", getattr(state, "variables", state))  # of a Keras model or an optimizer
    return [np.array(x) for x in tf.nest.flatten(state)]


# ----- Every kind of vector environment, every autoreset mode


@pytest.mark.representatives(2)
@pytest.mark.parametrize("vectorization", ["sync", pytest.param("async", marks=pytest.mark.slow)])
def test_every_autoreset_mode_goes_on_from_wherever_it_was(autoreset, vectorization, make, tmp_path):
    """Rollouts of 7 steps end at every place of an episode of 9 steps: at its end, after its end, and in the middle."""
    numbers = range(11 if vectorization == "sync" else 4)
    whole = make_collector(make("Walk-v0", 3, vectorization, autoreset))
    rollouts, ends = [], []
    for k in numbers:
        folder = tmp_path / str(k)
        folder.mkdir()
        rollouts += collect(whole, [k])
        whole.save_environments(folder)
        ends.append(whole._steppers[0].done.copy())
    for k in numbers[:-1]:
        resumed = make_collector(make("Walk-v0", 3, vectorization, autoreset))
        assert resumed.restore_environments(tmp_path / str(k)).startswith("all 3 ")
        np.testing.assert_array_equal(resumed._steppers[0].done, ends[k])
        assert_equal(collect(resumed, numbers[k + 1 : k + 3]), rollouts[k + 1 : k + 3])
    assert np.any(ends[:-1]) == (vectorization == "sync")


@pytest.mark.parametrize(
    ("env", "vectorization"),
    [
        ("Acrobot-v1", "sync"),
        ("MountainCar-v0", "sync"),
        ("FrozenLake-v1", "sync"),
        ("Taxi-v4", "sync"),
        ("CartPole-v1", "native"),
        ("LunarLander-v3", "sync"),
        ("HalfCheetah-v5", "sync"),
    ],
)
def test_environments_of_gymnasium_are_exact(env, vectorization, make, tmp_path):
    if env == "LunarLander-v3":
        pytest.importorskip("Box2D")
    if env == "HalfCheetah-v5":
        pytest.importorskip("mujoco")
    whole, resumed = make(env, 2, vectorization), make(env, 2, vectorization)
    whole.action_space.seed(0)
    first, _ = whole.reset(seed=3)
    for _ in range(120):
        observations, *_ = whole.step(whole.action_space.sample())
    write_archive(tmp_path / FILE, take_snapshot(whole, observations))
    resumed.reset(seed=3)
    exact, seen = restore_snapshot(resumed, read_archive(tmp_path / FILE), first)
    assert exact.all()
    np.testing.assert_array_equal(seen, observations)
    for _ in range(60):
        actions = whole.action_space.sample()
        assert_equal(resumed.step(actions)[:4], whole.step(actions)[:4])


def test_the_wrapper_changes_nothing(make):
    plain = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 3)
    wrapped = make("CartPole-v1", 3, "sync")
    assert all(isinstance(env, episode_replay.Replayable) for env in wrapped.envs)
    assert_equal(*(collect(make_collector(environment, 30), range(3)) for environment in (plain, wrapped)))


def test_only_the_running_episode_is_remembered(make):
    environment = make("Walk-v0", 2, "sync")
    collect(make_collector(environment), range(5))  # 35 steps, every tenth a reset
    assert [len(env._actions) for env in environment.envs] == [5, 5]


# ----- Environments that cannot be restored exactly


@pytest.mark.representatives(3)
@pytest.mark.fault(
    "An environment cannot be replayed: it uses `random`, NumPy's global generator or the clock",
    "It starts a new episode. `tfppo resume` prints how many environments continue exactly.",
)
@pytest.mark.parametrize("kind", WILD)
def test_an_environment_that_cannot_be_replayed_starts_a_new_episode(kind, make, tmp_path):
    name = f"Walk{kind.title().replace(' ', '')}-v0"
    whole, resumed = (make_collector(make(name, 2, "sync"), 13) for _ in range(2))
    collect(whole, range(2))
    whole.save_environments(tmp_path)
    told = resumed.restore_environments(tmp_path)
    assert told == (
        "0 of 2 environments continue exactly where they were; the others cannot be replayed and start new episodes"
    )
    (stepper,) = resumed._steppers
    np.testing.assert_array_equal(stepper._observations[:, 1], 0)
    assert not stepper.done.any() and not stepper._returns.any() and not stepper._lengths.any()
    trajectory, _ = unflatten(resumed, collect(resumed, [2])[0])
    lengths = trajectory.episode_lengths
    np.testing.assert_array_equal(lengths[:, 0], [*range(1, 10), 0, 1, 2, 3])


@pytest.mark.representatives(1)
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_the_others_go_on_exactly(vectorization, make, tmp_path):
    """Of 5 environments, those with even seeds, the first one included, draw from the global generator."""
    whole, resumed = (make_collector(make("WalkEven-v0", 5, vectorization), 13, lstm_units=3) for _ in range(2))
    collect(whole, range(2))
    whole.save_environments(tmp_path)
    assert resumed.restore_environments(tmp_path).startswith("2 of 5 environments continue exactly where they were; ")
    (before, memory), (after, restored) = (unflatten(x, collect(x, [2])[0]) for x in (whole, resumed))
    for name in ("observations", "rewards", "terminated", "mask", "episode_returns", "episode_lengths"):
        assert_equal(getattr(after, name)[:, 1::2], getattr(before, name)[:, 1::2])
    assert (after.observations[0, ::2, 1] == 0).all() and (after.episode_lengths[0, ::2] == 1).all()
    for ours, theirs in zip(restored, memory, strict=True):
        np.testing.assert_array_equal(ours[1::2], theirs[1::2])
        assert not ours[::2].any() and theirs[::2].all()


def test_new_episodes_are_not_those_of_the_start(make, tmp_path):
    """The generator continues from its saved state."""
    whole, resumed = (make_collector(make("WalkHidden-v0", 2, "sync"), 13) for _ in range(2))
    first = whole._steppers[0]._observations
    np.testing.assert_array_equal(first, resumed._steppers[0]._observations)
    collect(whole, range(2))
    whole.save_environments(tmp_path)
    resumed.restore_environments(tmp_path)
    observations = resumed._steppers[0]._observations
    assert (observations[:, 0] != first[:, 0]).all()
    expected = [env.np_random.normal() for env in whole.environments[0].envs]
    np.testing.assert_array_equal(observations[:, 0], np.float32(expected))


def test_an_episode_of_very_many_steps_is_not_remembered(make, tmp_path, monkeypatch):
    monkeypatch.setattr(episode_replay, "MAX_STEPS", 3)
    whole, resumed = (make_collector(make("Walk-v0", 2, "sync"), 5) for _ in range(2))
    collect(whole, [0])
    whole.save_environments(tmp_path)
    assert [len(env._actions) for env in whole.environments[0].envs] == [4, 4]
    assert resumed.restore_environments(tmp_path).startswith("0 of 2 ")


def test_environments_that_are_not_ours_start_new_episodes(make_counting, tmp_path):
    whole, resumed = (make_collector(make_counting(2), 4) for _ in range(2))
    collect(whole, [0])
    whole.save_environments(tmp_path)
    assert resumed.restore_environments(tmp_path).startswith("0 of 2 ")
    assert_equal(collect(resumed, [0]), collect(make_collector(make_counting(2), 4), [0]))


class Poles(CartPoleVectorEnv):
    """A natively vectorized CartPole with one more attribute."""

    def __init__(self, make_extra):
        super().__init__(2)
        self.make_extra = make_extra

    def reset(self, **options):
        result = super().reset(**options)
        self.extra = self.make_extra(self)
        return result


@pytest.mark.parametrize(
    ("make_extra", "exact"),
    [
        (lambda poles: {"winds": [np.ones(3), (1.5, None, "north")]}, 2),
        (lambda poles: np.random.default_rng(1), 2),
        (lambda poles: random.Random(1), 0),
        (lambda poles: np.random.Generator(np.random.MT19937(1)), 0),
        (lambda poles: [np.random.default_rng(1)], 0),
        (lambda poles: poles.state[0], 0),
        (lambda poles: np.array([poles]), 0),
    ],
    ids=["nest", "generator", "random", "other generator", "generators", "view", "objects"],
)
def test_a_native_environment_is_exact_if_all_that_changes_is_plain_data(make_extra, exact, tmp_path):
    whole, resumed = (make_collector(Poles(make_extra), 6) for _ in range(2))
    collect(whole, [0])
    if isinstance(extra := whole.environments[0].extra, np.random.Generator):
        extra.normal()
    whole.save_environments(tmp_path)
    told = resumed.restore_environments(tmp_path)
    assert told.startswith("all 2 " if exact else "0 of 2 ")
    if exact:
        assert_equal(collect(resumed, range(1, 4)), collect(whole, range(1, 4)))
    if exact and isinstance(extra, np.random.Generator):
        assert resumed.environments[0].extra.normal() == extra.normal()


def test_observations_that_are_no_plain_data_are_not_saved():
    environment = Poles(lambda poles: 0)
    observations, _ = environment.reset(seed=0)
    assert take_snapshot(environment, observations) is not None
    assert take_snapshot(environment, {1: observations}) is None


@pytest.mark.parametrize("name", ["state", "_np_random", "gravity", "steps"])
@pytest.mark.parametrize("value", [None, "text", [1.0], np.zeros(5, complex)], ids=["None", "text", "list", "complex"])
def test_attributes_of_another_kind_are_not_taken(name, value, tmp_path):
    collector = make_collector(Poles(lambda poles: 0), 6)
    collector.save_environments(tmp_path)
    nest = read_archive(tmp_path / FILE)
    nest["parts"][0]["environments"]["attributes"][name] = value
    write_archive(tmp_path / FILE, nest)
    assert collector.restore_environments(tmp_path).startswith("0 of 2 ")
    collect(collector, [0])


def test_a_native_environment_of_another_shape_starts_new_episodes(tmp_path):
    whole, resumed = (make_collector(Poles(lambda poles, n=n: np.zeros(n)), 6) for n in (3, 4))
    state = resumed.environments[0].state
    collect(whole, [0])
    whole.save_environments(tmp_path)
    assert resumed.restore_environments(tmp_path).startswith("0 of 2 ")
    assert resumed.environments[0].state is state


# ----- Messages, and files from unknown sources


def test_without_a_file_all_episodes_start_anew(make, tmp_path):
    collector = make_collector(make("Walk-v0", 2, "sync"))
    told = collector.restore_environments(tmp_path)
    assert told == "the state of the environments was not saved: all environments start new episodes"


@pytest.mark.parametrize(("limit", "lines"), [(9, ["replaying 10 steps of 2 environments ..."]), (10, [])])
def test_long_replays_are_announced(limit, lines, make, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(collecting, "LONG_REPLAY", limit)
    whole, resumed = (make_collector(make("Walk-v0", 2, "sync"), 5) for _ in range(2))
    collect(whole, [0])
    whole.save_environments(tmp_path)
    resumed.restore_environments(tmp_path)
    assert capsys.readouterr().out.splitlines() == lines


class Payload:
    """An object that runs code when it is unpickled."""

    ran = []

    def __reduce__(self):
        return self.ran.append, (True,)


@pytest.mark.fault("The saved environments contain a pickled object", "A one-line error names the file. No code runs.")
def test_a_file_cannot_run_code(make, tmp_path):
    payload = np.array([Payload()], object)
    collector = make_collector(make("Walk-v0", 2, "sync"))
    for content in ({"nest": payload}, {"nest": np.array('{"array": 0}'), "0": payload}):
        np.savez(tmp_path / FILE, **content)
        with pytest.raises(UsageError, match="environments.npz is damaged"):
            collector.restore_environments(tmp_path)
    (tmp_path / FILE).write_bytes(payload.dumps())
    with pytest.raises(UsageError, match="environments.npz is damaged"):
        collector.restore_environments(tmp_path)
    assert Payload.ran == []
    with pytest.raises(TypeError):
        write_archive(tmp_path / FILE, payload)


def change(*path, to):
    """Returns a function that sets the entry at this path of a nest to `to`."""

    def change(nest):
        *before, last = path
        for key in before:
            nest = nest[key]
        nest[last] = to

    return change


@pytest.mark.parametrize("vectorization", ["sync", "native"])
@pytest.mark.parametrize(
    "change",
    [
        change("memory", to=[np.zeros(2)]),
        change("parts", to=[]),
        change("parts", to=3),
        change("parts", 0, to="part"),
        change("parts", 0, "episodes", to=[np.zeros(2, bool), np.zeros(3), np.zeros(2, np.int64)]),
        change("parts", 0, "episodes", 0, to=np.zeros(2)),
        change("parts", 0, "environments", to={}),
        change("parts", 0, "environments", to=[]),
        change("parts", 0, "environments", to=[{"generator": None, "episode": None}] * 3),
        change("parts", 0, "environments", to=[{"generator": None, "episode": {"actions": 3}}] * 2),
        change("parts", 0, "environments", to=[{"generator": None, "episode": "episode"}] * 2),
        change("parts", 0, "environments", to="environments"),
    ],
)
def test_a_damaged_nest_is_one_line(vectorization, change, make, tmp_path):
    collector = make_collector(make("CartPole-v1", 2, vectorization))
    collector.save_environments(tmp_path)
    nest = read_archive(tmp_path / FILE)
    change(nest)
    write_archive(tmp_path / FILE, nest)
    with pytest.raises(UsageError, match=r"environments.npz is damaged \(.*\): delete it to continue") as error:
        collector.restore_environments(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("vectorization", ["sync", pytest.param("async", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "change",
    [
        change("generator", to="none"),
        change("generator", "state", to={"state": -1, "inc": "x"}),
        change("generator", "bit_generator", to="MT19937"),
        change("episode", "start", to=(3, None, None)),
        change("episode", "start", to=(-3, None, None)),
        change("episode", "start", to=None),
        change("episode", "actions", to=np.full(4, 7)),
        change("episode", "actions", to=np.full([4, 2], np.nan)),
        change("episode", "actions", to="left"),
        change("episode", "end", to=None),
    ],
)
def test_a_hostile_episode_is_not_exact(vectorization, change, make, tmp_path):
    """Only the environment of the changed episode starts a new episode."""
    whole, resumed = (make_collector(make("CartPole-v1", 2, vectorization), 4) for _ in range(2))
    collect(whole, [0])
    whole.save_environments(tmp_path)
    nest = read_archive(tmp_path / FILE)
    change(nest["parts"][0]["environments"][1])
    write_archive(tmp_path / FILE, nest)
    told = resumed.restore_environments(tmp_path)
    assert told.startswith("all 2 " if "generator" in str(change.__closure__[0].cell_contents) else "1 of 2 ")
    collect(resumed, [1])


@pytest.mark.fault(
    "The file of the saved environments is damaged",
    "A one-line error names the file, or the environments concerned start new episodes.",
)
def test_a_file_that_is_cut_or_turned_is_one_line(make, tmp_path):
    collector = make_collector(make("Walk-v0", 2, "sync"))
    collector.save_environments(tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    turned = [bytes([*whole[:k], whole[k] ^ 0xFF, *whole[k + 1 :]]) for k in range(150, len(whole) - 200, 97)]
    for content in (b"", b"text", whole[: len(whole) // 2], whole[:-1], *turned):
        (tmp_path / FILE).write_bytes(content)
        try:
            told = collector.restore_environments(tmp_path)
        except UsageError as error:
            assert "environments.npz is damaged" in str(error) and "\n" not in str(error)
        else:
            assert " environments continue exactly where they were" in told


# ----- Plain data


@pytest.mark.parametrize(
    "data",
    [
        None,
        {"a": [1, 2.5, "text", True, None, ()], "b": {"dict": {"array": (1,)}}},
        [np.arange(6).reshape(2, 3), np.float32(2.5), np.zeros(0), np.bool_(True), np.array("text")],
        [float("inf"), -0.0, 2**127 + 1, 0.1],
    ],
)
def test_plain_data_come_back_as_they_were(data, tmp_path):
    write_archive(tmp_path / "data.npz", data)
    again = read_archive(tmp_path / "data.npz")
    assert repr(again) == repr(data)
    assert fingerprint(again) == fingerprint(data)
    assert [type(x) for x in tf.nest.flatten(again)] == [type(x) for x in tf.nest.flatten(data)]


@pytest.mark.parametrize("data", [object(), {1: 2}, {1}, AutoresetMode.DISABLED, np.array([None]), 1j, b"bytes"])
def test_other_data_are_refused(data, tmp_path):
    with pytest.raises(TypeError, match="is not plain data"):
        write_archive(tmp_path / "data.npz", [data])
    assert not (tmp_path / "data.npz").exists()


def test_fingerprints_tell_every_bit():
    data = [0.0, -0.0, 0, False, None, "0", [0], (0,), np.float32(0), np.float32(-0.0), np.zeros(1), np.zeros([1, 1])]
    assert len({fingerprint(x) for x in data}) == len(data)
