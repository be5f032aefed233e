"""Videos of a policy: greedy episodes, rendered by Gymnasium's own environment, as an animated GIF."""

import io
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv
from PIL import Image

from tfppo.control.envs.registration import registered_id
from tfppo.control.envs.vector import NO_OPTIONS, is_only_in_graph, is_stepped_in_turn, make_vector_environment
from tfppo.control.evaluate import Acting, Player, Turn
from tfppo.control.policies.encoders import is_image
from tfppo.control.policies.policy import ControlPolicy
from tfppo.control.rollouts.normalization import Normalization
from tfppo.errors import UsageError, one_line
from tfppo.reporting.console import progress_bar
from tfppo.reporting.tensorboard import TensorBoardWriter
from tfppo.training import run_folder

MAX_FPS = 30  # frames per second; frames are dropped if the environment has more
USUAL_FPS = 30  # if the environment gives no rate, as in Gymnasium's RecordVideo
MIN_DELAY = 2  # hundredths of a second; browsers slow down videos with shorter delays
LAST_DELAY = 100  # hundredths of a second; the last frame of an episode stays for a second
MAX_FRAMES = 500  # frames of an episode; later frames are dropped
MAX_SIDE = 320  # pixels
NUM_COLORS = 128
NUM_SAMPLES = 16  # frames from which the palette is computed
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


class Frame(NamedTuple):
    """One image of a video."""

    image: Image.Image  # RGB
    delay: int  # time on the screen, in hundredths of a second


def record_episodes(
    policy: ControlPolicy,
    env: str,
    episodes: int,
    seed: int,
    *,
    normalization: Normalization | None = None,
    options: Mapping[str, Any] = NO_OPTIONS,
    progress: Callable[[float], None] = lambda finished: None,
) -> bytes:
    """Records greedy episodes as a GIF in real time: the first ones of the seed, not the best ones.

    They need not be episodes that `evaluate.play_episodes` counts: it uses native vector environments, which start
    episodes differently.

    Args:
      policy: The policy that acts.
      env: The environment ID, as for `vector.make_vector_environment`.
      episodes: Number of episodes, at most `evaluate.MAX_ENVS`.
      seed: Seed of the first episode; each next episode uses the next seed.
      normalization: Normalization of observations; None leaves them unchanged.
      options: Arguments and wrappers of the environment, as for `vector.make_vector_environment`.
      progress: Function that gets the number of finished episodes; the current episode counts as a fraction of its time
        limit.

    Returns:
      The GIF.

    Raises:
      UsageError: If the environment cannot be rendered; it says why, in one line.
    """
    with _off_screen():
        environment = _native_images(env, options)
        if environment is None:
            _check_renders(env, options)
            with _explained(env):
                environment = make_vector_environment(env, 1, **{**options, "render_mode": "rgb_array"})
        try:
            player = Player(Acting(policy, normalization), environment)
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
    options: Mapping[str, Any] = NO_OPTIONS,
) -> None:
    """Writes a video to a run's folder and to TensorBoard, or prints why there is none.

    Args:
      folder: The folder of the run.
      policy: The policy that acts.
      env: The environment ID.
      episodes: Number of episodes.
      seed: As for `record_episodes`.
      step: The step of the video on TensorBoard's axis.
      normalization: As for `record_episodes`.
      options: As for `record_episodes`.
    """
    if is_only_in_graph(env):
        print(f"no video: {env} has only an in-graph form, which cannot be rendered")
        return
    try:
        with progress_bar("recording a video", episodes) as advance:
            video = record_episodes(
                policy, env, episodes, seed, normalization=normalization, options=options, progress=advance
            )
        (folder / run_folder.VIDEO).write_bytes(video)
        writer = TensorBoardWriter(folder)
        writer.write_image("rollout/video", video, step)
        writer.close()
    except (UsageError, OSError) as error:
        command = run_folder.confirmed(folder, {"env": env})
        print(f"no video: {error}; fix this, then record it with: tfppo evaluate {command} --video-episodes {episodes}")
    else:
        shown = "a greedy episode" if episodes == 1 else f"{episodes} greedy episodes"
        print(f"{folder / run_folder.VIDEO} shows {shown} of {env}")


