"""Videos of what a policy has learnt: greedy episodes as gymnasium's own environment draws them, in a GIF."""

import io
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from gymnasium.vector import SyncVectorEnv
from PIL import Image

from tfppo.control.envs.vector import is_only_in_graph, make_vector_environment
from tfppo.control.evaluate import Player
from tfppo.control.policies.policy import ControlPolicy
from tfppo.control.rollouts.normalization import Normalization
from tfppo.errors import UsageError, one_line
from tfppo.reporting.console import progress_bar
from tfppo.reporting.tensorboard import TensorBoardWriter
from tfppo.training import run_folder

MAX_FPS = 30  # frames a second; where the environment makes more, some are left out
USUAL_FPS = 30  # of an environment that does not say, as gymnasium's RecordVideo has it
MIN_DELAY = 2  # hundredths of a second; browsers slow down what is shown for less
LAST_DELAY = 100  # the end of an episode is held for a second
MAX_FRAMES = 500  # of an episode; the rest is not shown
MAX_SIDE = 320  # pixels
NUM_COLORS = 128
NUM_SAMPLES = 16  # frames that the colours are chosen from
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


class Frame(NamedTuple):
    """A picture of a video."""

    image: Image.Image  # RGB
    delay: int  # how long it is shown, in hundredths of a second


def record_episodes(
    policy: ControlPolicy,
    env: str,
    episodes: int,
    seed: int,
    *,
    normalization: Normalization | None = None,
    progress: Callable[[float], None] = lambda finished: None,
) -> bytes:
    """A GIF of greedy episodes of their own, in real time: the first ones of the seed, whatever they return.

    They need not be among those that `evaluate.episode_returns` counts: where gymnasium has a native vector form, that
    one starts its episodes otherwise.

    Args:
      policy: acts.
      env: its id, as in `vector.make_vector_environment`.
      episodes: how many, up to `evaluate.MAX_ENVS`.
      seed: of the episodes' starts.
      normalization: of the observations; None: they stay as they are.
      progress: told how many episodes have finished, the one under way as the fraction of its time limit.

    Raises:
      UsageError: if the environment cannot be drawn: it says why, in one line.
    """
    with _off_screen():
        _check_renders(env)
        with _explained(env):
            environment = make_vector_environment(env, 1, render_mode="rgb_array")
        try:
            player = Player(policy, environment, normalization)
            frames: list[Frame] = []
            for number in range(episodes):
                frames += _record_episode(player, env, seed + number, number, progress)
            progress(episodes)
        finally:
            environment.close()
    return encode_gif(frames)


def leave_video(
    folder: Path,
    policy: ControlPolicy,
    env: str,
    episodes: int,
    seed: int,
    step: int,
    normalization: Normalization | None = None,
) -> None:
    """Leaves a video in a run's folder and on TensorBoard, at the given step, or says why there is none.

    The other arguments are those of `record_episodes`.
    """
    if is_only_in_graph(env):
        print(f"no video: {env} is in the graph only, where nothing draws it")
        return
    try:
        with progress_bar("recording a video", episodes) as advance:
            video = record_episodes(policy, env, episodes, seed, normalization=normalization, progress=advance)
        (folder / run_folder.VIDEO).write_bytes(video)
        writer = TensorBoardWriter(folder)
        writer.write_image("rollout/video", video, step)
        writer.close()
    except (UsageError, OSError) as error:
        command = run_folder.confirmed(folder, "env", env)
        print(f"no video: {error}; once that is mended: tfppo evaluate {command} --video-episodes {episodes}")
    else:
        shown = "a greedy episode" if episodes == 1 else f"{episodes} greedy episodes"
        print(f"{folder / run_folder.VIDEO} shows {shown} of {env}")


def encode_gif(frames: Sequence[Frame]) -> bytes:
    """Frames of one size as an animated GIF that plays for ever, all in the same colours."""
    samples = [frames[index].image for index in np.linspace(0, len(frames) - 1, NUM_SAMPLES, dtype=int)]
    width, height = samples[0].size
    sheet = Image.new("RGB", (width, height * len(samples)))
    for row, sample in enumerate(samples):
        sheet.paste(sample, (0, height * row))
    colors = sheet.quantize(NUM_COLORS, dither=Image.Dither.NONE)
    first, *others = (frame.image.quantize(palette=colors, dither=Image.Dither.NONE) for frame in frames)
    file = io.BytesIO()
    first.save(
        file,
        "GIF",
        save_all=True,
        append_images=others,
        duration=[10 * frame.delay for frame in frames],
        loop=0,
        palette=bytes(colors.getpalette() or []),  # once for all frames
        optimize=True,  # only what changes from frame to frame
    )
    return file.getvalue()


def _check_renders(env: str) -> None:
    """Raises UsageError where gymnasium would only warn, or the whole process would crash."""
    environment = make_vector_environment(env, 1)
    modes = environment.metadata.get("render_modes") or []
    environment.close()
    if "rgb_array" not in modes:
        raise UsageError(f"{env} has no render mode rgb_array, but {', '.join(map(str, modes)) or 'none at all'}")
    drawn = environment.envs[0].unwrapped if isinstance(environment, SyncVectorEnv) else environment
    if any("mujoco" in base.__module__ for base in type(drawn).__mro__):
        has_display = sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        is_off_screen = os.environ.get("MUJOCO_GL") in ("egl", "osmesa")
        if not (NVIDIA_DRIVER.exists() if is_off_screen else has_display):
            raise UsageError(
                f"{env} is drawn by MuJoCo, which wants a display, or MUJOCO_GL=egl and NVIDIA's driver (Mesa's "
                "software OpenGL crashes beside TensorFlow)"
            )


def _record_episode(
    player: Player, env: str, seed: int, finished: int, progress: Callable[[float], None]
) -> list[Frame]:
    """The frames of the episode that follows `finished` others."""
    fps = player.environment.metadata.get("render_fps") or USUAL_FPS
    limit = (player.environment.spec and player.environment.spec.max_episode_steps) or math.inf
    interval = math.ceil(fps / MAX_FPS)
    steps, images = [], []
    for step, (_, done) in enumerate(player.play(seed)):
        if step % interval == 0 or done[0]:
            steps.append(step)
            images.append(_draw(player, env))
        progress(finished + step / limit)
        if done[0] or len(images) == MAX_FRAMES:
            break
    # Rounding times, not delays: it does not add up.
    delays = np.diff(np.round(100 * np.array(steps) / fps)).astype(int).clip(MIN_DELAY)
    return [Frame(*frame) for frame in zip(images, [*delays.tolist(), LAST_DELAY], strict=True)]


def _draw(player: Player, env: str) -> Image.Image:
    with _explained(env):
        (pixels,) = player.environment.render() or (None,)
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
            raise TypeError(f"render gave {type(pixels).__name__}, not an array of bytes")
        image = Image.fromarray(pixels).convert("RGB")
    return image.reduce(math.ceil(max(image.size) / MAX_SIDE))


@contextmanager
def _explained(env: str) -> Iterator[None]:
    """Inside, whatever is raised becomes a UsageError: every library that draws fails in a way of its own."""
    try:
        yield
    except Exception as error:
        raise UsageError(f"{env} cannot be drawn here ({type(error).__name__}: {one_line(error)})") from None


@contextmanager
def _off_screen() -> Iterator[None]:
    """Inside, drawing wants no window and no loudspeaker, unless the user has set them, and warns of nothing."""
    settings = {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy"}
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name in added:
            os.environ.pop(name, None)
