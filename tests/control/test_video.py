"""Videos: which steps of which episodes they show, for how long, and the messages if no video is possible."""

import io
import os
import sys

import gymnasium
import numpy as np
import pytest
from PIL import Image
from support.refusal import refusal

from tfppo.control import evaluate, video
from tfppo.control.envs.classic import CartPole
from tfppo.control.envs.environment import IN_GRAPH_ENVIRONMENTS
from tfppo.control.evaluate import Acting, play_episodes
from tfppo.control.policies.heads import make_head
from tfppo.control.policies.recurrent import make_recurrent
from tfppo.control.rollouts.normalization import Normalization
from tfppo.control.video import Frame, encode_gif, record_episodes

PLAYED = []  # the actions that painted environments got
OPEN = []  # painted environments that are not closed


class Painted(gymnasium.Env):
    """An environment that ends after 2 x seed steps.

    Its image shows the seed and the step, with one white corner; its observation is noise.
    """

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 50}
    observation_space = gymnasium.spaces.Box(-10, 10, [2], np.float32)
    action_space = gymnasium.spaces.Discrete(3, start=5)

    def __init__(self, render_mode=None, frame=None, **metadata):
        self.render_mode, self.frame = render_mode, frame
        self.metadata = self.metadata | metadata
        OPEN.append(self)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.steps = seed - evaluate.SEED_OFFSET, 0
        return self._observation(), {}

    def step(self, action):
        PLAYED.append(int(action))
        self.steps += 1
        return self._observation(), 1.0, self.steps == 2 * self.seed, False, {}

    def render(self):
        assert self.render_mode == "rgb_array"
        if self.frame is not None:
            return self.frame()
        pixels = np.zeros([400, 700, 3], np.uint8)
        pixels[...] = 20 * self.seed, 10 * self.steps, 100
        pixels[:30, :30] = 255
        return pixels

    def close(self):
        OPEN.remove(self)

    def _observation(self):
        return self.np_random.normal(3.0, 1.0, 2).astype(np.float32)


class InMujoco(Painted):
    """An environment whose module looks like MuJoCo's."""


def broken():
    raise OSError("no\nscreen")


InMujoco.__module__ = "some.mujoco.thing"
for env, kind, options in [
    ("Painted-v0", Painted, {}),
    ("Painted4-v0", Painted, {"render_fps": 4}),
    ("Painted30-v0", Painted, {"render_fps": 30}),
    ("Painted125-v0", Painted, {"render_fps": 125}),
    ("PaintedUntold-v0", Painted, {"render_fps": None}),
    ("Unpainted-v0", Painted, {"frame": lambda: None}),
    ("Grey-v0", Painted, {"frame": lambda: np.full([20, 30], 77, np.uint8)}),
    ("Broken-v0", Painted, {"frame": broken}),
    ("HumanOnly-v0", Painted, {"render_modes": ["human", None]}),
    ("InMujoco-v0", InMujoco, {}),
]:
    gymnasium.register(env, kind, disable_env_checker=True, kwargs=options)


@pytest.fixture
def policy():
    """A recurrent policy for the painted environment, with a scaled output layer."""
    space = Painted.observation_space
    policy = make_recurrent(space, make_head(Painted.action_space), 4, (8,), seed=3)
    policy.actor.set_weights([5 * weights for weights in policy.actor.get_weights()])
    return policy


@pytest.fixture(autouse=True)
def played():
    """The actions that painted environments get in a test; after the test, all of them must be closed."""
    PLAYED.clear()
    yield PLAYED
    assert OPEN == []