def encode_gif(frames: Sequence[Frame]) -> bytes:
    """Returns frames of equal size as an animated GIF that loops forever, with one palette for all frames."""
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
        palette=bytes(colors.getpalette() or []),  # one palette for all frames
        optimize=True,  # stores only the differences between frames
    )
    return file.getvalue()


def _native_images(env: str, options: Mapping[str, Any]) -> VectorEnv | None:
    """Returns one copy of a native vector environment that observes images; None if the environment is not such a one.

    Its video shows what the policy sees. A single environment of the same ID may observe something else: those of Atari
    observe whole screens, and do not know the arguments of the native form.
    """
    if "wrappers" in options or is_stepped_in_turn(env) or registered_id(env) not in gymnasium.registry:
        return None
    environment = make_vector_environment(env, 1, "native", **options)
    if is_image(environment.single_observation_space):
        return environment
    environment.close()
    return None


def _check_renders(env: str, options: Mapping[str, Any]) -> None:
    """Checks that an environment can be rendered.

    Otherwise Gymnasium would only warn, or MuJoCo would crash the process.

    Raises:
      UsageError: If the environment cannot be rendered.
    """
    environment = make_vector_environment(env, 1, **options)
    modes = environment.metadata.get("render_modes") or []
    environment.close()
    if "rgb_array" not in modes:
        raise UsageError(
            f"{env} has render modes: {', '.join(map(str, modes)) or 'none'}; a video needs the mode rgb_array"
        )
    drawn = environment.envs[0].unwrapped if isinstance(environment, SyncVectorEnv) else environment
    if any("mujoco" in base.__module__ for base in type(drawn).__mro__):
        has_display = sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        is_off_screen = os.environ.get("MUJOCO_GL") in ("egl", "osmesa")
        if not (NVIDIA_DRIVER.exists() if is_off_screen else has_display):
            raise UsageError(
                f"{env} is rendered by MuJoCo, which needs a display, or MUJOCO_GL=egl with NVIDIA's driver (Mesa's "
                "software OpenGL crashes together with TensorFlow)"
            )


def _record_episode(
    player: Player, env: str, seed: int, finished: int, progress: Callable[[float], None]
) -> list[Frame]:
    """Returns the frames of the next episode; `finished` is the number of episodes before it."""
    fps = player.environment.metadata.get("render_fps") or USUAL_FPS
    limit = (player.environment.spec and player.environment.spec.max_episode_steps) or math.inf
    interval = math.ceil(fps / MAX_FPS)
    steps, images = [], []
    for step, turn in enumerate(player.play(seed)):
        if step % interval == 0 or turn.done[0]:
            steps.append(step)
            images.append(_draw(player, env, turn))
        progress(finished + step / limit)
        if turn.done[0] or len(images) == MAX_FRAMES:
            break
    # Times are rounded, not delays: rounding errors of delays would add up.
    delays = np.diff(np.round(100 * np.array(steps) / fps)).astype(int).clip(MIN_DELAY)
    return [Frame(*frame) for frame in zip(images, [*delays.tolist(), LAST_DELAY], strict=True)]


def _draw(player: Player, env: str, turn: Turn) -> Image.Image:
    if player.environment.render_mode is None:
        return Image.fromarray(_latest_frame(turn.observations[0])).convert("RGB")
    with _explained(env):
        (pixels,) = player.environment.render() or (None,)
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
            raise TypeError(f"render returned {type(pixels).__name__}; expected a uint8 array")
        image = Image.fromarray(pixels).convert("RGB")
    return image.reduce(math.ceil(max(image.size) / MAX_SIDE))


def _latest_frame(image: np.ndarray) -> np.ndarray:
    """Returns a picture uint8 [H, W] or [H, W, 3] of an observation for which `encoders.is_image` is true."""
    if image.ndim == 4:  # frames [F, H, W, C]
        return _latest_frame(image[-1])
    if image.ndim == 2 or image.shape[-1] == 3:
        return image
    return image[-1] if image.shape[0] < image.shape[2] else image[..., -1]


@contextmanager
def _explained(env: str) -> Iterator[None]:
    """Turns every exception in its block into a UsageError; each rendering library raises its own exceptions."""
    try:
        yield
    except Exception as error:
        raise UsageError(f"{env} cannot be rendered here ({type(error).__name__}: {one_line(error)})") from None


@contextmanager
def _off_screen() -> Iterator[None]:
    """Lets its block render without a window or sound and without warnings, unless the user has set SDL's variables."""
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
