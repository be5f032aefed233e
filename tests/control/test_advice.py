"""Follows what error messages about environments, spaces and models advise, and checks that a run then trains."""

from contextlib import closing
from itertools import count

import gymnasium
import keras
import numpy as np
import pytest
from gymnasium import spaces, wrappers
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorWrapper
from support.refusal import refusal

from tfppo.control.envs.classic import CartPole, Pendulum
from tfppo.control.envs.environment import IN_GRAPH_ENVIRONMENTS, register_environment
from tfppo.control.envs.vector import autoreset_mode, make_vector_environment
from tfppo.control.export import input_specs
from tfppo.control.policies.actor_critic import ActorCriticPolicy
from tfppo.control.policies.heads import DiscreteHead
from tfppo.control.policies.networks import WithStateDependentStd, make_actor, make_critic
from tfppo.control.policies.recurrent import make_recurrent
from tfppo.control.recipes import make_control_config
from tfppo.control.rollouts.gymnasium import GymnasiumCollector
from tfppo.control.trainer import ControlTrainer

pytestmark = pytest.mark.filterwarnings("error:The structure of `inputs`")

SETTINGS = {"num_envs": 2, "rollout_length": 8, "minibatch_size": 16, "total_steps": 16, "hidden_units": (4,)}
EAGER = {"compile_rollout": "eager", "compile_update": "eager", "device": "cpu", "num_epochs": 1}
NUMBERS = (f"Advised{number}-v0" for number in count())
POINT, TWO, MASK = spaces.Box(-1, 1, [2], np.float32), spaces.Discrete(2), spaces.MultiBinary(2)


