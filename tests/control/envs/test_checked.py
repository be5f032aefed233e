"""Failures in environments of the user are one message with the user's own lines."""

import copy
from contextlib import closing
from itertools import count

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from support.refusal import refusal

from tfppo import cli
from tfppo.control.envs.checked import Checked, EnvironmentFailure, bounds_of, check_environment, is_outside
from tfppo.control.envs.vector import make_vector_environment
from tfppo.control.recipes import make_control_config
from tfppo.control.trainer import ControlTrainer

NUMBERS = (f"Faulty{number}-v0" for number in count())
SETTINGS = {"num_envs": 3, "rollout_length": 4, "minibatch_size": 12, "total_steps": 24, "hidden_units": (4,)}
EAGER = {"compile_rollout": "eager", "compile_update": "eager", "device": "cpu"}
SEEN = np.zeros(2, np.float32)
BOX, PAIR = spaces.Box(-1, 1, [2], np.float32), spaces.Dict(a=spaces.Box(-1, 1, [2], np.float32), b=spaces.Discrete(3))


class Faulty(gymnasium.Env):
    """An environment whose second copy returns something else in its third step, or from its reset."""

    action_space = spaces.Discrete(2)

    def __init__(self, result=None, first=None, space=BOX):
        self.observation_space, self.result, self.first = space, result, first

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number, self.steps = seed % 4096, 0
        seen = SEEN if isinstance(self.observation_space, spaces.Box) else {"a": SEEN, "b": 0}
        self.seen = seen
        return (copy.deepcopy(seen), {}) if self.first is None else self.first()

    def step(self, action):
        self.steps += 1
        if self.number == 1 and self.steps == 3:
            return self.result()
        return copy.deepcopy(self.seen), 1.0, False, False, {}


def fail():
    raise ValueError("the motor\n is hot")


def train(vectorization="sync", checker=True, **faults):
    name = next(NUMBERS)
    gymnasium.register(name, lambda: Faulty(**faults), disable_env_checker=not checker)
    config = make_control_config(name, **SETTINGS, **EAGER, vectorization=vectorization)
    with closing(ControlTrainer(config)) as trainer:
        return len(list(trainer.iterations()))


@pytest.mark.fault(
    "An environment raises an exception",
    "One line names the call, the environment, the copy and the step. The lines of the user's own code follow.",
)
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_an_exception_is_one_line_and_the_users_own_lines(vectorization):
    with pytest.raises(EnvironmentFailure) as caught:
        train(vectorization, result=fail)
    text = str(caught.value)
    assert text.startswith("step of Faulty") and text.endswith("(copy 1, step 3): correct the environment")
    assert "raised ValueError: the motor is hot" in text
    (note,) = caught.value.__notes__
    files = [line for line in note.splitlines() if line.startswith("  File ")]
    assert len(files) == 2 and all("test_checked.py" in line for line in files)
    assert note.endswith('raise ValueError("the motor\\n is hot")')
    if vectorization == "sync":
        assert isinstance(caught.value.__cause__, ValueError)


RESULTS = {  # what the step returns, and words of the message
    "four values": (lambda: (SEEN, 1.0, False, {}), "returned 4 values", "observation, reward, terminated, truncated"),
    "nothing": (lambda: None, "returned None", "observation, reward, terminated, truncated and infos"),
    "an array as the reward": (lambda: (SEEN, np.ones(1), False, False, {}), "array([1.]) of shape (1,)", "one number"),
    "no reward": (lambda: (SEEN, None, False, False, {}), "returned the reward None", "one number"),
    "a text as the reward": (lambda: (SEEN, "1", False, False, {}), "returned the reward '1'", "one number"),
    "a text as the end": (lambda: (SEEN, 1.0, "no", False, {}), "for terminated 'no'", "True or False"),
    "a list as the end": (lambda: (SEEN, 1.0, [False], False, {}), "for terminated [False]", "True or False"),
    "no infos": (lambda: (SEEN, 1.0, False, False, None), "infos of type NoneType", "a dictionary"),
    "another shape": (lambda: (np.zeros(3), 1.0, False, False, {}), "an observation of shape (3,)", "of shape (2,)"),
    "no observation": (lambda: (None, 1.0, False, False, {}), "an observation None", "of shape (2,)"),
}


@pytest.mark.representatives(10)
@pytest.mark.parametrize("checker", [True, False], ids=["with Gymnasium's checker", "without"])
@pytest.mark.parametrize("case", RESULTS)
def test_wrong_results_are_named(case, checker):
    result, given, wanted = RESULTS[case]
    text = refusal(train, result=result, checker=checker)
    assert given in text and f"it must be {wanted}" in text and "(copy 1, step 3)" in text, text


@pytest.mark.parametrize(
    ("first", "given"),
    [
        (lambda: SEEN, "returned array([0., 0.], dtype=float32) of shape (2,)"),
        (lambda: (np.zeros([1, 2]), {}), "an observation of shape (1, 2)"),
        (fail, "raised ValueError: the motor is hot"),
    ],
)
def test_resets_are_checked(first, given):
    text = refusal(train, first=first)
    assert text.startswith("reset of Faulty") and given in text


