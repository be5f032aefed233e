"""Masks of infos become part of the observations, and the policy obeys them."""

from contextlib import closing

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from support.refusal import refusal

import tfppo
from tfppo.control import run

SMALL = {"num_envs": 2, "rollout_length": 8, "minibatch_size": 16, "total_steps": 64, "hidden_units": (4,)}
EAGER = {"compile_rollout": "eager", "compile_update": "eager", "device": "cpu", "num_epochs": 1}


class Legal(gymnasium.Env):
    """An environment that says in its infos which actions are legal, and breaks on others."""

    def __init__(self, seen=None, actions=None, infos=None):
        self.observation_space = spaces.Discrete(3) if seen is None else seen
        self.action_space = spaces.Discrete(4) if actions is None else actions
        self.infos = infos

    def info(self):
        if self.infos is not None:
            return self.infos
        self.mask = self.np_random.permutation([True, False, False, True])
        return {"legal": self.mask}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        self.observation_space.seed(seed)
        return self.observation_space.sample(), self.info()

    def step(self, action):
        assert self.mask[action], f"{action} is not legal"
        self.steps += 1
        return self.observation_space.sample(), 1.0, self.steps == 5, False, self.info()


def masked(*arguments, key="legal", **named):
    return tfppo.MaskFromInfo(Legal(*arguments, **named), key)


def test_the_mask_of_the_infos_is_observed():
    env = masked()
    assert env.observation_space == spaces.Dict(
        {"observation": spaces.Discrete(3), "action_mask": spaces.MultiBinary(4)}
    )
    observation, info = env.reset(seed=1)
    assert observation["observation"] in env.unwrapped.observation_space and observation in env.observation_space
    assert observation["action_mask"].tolist() == info["legal"].tolist()
    observation, _, _, _, info = env.step(int(np.argmax(info["legal"])))
    assert observation["action_mask"].tolist() == info["legal"].tolist() and observation in env.observation_space


def test_dictionaries_keep_their_keys():
    env = masked(spaces.Dict({"speed": spaces.Box(-1, 1, [2]), "place": spaces.Discrete(2)}))
    assert set(env.observation_space) == {"speed", "place", "action_mask"}
    assert env.reset(seed=1)[0] in env.observation_space


def test_several_actions_have_one_mask_after_another():
    env = masked(actions=spaces.MultiDiscrete([2, 3]), infos={"legal": [1, 0, 0, 1, 1]})
    assert env.reset(seed=1)[0]["action_mask"].tolist() == [1, 0, 0, 1, 1]


def test_training_and_evaluation_take_legal_actions_only():
    config = tfppo.make_control_config(**SMALL, **EAGER, eval_episodes=3)
    with closing(tfppo.ControlTrainer(config, env=masked)) as trainer:  # an illegal action would end the run
        trainer.fit(verbose=0)
        assert trainer.evaluate(episodes=3)["mean"] == 5.0


def test_a_saved_policy_obeys_the_mask_of_taxi(tmp_path):
    options = {"env": "Taxi-v4", "wrappers": ("tfppo:MaskFromInfo",), "runs_dir": tmp_path, "name": "a"}
    few = {"eval_episodes": 1, "video_episodes": 0, "recipe": "CartPole-v1"}
    folder = run.train_control(tfppo.make_control_config(**(options | SMALL | EAGER | few)))
    assert tfppo.evaluate(folder, episodes=1)["episodes"] == 1  # a wrapper of ours need not be named again
    mask = np.array([0, 0, 0, 0, 0, 1], np.int8)
    assert tfppo.load_policy(folder).predict({"observation": np.int64(77), "action_mask": mask}) == 5


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: masked(actions=spaces.Box(-1, 1, [2])), "needs Discrete or MultiDiscrete actions, but they are Box"),
        (lambda: masked(spaces.Dict({"action_mask": spaces.MultiBinary(4)})), "have an action_mask already"),
        (lambda: masked(key="action_mask").reset(), "the info of reset has no action_mask; it has legal"),
        (lambda: masked(infos={}).reset(), "it has nothing: name the key of the mask"),
        (lambda: masked(infos={"legal": [1, 0]}).reset(), "has 2 numbers; Discrete(4) needs 4"),
    ],
)
def test_what_is_no_mask_is_refused(make, said):
    assert said in refusal(make)