class World(gymnasium.Env):
    """An environment of any spaces: it observes at random, and checks the actions."""

    def __init__(self, observation_space, action_space=TWO):
        self.observation_space, self.action_space = observation_space, action_space

    def see(self):
        seen = self.observation_space.sample()
        if isinstance(seen, dict) and "action_mask" in seen:
            seen["action_mask"][:] = 1
        return seen

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.steps = 0
        return self.see(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.steps += 1
        return self.see(), 1.0, self.steps == 5, False, {}


def train(make, actor=None, critic=None, **settings):
    """Trains one iteration in the environment that `make` returns."""
    name = next(NUMBERS)
    gymnasium.register(name, make, disable_env_checker=True)
    config = make_control_config(name, **{**SETTINGS, **EAGER, **settings})
    with closing(ControlTrainer(config, actor, critic)) as trainer:
        (_, metrics), *_ = trainer.iterations()
        assert 0 < metrics["rollout/env_steps"] <= 16  # a step that only starts an episode is none


def observing(space, function):
    """Returns a function that wraps an environment with TransformObservation."""
    return lambda env: wrappers.TransformObservation(env, function, space)


WHOLE = spaces.Box(np.array([0, 0]), np.array([3, 3]), dtype=np.int64)
HALF = spaces.Box(0, 3, [2], np.float32)
ENVIRONMENTS = {  # what is refused, words of the advice, and the wrapper that follows it
    "text": (
        lambda: World(spaces.Text(5)),
        "convert it (gymnasium.wrappers.TransformObservation)",
        observing(spaces.Discrete(6), len),
    ),
    "mask alone": (
        lambda: World(spaces.Dict(action_mask=MASK)),
        "it must hold an observation too: add one",
        observing(spaces.Dict(action_mask=MASK, one=POINT), lambda seen: seen | {"one": np.zeros(2, np.float32)}),
    ),
    "whole numbers as actions": (
        lambda: World(POINT, WHOLE),
        "convert its actions (gymnasium.wrappers.TransformAction)",
        lambda env: wrappers.TransformAction(env, lambda action: np.rint(action).astype(np.int64), HALF),
    ),
    "mask of a Box": (
        lambda: World(spaces.Dict(action_mask=MASK, seen=POINT), HALF),
        "remove action_mask from the observations",
        lambda env: wrappers.FilterObservation(env, ["seen"]),
    ),
    "mask of another size": (
        lambda: World(spaces.Dict(action_mask=spaces.MultiBinary(3), seen=POINT)),
        "with one entry for each action: change the observation space",
        observing(
            spaces.Dict(action_mask=MASK, seen=POINT), lambda seen: seen | {"action_mask": seen["action_mask"][:2]}
        ),
    ),
}


@pytest.mark.representatives(2)
@pytest.mark.parametrize("case", ENVIRONMENTS)
def test_a_run_trains_in_the_environment_that_the_message_advises(case):
    make, advice, wrap = ENVIRONMENTS[case]
    assert advice in refusal(train, make)
    train(lambda: wrap(make()))


@pytest.mark.parametrize("gave", ["Tuple", "Text"])
def test_a_tuple_or_text_as_actions_can_be_converted(gave):
    action = spaces.Tuple([TWO, TWO]) if gave == "Tuple" else spaces.Text(1, min_length=1, charset="ab")
    convert = tuple if gave == "Tuple" else "ab".__getitem__
    allowed = spaces.MultiDiscrete([2, 2]) if gave == "Tuple" else TWO

    def make():
        return World(POINT, action)

    assert "convert its actions (gymnasium.wrappers.TransformAction)" in refusal(train, make)
    train(lambda: wrappers.TransformAction(make(), convert, allowed))


def network(*layers):
    return keras.Sequential([keras.Input([2]), *layers])


def dense(units):
    return keras.layers.Dense(units)


def gsde_actor(*last):
    inputs = keras.Input([2])
    features = keras.layers.Dense(4, "tanh")(inputs)
    outputs = keras.layers.Dense(2)(features)
    for layer in last:
        outputs = layer([outputs, features])
    return keras.Model(inputs, outputs)


MODELS = {  # the model that is refused, words of the advice, and a model that follows it
    "actor's outputs": ("actor", lambda: network(dense(3)), "must be [B, 2]: change its last layer", [dense(2)]),
    "critic's outputs": ("critic", lambda: network(dense(2)), "end the critic with Dense(1)", [dense(1)]),
    "actor without inputs": ("actor", lambda: keras.Sequential([dense(2)]), "begins with keras.Input", [dense(2)]),
    "critic without inputs": ("critic", lambda: keras.Sequential([dense(1)]), "begins with keras.Input", [dense(1)]),
}


@pytest.mark.representatives(2)
@pytest.mark.parametrize("case", MODELS)
def test_a_run_trains_with_the_model_that_the_message_advises(case):
    name, make, advice, layers = MODELS[case]
    assert advice in refusal(train, lambda: World(POINT), **{name: make()})
    train(lambda: World(POINT), **{name: network(*layers)})


def test_a_run_trains_with_an_actor_for_gsde_that_the_message_advises():
    def world():
        return World(POINT, spaces.Box(-1, 1, [2], np.float32))

    text = refusal(train, world, gsde_actor(), box_policy="gsde")
    assert text.endswith("end the actor with tfppo.control.policies.networks.WithStateDependentStd")
    train(world, gsde_actor(WithStateDependentStd(0.0)), box_policy="gsde")


def test_a_box_without_bounds_is_learnt_from_with_the_policy_that_the_message_advises():
    def world():
        return World(POINT, spaces.Box(-np.inf, np.inf, [2], np.float32))

    assert refusal(train, world, box_policy="squashed").endswith("set box_policy to normal")
    train(world, box_policy="normal")


# ----- Vector environments, in-graph environments and exports


def vector(mode):
    return SyncVectorEnv([lambda: World(POINT)] * 2, autoreset_mode=mode)


def collect(policy, environment):
    collector = GymnasiumCollector(policy, environment, 8, mode="eager")
    with collector.raising_own_errors():
        return collector.collect(np.int64(0))


def test_a_recurrent_policy_collects_in_the_autoreset_mode_that_the_message_advises():
    policy = make_recurrent(POINT, DiscreteHead(2), 4, hidden_units=(4,))
    text = refusal(collect, policy, vector(AutoresetMode.SAME_STEP))
    assert text.endswith("make the environment with autoreset_mode=AutoresetMode.NEXT_STEP")
    assert collect(policy, vector(AutoresetMode.NEXT_STEP)).rewards.shape == [8, 2]


class Forgetful(VectorWrapper):
    """A vector environment that leaves the last observations of episodes out of the infos."""

    def step(self, actions):
        *rest, infos = self.env.step(actions)
        return *rest, {key: value for key, value in infos.items() if "final" not in key}


@pytest.mark.parametrize("advice", ["add it", "use another autoreset mode"])
def test_last_observations_are_found_after_what_the_message_advises(advice):
    policy = ActorCriticPolicy(make_actor(POINT, TWO, (4,)), make_critic(POINT, (4,)), DiscreteHead(2))

    text = refusal(collect, policy, Forgetful(vector(AutoresetMode.SAME_STEP)))
    assert text.endswith("add it, or use another autoreset mode")
    better = vector(AutoresetMode.SAME_STEP) if advice == "add it" else Forgetful(vector(AutoresetMode.NEXT_STEP))
    assert collect(policy, better).rewards.shape == [8, 2]


def test_an_autoreset_mode_can_be_set_in_the_environment():
    environment = vector(AutoresetMode.NEXT_STEP)
    environment.metadata = {}
    text = refusal(autoreset_mode, environment)
    assert text.endswith("AutoresetMode.DISABLED: set it in the environment")
    environment.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
    assert autoreset_mode(environment) == AutoresetMode.DISABLED


def test_an_in_graph_environment_can_have_another_id_or_equal_spaces(monkeypatch):
    monkeypatch.setattr("tfppo.control.envs.environment.IN_GRAPH_ENVIRONMENTS", dict(IN_GRAPH_ENVIRONMENTS))
    assert "choose another one" in refusal(register_environment, "CartPole-v1", Pendulum)
    twin, other = next(NUMBERS), next(NUMBERS)
    gymnasium.register(twin, lambda: World(POINT))
    monkeypatch.setitem(IN_GRAPH_ENVIRONMENTS, twin, CartPole)
    text = refusal(ControlTrainer, make_control_config(twin, **SETTINGS, **EAGER))
    assert text.endswith("change one, or register your environment under another ID")
    monkeypatch.setitem(IN_GRAPH_ENVIRONMENTS, other, CartPole)
    with closing(ControlTrainer(make_control_config(other, **SETTINGS, **EAGER))) as trainer:
        assert trainer.in_graph


def test_keys_can_be_renamed_for_an_export():
    policy = ActorCriticPolicy(make_actor(POINT, TWO, (4,)), make_critic(POINT, (4,)), DiscreteHead(2))
    space = spaces.Dict({"a b": POINT, "a_b": POINT})
    assert "rename a key (gymnasium.wrappers.TransformObservation)" in refusal(input_specs, policy, space)
    renamed = wrappers.TransformObservation(
        World(space), lambda seen: {"a_b": seen["a_b"], "other": seen["a b"]}, spaces.Dict(a_b=POINT, other=POINT)
    )
    assert set(input_specs(policy, renamed.observation_space)) == {"a_b", "other"}


def test_a_vector_environment_needs_no_native_form_with_what_the_message_advises():
    name = next(NUMBERS)
    gymnasium.register(name, lambda: World(POINT))
    assert refusal(make_vector_environment, name, 2, "native").endswith("use --vectorization sync or async")
    for vectorization in ("sync", "async"):
        make_vector_environment(name, 2, vectorization).close()
