"""Environments in processes: two halves in turn collect the same as one whole; failures are errors of one line."""

import os
import signal

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from gymnasium.error import ClosedEnvironmentError
from gymnasium.vector import AutoresetMode

from tfppo import cli
from tfppo.control.config import ControlConfig, ControlRunConfig
from tfppo.control.envs.vector import make_vector_environment, make_vector_environments
from tfppo.control.envs.workers import WorkerVectorEnv
from tfppo.control.policies.actor_critic import ActorCriticPolicy
from tfppo.control.policies.heads import make_head
from tfppo.control.policies.networks import make_actor, make_critic
from tfppo.control.policies.recurrent import make_recurrent
from tfppo.control.rollouts.gymnasium import GymnasiumCollector
from tfppo.control.trainer import ControlTrainer
from tfppo.errors import UsageError
from tfppo.ppo.config import PPOConfig
from tfppo.training.config import RunConfig

LENGTH = 40


class Overheating(gymnasium.Env):
    """An environment that ends every second step, and fails in the fourth copy, with a text of several lines."""

    observation_space = gymnasium.spaces.Box(-1, 1, [1])
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.number = seed % 4096 if seed is not None else self.number
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        if self.number == 3:
            raise RuntimeError("motor at 100%\n of its heat")
        return np.zeros(1, np.float32), 1.0, self.steps == 2, False, {}


gymnasium.register("Overheating-v0", Overheating, disable_env_checker=True)


@pytest.fixture
def environments():
    """Makes environments that are closed after the test."""
    made = []

    def environments(*arguments):
        made.extend(new := make_vector_environments(*arguments))
        return new

    yield environments
    for environment in made:
        environment.close()


def make_policy(space, action_space, lstm_units=0):
    head = make_head(action_space, "normal", 8)
    if lstm_units:
        return make_recurrent(space, head, lstm_units, (8,))
    return ActorCriticPolicy(make_actor(space, head, (8,)), make_critic(space, (8,)), head)


def collect(environment, mode="graph", lstm_units=0, count=2):
    first = environment[0] if isinstance(environment, list) else environment
    policy = make_policy(first.single_observation_space, first.single_action_space, lstm_units)
    collector = GymnasiumCollector(policy, environment, LENGTH, seed=7, mode=mode)
    return [collector.collect(tf.constant(k, tf.int64)) for k in range(count)]


