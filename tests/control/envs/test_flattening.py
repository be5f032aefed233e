"""Tuples and nested dictionaries of observations are learnt from as flat dictionaries."""

from contextlib import closing

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.refusal import refusal

from tfppo.control.envs.wrappers import flat_observation, flat_space, is_nested
from tfppo.control.recipes import make_control_config
from tfppo.control.trainer import ControlTrainer
from tfppo.errors import UsageError

SMALL = {"num_envs": 2, "rollout_length": 8, "minibatch_size": 16, "total_steps": 16, "hidden_units": (4,)}
EAGER = {"compile_rollout": "eager", "compile_update": "eager", "device": "cpu", "num_epochs": 1}
POINT, THREE = spaces.Box(-1, 1, [2], np.float32), spaces.Discrete(3)
NESTED = {
    "tuple": (spaces.Tuple([POINT, THREE]), ["0", "1"]),
    "dict in dict": (spaces.Dict(a=spaces.Dict(b=POINT, c=THREE), d=THREE), ["a.b", "a.c", "d"]),
    "tuple in dict": (spaces.Dict(arm=spaces.Tuple([POINT, POINT]), eye=THREE), ["arm.0", "arm.1", "eye"]),
    "dict in tuple": (spaces.Tuple([spaces.Dict(x=POINT), THREE]), ["0.x", "1"]),
    "slash": (spaces.Dict({"walker/pos": POINT, "walker/speed": POINT}), ["walker.pos", "walker.speed"]),
}


class World(gymnasium.Env):
    """An environment of any spaces, which observes at random."""

    def __init__(self, observation_space, action_space=THREE):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.steps += 1
        return self.observation_space.sample(), 1.0, self.steps == 5, False, {}


def trained(space, action_space=THREE, vectorization="sync"):
    """Returns the policy after one iteration."""
    gymnasium.registry.pop("Nested-v0", None)
    gymnasium.register("Nested-v0", lambda: World(space, action_space), disable_env_checker=True)
    config = make_control_config("Nested-v0", vectorization=vectorization, **SMALL, **EAGER)
    with closing(ControlTrainer(config)) as trainer:
        ((_, row),) = trainer.iterations()
        assert np.isfinite(row["loss/total"])
        return trainer.trained_policy()


@pytest.mark.parametrize("case", NESTED)
def test_nested_spaces_are_flattened_with_their_values(case):
    space, keys = NESTED[case]
    flat = flat_space(space)
    assert is_nested(space) and list(flat) == sorted(keys) and not is_nested(flat)
    space.seed(1)
    for _ in range(5):
        assert flat.contains(flat_observation(space.sample()))


@pytest.mark.representatives(2)
@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("case", ["tuple", "dict in dict"])
def test_they_are_learnt_from_and_predict_takes_them_as_they_are(case, vectorization):
    space, keys = NESTED[case]
    policy = trained(space, vectorization=vectorization)
    assert set(policy.observation_space) == set(keys)
    seen = space.sample()
    assert policy.predict(seen) == policy.predict(flat_observation(seen))


def test_two_parts_with_one_name_are_refused():
    space = spaces.Dict({"a.b": POINT, "a": spaces.Dict(b=POINT)})
    assert "two parts with the name a.b" in refusal(flat_space, space)


def test_other_spaces_stay():
    assert not any(map(is_nested, (POINT, THREE, spaces.Dict(a=POINT, b=THREE), spaces.Text(3))))


# ----- Any space is learnt from, or refused in one line

LEAVES = st.one_of(
    st.builds(spaces.Discrete, st.integers(1, 4), start=st.integers(-3, 3)),
    st.builds(spaces.MultiDiscrete, st.lists(st.integers(1, 3), min_size=1, max_size=3)),
    st.builds(spaces.MultiBinary, st.integers(1, 3)),
    st.builds(
        lambda shape, dtype, high: spaces.Box(0, high, shape, dtype),
        st.lists(st.integers(1, 3), max_size=3),
        st.sampled_from([np.float32, np.float64, np.int64, np.uint8]),
        st.integers(1, 9),
    ),
    st.builds(spaces.Text, st.integers(1, 3)),
    st.builds(lambda: spaces.Sequence(spaces.Discrete(2))),
)
KEYS = st.sampled_from(["a", "b/c", "d e", "1"])
SPACES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(spaces.Tuple, st.lists(inner, min_size=1, max_size=2)),
        st.builds(spaces.Dict, st.dictionaries(KEYS, inner, min_size=1, max_size=2)),
    ),
    max_leaves=4,
)


def learns_or_refuses(observation_space, action_space):
    try:
        trained(observation_space, action_space)
    except UsageError as error:
        assert len(str(error).splitlines()) == 1 and len(str(error)) < 1000
        assert "not supported" in str(error) or "images are" in str(error) or "name" in str(error), error


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(SPACES, LEAVES)
def test_any_space_is_learnt_from_or_refused_in_one_line(observation_space, action_space):
    learns_or_refuses(observation_space, action_space)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(SPACES, LEAVES)
def test_some_spaces_are_learnt_from_or_refused_in_one_line(observation_space, action_space):
    learns_or_refuses(observation_space, action_space)