def read_gif(data):
    """Returns the pictures of a GIF, [N, H, W, 3], and their times in hundredths of a second; asserts that it loops."""
    gif = Image.open(io.BytesIO(data))
    assert gif.format == "GIF" and gif.info["loop"] == 0
    pictures, delays = [], []
    for number in range(gif.n_frames):
        gif.seek(number)
        pictures.append(np.array(gif.convert("RGB")))
        delays.append(gif.info["duration"] // 10)
    return np.array(pictures), delays


def shown(data):
    """Returns (seed, step) of each picture of painted environments, and the times of the pictures."""
    pictures, delays = read_gif(data)
    assert pictures.shape[1:] == (134, 234, 3)  # a third of 400 x 700
    assert (pictures[:, -1, -1, 2] == 100).all() and (pictures[:, 0, 0] == 255).all()
    assert (pictures[:, 20:, 20:] == pictures[:, -1:, -1:]).all()
    return [(int(red) // 20, int(green) // 10) for red, green, _ in pictures[:, -1, -1]], delays


@pytest.mark.parametrize(
    ("env", "steps", "delays"),
    [
        ("Painted-v0", [0, 2, 4, 6], [4, 4, 4, 100]),
        ("Painted4-v0", [0, 1, 2, 3, 4, 5, 6], [25] * 6 + [100]),
        ("Painted30-v0", [0, 1, 2, 3, 4, 5, 6], [3, 4, 3, 3, 4, 3, 100]),
        ("PaintedUntold-v0", [0, 1, 2, 3, 4, 5, 6], [3, 4, 3, 3, 4, 3, 100]),
        ("Painted125-v0", [0, 5, 6], [4, 2, 100]),  # at least two hundredths of a second
    ],
)
def test_it_plays_in_real_time_to_the_end(policy, env, steps, delays):
    pictures, times = shown(record_episodes(policy, env, 1, 3))
    assert pictures == [(3, step) for step in steps]
    assert times == delays


def test_it_shows_the_first_episodes_of_the_seed(policy):
    pictures, _ = shown(record_episodes(policy, "Painted-v0", 3, 1))
    assert pictures == [(1, 0), (1, 2), (2, 0), (2, 2), (2, 4), (3, 0), (3, 2), (3, 4), (3, 6)]


def test_a_long_episode_is_shown_up_to_a_limit(policy, played, monkeypatch):
    monkeypatch.setattr(video, "MAX_FRAMES", 3)
    pictures, _ = shown(record_episodes(policy, "Painted-v0", 2, 4))
    assert pictures == [(4, 0), (4, 2), (4, 4), (5, 0), (5, 2), (5, 4)]
    assert len(played) == 8


def test_it_shows_what_was_evaluated(policy, played):
    """Observations are normalized, the policy has a memory, and actions are counted from the start of the space."""
    normalization = Normalization(Painted.observation_space, observations=True)
    normalization.state[1].assign([3.0, 3.0])
    returns = play_episodes(Acting(policy, normalization), "Painted-v0", 1, 6).returns
    evaluated = list(played)
    played.clear()
    record_episodes(policy, "Painted-v0", 1, 6, normalization=normalization)
    assert played == evaluated and len(played) == returns[0] == 12
    assert set(played) <= {5, 6, 7} and len(set(played)) > 1
    played.clear()
    record_episodes(policy, "Painted-v0", 1, 6)
    assert played != evaluated


def test_a_seed_fixes_the_file(policy):
    first, again, other = (record_episodes(policy, "Painted-v0", 1, seed) for seed in (2, 2, 3))
    assert first == again != other


def test_progress_is_told(policy):
    told = []
    record_episodes(policy, "Painted-v0", 2, 2, progress=told.append)
    assert told == sorted(told) and set(told) == {0, 1, 2}  # the environment has no time limit


@pytest.mark.slow
def test_ten_seconds_of_cartpole_are_a_small_file_and_progress_is_told_by_its_time_limit(make_policy):
    policy = make_policy(hidden_units=())
    push_right = np.array([0.1, 0.3, 3.0, 1.0])
    policy.actor.set_weights([np.stack([-push_right, push_right], -1), np.zeros(2)])
    told = []
    data = record_episodes(policy, "CartPole-v1", 1, 0, progress=told.append)
    pictures, delays = read_gif(data)
    assert len(data) < 500_000
    assert sum(delays) == 1000 + 100  # 50 steps per second, and the last frame
    assert pictures.shape[1:] == (200, 300, 3) and len(pictures) > 50
    assert (np.abs(np.diff(pictures.astype(int), axis=0)).sum((1, 2, 3)) > 0).all()  # consecutive pictures differ
    assert told == [*(step / 500 for step in range(501)), 1]


def test_grey_pictures_become_coloured_ones(policy):
    pictures, _ = read_gif(record_episodes(policy, "Grey-v0", 1, 1))
    assert pictures.shape[1:] == (20, 30, 3) and (pictures == 77).all()


def test_all_pictures_have_their_colours_from_one_table_that_knows_them_all():
    """Colors that appear late are in the palette; pixels that do not change are not written again."""
    colors = np.random.default_rng(0).integers(0, 255, [40, 3])
    frames = [Frame(Image.new("RGB", (90, 60), tuple(colors[n // 10])), 5) for n in range(40)]
    frames[35].image.putpixel((2, 3), (1, 2, 3))
    data = encode_gif(frames)
    pictures, delays = read_gif(data)
    assert delays == [50, 50, 50, 25, 5, 20]  # equal pictures are merged
    assert (pictures[:, -1, -1] == colors[[0, 1, 2, 3, 3, 3]]).all()


def test_a_small_change_takes_little_room():
    """A picture of 27 colors in which two distant corners change 20 times."""
    picture = Image.fromarray(np.random.default_rng(0).choice([0, 120, 240], [90, 90, 3]).astype(np.uint8))
    frames = [Frame(picture.copy(), 5) for _ in range(21)]
    for number, frame in enumerate(frames):
        for corner in ((0, 0), (89, 89)):
            frame.image.putpixel(corner, (240 * (number % 2), 0, 0))
    data = encode_gif(frames)
    assert len(read_gif(data)[1]) == 21
    assert len(data) - len(encode_gif(frames[:1])) < 20 * 200  # the palette and other pixels are not repeated


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ("HumanOnly-v0", "HumanOnly-v0 has render modes: human, None; a video needs the mode rgb_array"),
        ("Counting-v0", "Counting-v0 has render modes: none; a video needs the mode rgb_array"),
        ("InGraphOnly-v0", "InGraphOnly-v0 has render modes: none; a video needs the mode rgb_array"),
        ("Broken-v0", "Broken-v0 cannot be rendered here (OSError: no screen)"),
        (
            "Unpainted-v0",
            "Unpainted-v0 cannot be rendered here (TypeError: render returned NoneType; expected a uint8 array)",
        ),
        ("Uninstalled-v0", "no_such_package_of_environments"),
    ],
)
def test_an_environment_that_cannot_be_drawn_is_refused(policy, counting_policy, make_policy, env, said, monkeypatch):
    monkeypatch.setitem(IN_GRAPH_ENVIRONMENTS, "InGraphOnly-v0", CartPole)
    assert said in refusal(record_episodes, policy, env, 1, 1)


def test_a_missing_library_is_named_with_what_to_install(make_policy, monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    text = refusal(record_episodes, make_policy(), "CartPole-v1", 1, 0)
    assert "pygame is not installed" in text and "gymnasium[classic-control]" in text


@pytest.mark.parametrize(
    ("settings", "driver", "is_drawn"),
    [
        ({}, True, False),
        ({"DISPLAY": ":0"}, False, True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, False, True),
        ({"MUJOCO_GL": "egl"}, True, True),
        ({"MUJOCO_GL": "egl", "DISPLAY": ":0"}, False, False),
        ({"MUJOCO_GL": "osmesa"}, False, False),
    ],
    ids=str,
)
def test_mujoco_is_drawn_only_where_that_does_not_crash(policy, settings, driver, is_drawn, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(video, "NVIDIA_DRIVER", tmp_path if driver else tmp_path / "none")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    if is_drawn:
        assert len(shown(record_episodes(policy, "InMujoco-v0", 1, 1))[0]) == 2
    else:
        text = refusal(record_episodes, policy, "InMujoco-v0", 1, 1)
        assert "display" in text and "MUJOCO_GL=egl" in text


def test_what_the_policy_raises_is_no_matter_of_drawing(policy, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("no idea")

    monkeypatch.setattr(policy, "greedy_step", fail)
    with pytest.raises(RuntimeError, match="no idea"):
        record_episodes(policy, "Painted-v0", 1, 1)


def test_no_window_is_wanted_and_the_users_settings_stay(policy, monkeypatch):
    seen = []
    monkeypatch.setattr(Painted, "close", lambda self: (OPEN.remove(self), seen.append(dict(os.environ))))
    monkeypatch.delenv("SDL_VIDEODRIVER", raising=False)
    monkeypatch.setenv("SDL_AUDIODRIVER", "mine")
    before = dict(os.environ)
    record_episodes(policy, "Painted-v0", 1, 1)
    assert dict(os.environ) == before
    assert seen[-1]["SDL_VIDEODRIVER"] == "dummy" and seen[-1]["SDL_AUDIODRIVER"] == "mine"
