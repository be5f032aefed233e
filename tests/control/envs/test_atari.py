"""Atari by its recipe: the wrappers of rl-zoo as arguments of ale-py's vector environment."""

import sys

import gymnasium
import numpy as np
import pytest
from PIL import Image
from support.refusal import refusal

import tfppo
from tfppo.control.envs.options import options_of
from tfppo.control.envs.registration import registered_id
from tfppo.control.envs.vector import make_vector_environment
from tfppo.control.recipes import recipe_of
from tfppo.control.video import _latest_frame

TINY = {"num_envs": 2, "rollout_length": 4, "minibatch_size": 8, "total_steps": 8, "num_epochs": 1}


def test_every_game_has_the_recipe():
    assert recipe_of("ALE/Pong-v5") == recipe_of("ale_py:ALE/Breakout-v5") is not None
    assert recipe_of("mine:ALE/Pong-v5") is recipe_of("mine:CartPole-v1") is None
    assert recipe_of("minigrid:MiniGrid-Unlock-v0") == recipe_of("MiniGrid-Unlock-v0") is not None


@pytest.mark.slow
def test_training_clips_rewards_and_ends_with_a_life_and_the_evaluation_does_not():
    pytest.importorskip("ale_py")
    control = tfppo.make_control_config("ALE/Breakout-v5").control
    seen = []
    for replaced in ((), control.eval_env_kwargs):
        options = options_of(control.env_kwargs, control.wrappers, replaced)
        environment = make_vector_environment("ALE/Breakout-v5", 8, "auto", **options)
        assert environment.single_observation_space.shape == (4, 84, 84)
        environment.reset(seed=1)
        lengths, done = np.zeros(8, int), np.zeros(8, bool)
        for step in range(400):
            *_, terminated, _, infos = environment.step(np.full(8, step % 4))
            lengths += ~done
            done |= terminated
        seen.append((lengths.mean(), infos["lives"].tolist()))
        environment.close()
    assert seen[0][0] < seen[1][0] - 10, seen  # a life is shorter than a game


@pytest.mark.slow
def test_a_run_ends_with_an_evaluation_and_a_video_of_what_the_policy_sees(tmp_path, capsys):
    pytest.importorskip("ale_py")
    config = tfppo.make_control_config(
        "ALE/Pong-v5", runs_dir=tmp_path, eval_episodes=1, eval_max_steps=8, device="cpu", **TINY
    )
    assert config.ppo.clip_ratio == 0.1 and config.control.shared_trunk
    folder = tfppo.train_control(config)
    assert "0 of 1 greedy episodes" in capsys.readouterr().out
    with Image.open(folder / "video.gif") as video:
        assert video.size == (84, 84) and video.n_frames > 10
        assert np.asarray(video.convert("L")).std() > 5  # not one colour
    assert tfppo.load_policy(folder).predict(np.zeros([4, 84, 84], np.uint8)).shape == ()


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 3), (40, 50, 1), (4, 40, 50), (4, 40, 50, 3), (4, 40, 50, 1)])
def test_the_latest_frame_of_every_kind_of_image_is_a_picture(shape):
    image = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8)
    frame = _latest_frame(image)
    assert frame.shape[:2] == (40, 50) and frame.shape[2:] in ((), (3,)) and frame.flat[-1] == image.flat[-1]
    Image.fromarray(frame)


def test_without_ale_py_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    assert "ALE/NoSuch-v5" not in gymnasium.registry
    assert "run make setup EXTRAS=atari" in refusal(registered_id, "ALE/NoSuch-v5")
