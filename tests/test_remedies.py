"""Follows what error messages about settings advise, and checks that the settings are then accepted."""

from contextlib import closing

import pytest
from support.refusal import refusal
from support.remedy import advised_settings

from tfppo.control.recipes import make_control_config
from tfppo.control.trainer import ControlTrainer
from tfppo.ppo.config import PPOConfig
from tfppo.text.defaults import make_text_config

SMALL = {"num_envs": 4, "rollout_length": 8, "minibatch_size": 16, "total_steps": 64, "hidden_units": (4,)}


def make_control_trainer(env="CartPole-v1", **settings):
    with closing(ControlTrainer(make_control_config(env, **{**SMALL, **settings}))):
        pass


def make_config(**settings):
    make_control_config("CartPole-v1", **settings)


CONFIGS = [  # the function, settings that it refuses, and the number of alternatives that the message names
    (make_config, {"double_buffer": True, "vectorization": "sync"}, 2),
    (make_config, {"total_steps": 100, "num_envs": 8, "rollout_length": 16, "minibatch_size": 32}, 3),
    (make_config, {"num_envs": 8, "rollout_length": 16, "minibatch_size": 48}, 1),
    (make_config, {"num_envs": 8, "rollout_length": 16, "minibatch_size": 256}, 1),
    (make_config, {"minibatch_size": 1}, 2),
    (make_config, {"kl_in": "reward"}, 1),
    (make_text_config, {"recompute_advantages": True}, 1),
    (make_text_config, {"kl_coeff": 0.0}, 2),
    (PPOConfig, {"kl_coeff": 0.0, "kl_controller": "ziegler"}, 2),
    (PPOConfig, {"minibatch_size": 64, "num_micro_batches": 3}, 1),
    (PPOConfig, {"weight_decay": 0.1}, 2),
]
TRAINERS = [
    ({"env": "Acrobot-v1", "backend": "gymnasium", "vectorization": "native"}, 1),
    ({"env": "Pendulum-v1", "box_policy": "gsde", "hidden_units": ()}, 1),
    ({"backend": "graph", "vectorization": "sync"}, 2),
    ({"backend": "gymnasium", "fused": True}, 1),
    ({"lstm_units": 4, "shared_trunk": True, "minibatch_size": 8}, 2),
    ({"warmup_iterations": 2}, 1),
]


@pytest.mark.representatives(4)
@pytest.mark.parametrize(("make", "settings", "count"), CONFIGS + [(make_control_trainer, *row) for row in TRAINERS])
def test_settings_are_accepted_after_what_the_message_advises(make, settings, count):
    alternatives = advised_settings(refusal(make, **settings), settings)
    assert len(alternatives) == count
    for changed in alternatives:
        make(**changed)


def test_advice_is_read_as_a_person_reads_it():
    given = {"a": 4, "b": "x", "c": True}
    read = advised_settings(
        "a is 4 and c is True: raise a, or set b to y and c to False (or wait), or use --b z", given
    )
    assert read == [given | {"a": 8}, given | {"b": "y", "c": False}, given | {"b": "z"}]
    assert advised_settings("a is 4; not so: leave it out, or give another", given) == [{"b": "x", "c": True}]
