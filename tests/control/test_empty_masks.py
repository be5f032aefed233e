"""An action mask that allows nothing is refused wherever a policy acts."""

from contextlib import closing
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from support.refusal import refusal

from tfppo.control.envs.environment import IN_GRAPH_ENVIRONMENTS
from tfppo.control.evaluate import Acting, play_episodes
from tfppo.control.policies.empty_masks import rows_without_action
from tfppo.control.recipes import make_control_config
from tfppo.control.trainer import ControlTrainer

SPACE = spaces.Dict(seen=spaces.Box(-1, 1, [2], np.float32), action_mask=spaces.MultiBinary(3))
ENDS, EMPTY = 4, 10  # an episode has four steps; the tenth mask of copy 1 is empty
SETTINGS = {
    "num_envs": 3,
    "rollout_length": 8,
    "minibatch_size": 24,
    "total_steps": 72,
    "num_epochs": 1,
    "device": "cpu",
    "hidden_units": (4,),
}


class Closing(gymnasium.Env):
    """An environment whose mask is empty when an episode ends, and in one more step of the second copy."""

    observation_space, action_space = SPACE, spaces.Discrete(3)

    def __init__(self, empty=EMPTY):
        self.empty = empty
        self.total = -1  # steps of training, with those that only start an episode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.number = seed % 4096
        self.steps = 0
        return self.see(), {}

    def step(self, action):
        self.steps += 1
        return self.see(), 1.0, self.steps == ENDS, False, {}

    def see(self):
        self.total += 1
        is_empty = self.steps == ENDS or (self.number % 3 == 1 and self.total == self.empty)
        return {"seen": np.zeros(2, np.float32), "action_mask": np.array([0, 1, 0], np.int8) * (not is_empty)}


class ClosingInGraph:
    """The same in the graph, where the mask is empty in step 2 of each episode of the second copy.

    Its state: steps of the episode, and the number of the copy, [B, 2].
    """

    observation_space, action_space, max_episode_steps = SPACE, spaces.Discrete(3), 100

    def reset(self, num_envs, seed):
        return tf.zeros([num_envs, 2], tf.int32)

    def observe(self, state):
        is_empty = (state[:, 0] == ENDS) | ((state[:, 1] == 1) & (state[:, 0] == 2))
        mask = tf.where(is_empty[:, None], 0, tf.constant([0, 1, 0]))
        return {"seen": tf.zeros([state.shape[0], 2]), "action_mask": mask}

    def step(self, state, actions, seed):
        following = tf.stack([state[:, 0] + 1, tf.range(state.shape[0])], axis=-1)
        return following, tf.ones([state.shape[0]]), following[:, 0] == ENDS


gymnasium.register("Closing-v0", Closing, disable_env_checker=True)
gymnasium.register("Open-v0", Closing, disable_env_checker=True, kwargs={"empty": -1})


def make_trainer(env, mode="eager", **settings):
    modes = {"compile_rollout": mode, "compile_update": mode}
    return ControlTrainer(make_control_config(env, **SETTINGS, **modes, **settings))


@pytest.mark.fault("An action mask allows no action", "A one-line error names the environment, the copy and the step.")
def test_training_names_environment_copy_step_and_key():
    with closing(make_trainer("Closing-v0", seed=0)) as trainer:
        text = refusal(lambda: list(trainer.iterations()))
    assert text.startswith("action_mask of Closing-v0 allows no action in step 10 of copy 1;"), text


def test_a_mask_may_be_empty_when_the_episode_ends():
    with closing(make_trainer("Open-v0", seed=0)) as trainer:
        assert len(list(trainer.iterations())) == 3


@pytest.mark.parametrize("fused", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("mode", ["graph", pytest.param("xla", marks=pytest.mark.slow)])
def test_training_in_the_graph_names_them_too(mode, fused, monkeypatch):
    monkeypatch.setitem(IN_GRAPH_ENVIRONMENTS, "ClosingInGraph-v0", ClosingInGraph)
    with closing(make_trainer("ClosingInGraph-v0", mode, fused=fused)) as trainer:
        text = refusal(lambda: list(trainer.iterations()))
    assert text.startswith("action_mask of ClosingInGraph-v0 allows no action in step 2 of copy 1;"), text


def test_evaluation_names_them():
    with closing(make_trainer("Open-v0")) as trainer:
        text = refusal(play_episodes, Acting(trainer.policy), "Closing-v0", 9, 1, num_envs=3)
        assert text.startswith("action_mask of Closing-v0 allows no action in step 10 of copy"), text
        assert play_episodes(Acting(trainer.policy), "Open-v0", 6, 1).returns.tolist() == [4.0] * 6


def test_policies_that_left_the_trainer_refuse_it(tmp_path: Path):
    empty = {"seen": np.zeros([3, 2], np.float32), "action_mask": np.array([[1, 0, 0], [0, 0, 0], [0, 1, 1]], np.int32)}
    full = empty | {"action_mask": np.ones([3, 3], np.int32)}
    with closing(make_trainer("Open-v0")) as trainer:
        policy = trainer.trained_policy()
        trainer.export(tmp_path / "export")
    assert refusal(policy.predict, empty).startswith("action_mask allows no action in row 1")
    assert policy.predict(full).shape == (3,)
    act = tf.saved_model.load(tmp_path / "export").signatures["act"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="action_mask allows no action"):
        act(**{name: tf.constant(x) for name, x in empty.items()})
    assert act(**{name: tf.constant(x) for name, x in full.items()})["actions"].shape == (3,)


def test_each_choice_needs_an_action():
    masks = tf.constant([[1, 0, 0, 0, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1], [0, 1, 0, 0, 1]])
    np.testing.assert_array_equal(rows_without_action(masks, [2, 3]), [False, True, True, False])
    np.testing.assert_array_equal(rows_without_action(masks, [5]), [False] * 4)
