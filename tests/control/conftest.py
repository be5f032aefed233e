"""Environments with known steps, small policies, and fixtures for them."""

import functools

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tfppo.control.envs.classic import CartPole
from tfppo.control.policies.actor_critic import ActorCriticPolicy
from tfppo.control.policies.networks import make_actor, make_critic

ENDINGS = ((3, "terminated"), (2, "truncated"), (4, "both"), (1, "truncated"))
VALUE_WEIGHTS = np.array([[1.0], [10.0], [100.0]], np.float32)  # weights of the observation (step, episode, number)


def play(number):
    """Yields the endless stream of counting environment `number`.

    Each item is (observation, reward, terminated, truncated, successor).
    """
    episode = 0
    while True:
        length, ending = ENDINGS[(number + episode) % len(ENDINGS)]
        for step in range(length):
            last = step == length - 1
            yield (
                [step, episode, number],
                1.0 + step + 100.0 * episode,
                last and ending in ("terminated", "both"),
                last and ending in ("truncated", "both"),
                [step + 1, episode, number],
            )
        episode += 1


class Counting(gymnasium.Env):
    """An environment that observes (step, episode, number).

    The number is its first seed modulo 4. Actions are recorded, and have no effect.
    """

    observation_space = gymnasium.spaces.Box(0, 250, [3], np.float64)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, dtype=np.float64):
        self.observation_space = gymnasium.spaces.Box(0, 250, [3], dtype)
        self.actions = []
        self.ongoing = False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.stream = play(seed % len(ENDINGS))
            self.following = next(self.stream)
        elif self.ongoing:
            raise AssertionError("reset in the middle of an episode")
        return self._observation(self.following[0]), {}

    def step(self, action):
        self.actions.append(int(action))
        _, reward, terminated, truncated, successor = self.following
        self.following = next(self.stream)
        self.ongoing = not (terminated or truncated)
        return self._observation(successor), reward, terminated, truncated, {}

    def _observation(self, numbers):
        return np.array(numbers, self.observation_space.dtype)


class MotorError(Exception):
    """The exception of a failing environment."""


class Failing(Counting):
    """An environment that fails after some steps."""

    def __init__(self, working_steps, error=None):
        super().__init__()
        self.working_steps = working_steps
        self.error = error or MotorError("the motor is hot")

    def step(self, action):
        if len(self.actions) == self.working_steps:
            raise self.error
        return super().step(action)


class Words(Counting):
    """An environment whose observations are texts, which no policy takes."""

    def __init__(self):
        super().__init__()
        self.observation_space = gymnasium.spaces.Text(5)


gymnasium.register("Words-v0", Words, disable_env_checker=True)
gymnasium.register("Counting-v0", Counting, disable_env_checker=True)
gymnasium.register("FailingAtOnce-v0", Failing, disable_env_checker=True, kwargs={"working_steps": 0})
gymnasium.register("FailingLater-v0", Failing, disable_env_checker=True, kwargs={"working_steps": 3})
gymnasium.register("Exiting-v0", Failing, disable_env_checker=True, kwargs={"working_steps": 3, "error": SystemExit(3)})
gymnasium.register(
    "Interrupting-v0", Failing, disable_env_checker=True, kwargs={"working_steps": 3, "error": KeyboardInterrupt()}
)
gymnasium.register("Uninstalled-v0", "no_such_package_of_environments:Env")


@pytest.fixture(scope="session", params=list(AutoresetMode), ids=lambda mode: mode.name)
def autoreset(request):
    return request.param


@pytest.fixture
def motor_error():
    return MotorError


@pytest.fixture(scope="session")
def make_counting():
    """Makes a vector environment of counting environments."""

    def make_counting(num_envs, autoreset=AutoresetMode.NEXT_STEP, **options):
        return SyncVectorEnv([functools.partial(Counting, **options)] * num_envs, autoreset_mode=autoreset)

    return make_counting


@pytest.fixture(scope="session")
def counting_policy():
    """A policy whose value of (step, episode, number) is step + 10 episode + 100 number."""
    space = Counting.observation_space
    critic = make_critic(space, ())
    critic.set_weights([VALUE_WEIGHTS, np.zeros(1)])
    return ActorCriticPolicy(make_actor(space, Counting.action_space, ()), critic)


@pytest.fixture
def make_policy():
    """Makes a small policy for CartPole or for the given spaces, with a scaled output layer."""

    def make_policy(seed=0, hidden_units=(8,), observation_space=None, num_actions=2):
        space = CartPole().observation_space if observation_space is None else observation_space
        actor = make_actor(space, gymnasium.spaces.Discrete(num_actions), hidden_units, seed=seed)
        actor.set_weights([w * 100 if w.shape[-1] == num_actions else w for w in actor.get_weights()])
        return ActorCriticPolicy(actor, make_critic(space, hidden_units, seed=seed))

    return make_policy


@pytest.fixture(scope="session")
def stream():
    """Returns `stream(number, count)`: the first transitions of a counting environment, as five arrays."""

    def stream(number, count):
        transitions = play(number)
        return [np.array(column) for column in zip(*(next(transitions) for _ in range(count)), strict=True)]

    return stream