def assert_equal(rollouts, others):
    for a, b in zip(tf.nest.flatten(rollouts), tf.nest.flatten(others), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_array_equal(a, b)


@pytest.mark.representatives(2)
@pytest.mark.parametrize(
    ("env", "mode", "lstm_units", "num_envs"),
    [
        ("CartPole-v1", "graph", 0, 5),
        pytest.param("CartPole-v1", "graph", 4, 2, marks=pytest.mark.slow),
        ("CartPole-v1", "graph", 4, 5),
        ("Pendulum-v1", "graph", 0, 2),
        pytest.param("Pendulum-v1", "xla", 0, 3, marks=pytest.mark.slow),
    ],
)
def test_halves_collect_what_a_whole_does_bit_for_bit(environments, env, mode, lstm_units, num_envs):
    halves = environments(env, num_envs, "async", True)
    assert [half.num_envs for half in halves] == [(num_envs + 1) // 2, num_envs // 2]
    rollouts = collect(halves, mode, lstm_units)
    (whole,) = environments(env, num_envs, "sync", False)
    assert_equal(rollouts, collect(whole, mode, lstm_units))
    if env == "CartPole-v1":
        done = np.concatenate([r.terminated | r.truncated for r in rollouts])
        assert done.any(0).all() and not rollouts[0].mask.numpy().all()


@pytest.mark.representatives(2)
def test_halves_of_counting_environments_are_the_whole_in_every_mode(autoreset, environments, make_counting):
    parts = [WorkerVectorEnv("Counting-v0", size, autoreset) for size in (3, 2)]
    try:
        assert_equal(collect(parts), collect(make_counting(5, autoreset)))
    finally:
        for part in parts:
            part.close()


def test_while_one_half_steps_the_policy_acts_for_the_other(monkeypatch):
    events = []

    class Noting(WorkerVectorEnv):
        def step_async(self, actions):
            events.append(("send", self.num_envs))
            super().step_async(actions)

        def step_wait(self, timeout=None):
            events.append(("wait", self.num_envs))
            return super().step_wait(timeout)

    parts = [Noting("CartPole-v1", size) for size in (2, 1)]
    collect(parts, count=1)
    for part in parts:
        part.close()
    turn = [("wait", 2), ("send", 2), ("wait", 1), ("send", 1)]
    assert events == [("send", 2), ("send", 1), *turn * (LENGTH - 1), ("wait", 2), ("wait", 1)]


@pytest.mark.parametrize("vectorization", ["native", "sync", "async"])
def test_without_double_buffer_environments_stay_whole(environments, vectorization):
    assert [part.num_envs for part in environments("CartPole-v1", 4, vectorization, False)] == [4]


def test_a_single_environment_has_no_second_half(environments):
    assert [part.num_envs for part in environments("CartPole-v1", 1, "async", True)] == [1]


def overheating_run(**run):
    return ControlRunConfig(
        RunConfig(seed=0, device="cpu", compile_rollout="graph", compile_update="graph", **run),
        ControlConfig(
            env="Overheating-v0",
            vectorization="async",
            double_buffer=True,
            num_envs=4,
            rollout_length=3,
            total_steps=60,
            hidden_units=(4,),
        ),
        PPOConfig(minibatch_size=6, num_epochs=1),
    )


@pytest.mark.fault(
    "An environment raises an exception in its own process",
    "A one-line error shows the exception. All environment processes end.",
)
def test_an_exception_in_a_process_is_one_line_and_ends_them_all(recwarn):
    trainer = ControlTrainer(overheating_run())
    processes = [process for part in trainer.collector.environments for process in part.processes]
    assert len(processes) == 4 and all(process.is_alive() for process in processes)
    with pytest.raises(UsageError, match=r"raised RuntimeError: motor at 100% of its heat \(copy 3, step 1\): correct"):
        next(trainer.iterations())
    trainer.close()
    assert not any(process.is_alive() for process in processes)
    assert [str(w.message) for w in recwarn if "Worker" in str(w.message) or "pending" in str(w.message)] == []


def test_the_command_line_says_it_in_one_line_too(tmp_path, capfd):
    arguments = "train control --env Overheating-v0 --vectorization async --num-envs 4 --seed 0"
    options = "--double-buffer True --rollout-length 3 --total-steps 60 --minibatch-size 6 --hidden-units 4"
    assert cli.main([*arguments.split(), *options.split(), "--runs-dir", str(tmp_path)]) == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("tfppo: ")]
    assert len(errors) == 1 and "100% of its heat" in errors[0]


@pytest.mark.fault("The process of an environment is killed", "A one-line error. All environment processes end.")
def test_a_process_that_dies_is_reported_and_the_others_end(environments):
    parts = environments("CartPole-v1", 4, "async", True)
    collector = GymnasiumCollector(
        make_policy(parts[0].single_observation_space, gymnasium.spaces.Discrete(2)), parts, 5
    )
    os.kill(parts[1].processes[0].pid, signal.SIGKILL)
    parts[1].processes[0].join()
    with pytest.raises(UsageError, match=r"failed in its process \(\w+(: [^\n]*)?\): use"):
        collector._step_through(np.int64(0))
    collector.close()
    assert not any(process.is_alive() for part in parts for process in part.processes)


def test_an_interrupt_at_the_keyboard_is_left_to_the_parent(environments):
    before = signal.getsignal(signal.SIGINT)
    (part,) = environments("CartPole-v1", 1, "async", False)
    part.reset(seed=0)
    for process in part.processes:
        os.kill(process.pid, signal.SIGINT)
    for _ in range(3):
        part.step(np.zeros(1, np.int32))
    assert all(process.is_alive() for process in part.processes)
    assert signal.getsignal(signal.SIGINT) == before


def test_closing_in_the_middle_of_a_step_ends_the_processes(environments, recwarn):
    (part,) = environments("CartPole-v1", 1, "async", False)
    part.reset(seed=0)
    part.step_async(np.zeros(1, np.int32))
    part.close()
    assert not any(process.is_alive() for process in part.processes) and part.closed
    assert [str(w.message) for w in recwarn if "pending" in str(w.message)] == []


def test_gymnasiums_own_refusals_stay(environments):
    with pytest.raises(UsageError, match="cannot make environment 'NoSuchGame-v0'"):
        make_vector_environment("NoSuchGame-v0", 2, "async")
    environment = WorkerVectorEnv("CartPole-v1", 1, AutoresetMode.NEXT_STEP)
    environment.close()
    with pytest.raises(ClosedEnvironmentError):
        environment.step_async(np.zeros(1, np.int32))