@pytest.mark.parametrize(
    ("seen", "given", "wanted"),
    [
        ({"a": SEEN}, "an observation with the keys ['a']", "a dictionary with the keys ['a', 'b']"),
        (SEEN, "an observation array([0., 0.], dtype=float32) of shape (2,)", "a dictionary with the keys"),
        ({"a": np.zeros(3), "b": 1}, "whose part a is of shape (3,)", "of shape (2,)"),
        ({"a": SEEN, "b": 3}, "whose part b is 3", "in Discrete(3)"),
        ({"a": SEEN, "b": np.int64(-1)}, "whose part b is", "in Discrete(3)"),
        ({"a": [[1.0], [1.0, 2.0]], "b": 1}, "whose part a is of lists of different lengths", "of shape (2,)"),
    ],
)
def test_dictionaries_are_checked(seen, given, wanted):
    text = refusal(train, result=lambda: (seen, 1.0, False, False, {}), space=PAIR)
    assert given in text and wanted in text


@pytest.mark.representatives(1)
@pytest.mark.parametrize(
    "reward",
    [True, np.array(1.0), *(pytest.param(x, marks=pytest.mark.slow) for x in (1, np.float32(1), np.int64(2)))],
)
def test_numbers_of_any_kind_are_rewards(reward):
    assert train(result=lambda: (SEEN.copy(), reward, np.bool_(False), 0, {})) == 2


def test_the_constructor_is_explained():
    name = next(NUMBERS)
    gymnasium.register(name, fail)
    for vectorization in ("sync", "async"):
        text = refusal(make_vector_environment, name, 2, vectorization)
        assert f"the constructor of {name} raised ValueError: the motor is hot" in text, text


@pytest.mark.parametrize(
    ("space", "good", "bad"),
    [
        (spaces.Discrete(3, start=5), [5, np.int64(7), np.array(6)], [4, 8]),
        (spaces.MultiDiscrete([2, 3]), [[1, 2]], [[2, 0], [0, -1]]),
        (spaces.MultiBinary(2), [[0, 1]], [[0, 2]]),
    ],
)
def test_integers_outside_of_their_space_have_no_one_hot_vector(space, good, bad):
    for values, expected in ((good, False), (bad, True)):
        assert [is_outside(value, bounds_of(space)) for value in values] == [expected] * len(values)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_arguments_of_the_constructor_are_named(vectorization):
    name = next(NUMBERS)
    gymnasium.register(name, Faulty)
    text = refusal(make_vector_environment, name, 2, vectorization, size=5)
    assert f"the constructor of {name} raised TypeError" in text and "correct its arguments (size; see" in text, text


def test_a_failing_close_is_a_warning_and_loses_nothing():
    name = next(NUMBERS)

    class Closing(Faulty):
        def close(self):
            raise RuntimeError("the port is busy")

    gymnasium.register(name, Closing)
    with pytest.warns(UserWarning, match=f"close of {name} raised RuntimeError: the port is busy; the run goes on"):
        make_vector_environment(name, 2, "sync").close()


def test_the_command_line_prints_the_line_and_the_users_lines(capsys, tmp_path):
    name = next(NUMBERS)
    gymnasium.register(name, lambda: Faulty(result=fail))
    options = "--num-envs 3 --rollout-length 4 --minibatch-size 12 --total-steps 24 --hidden-units 4"
    assert cli.main(["train", "control", "--env", name, *options.split(), "--runs-dir", str(tmp_path)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "UserWarning" not in line]
    first = next(index for index, line in enumerate(lines) if line.startswith("tfppo: "))
    assert lines[first].startswith(f"tfppo: step of {name} raised ValueError") and 5 <= len(lines) - first <= 7
    assert all("test_checked.py" in line for line in lines if line.startswith("  File "))


def test_an_environment_is_checked_inside_and_outside_of_gymnasiums_wrappers():
    environment = make_vector_environment("MountainCar-v0", 1)
    layers, layer = [], environment.envs[0]
    while isinstance(layer, gymnasium.Wrapper):
        layers.append(isinstance(layer, Checked))
        layer = layer.env
    assert sum(layers) == 2 and layers[1] and layers[-1]


class Vector(gymnasium.Env):
    """An environment with several rewards."""

    observation_space = gymnasium.spaces.Box(-1, 1, [2], np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), np.array([1.0, 2.0]), False, False, {}


def test_a_wrapper_of_the_user_may_repair_what_the_environment_returns():
    repaired = check_environment(
        gymnasium.wrappers.TransformReward(Vector(), lambda rewards: float(rewards.sum())), "V", 0
    )
    repaired.reset(seed=1)
    assert repaired.step(0)[1] == 3.0
    broken = check_environment(gymnasium.wrappers.TimeLimit(Vector(), 5), "V", 0)
    broken.reset(seed=1)
    with pytest.raises(EnvironmentFailure, match="returned the reward"):
        broken.step(0)
