"""A control run from its folder's first file to its last: writers, checkpoints, evaluation, resume."""

import dataclasses
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import gymnasium

from tfppo.control.config import ControlRunConfig
from tfppo.control.envs.vector import is_only_in_graph
from tfppo.control.evaluate import describe, episode_returns, summarise
from tfppo.control.export import MEMORY, export_policy, input_specs, model_graph
from tfppo.control.rollouts.statistics import WINDOW
from tfppo.control.trainer import ControlTrainer
from tfppo.control.video import record_episodes
from tfppo.errors import UsageError
from tfppo.execution.variables import weights_hash
from tfppo.reporting.console import ConsoleWriter, progress_bar
from tfppo.reporting.csv_writer import CsvWriter
from tfppo.reporting.curves import plot_curve
from tfppo.reporting.diagnoses import DiagnosisWriter
from tfppo.reporting.tensorboard import TensorBoardWriter
from tfppo.reporting.writer import Writer
from tfppo.training import driver, run_folder
from tfppo.training.loop import write_iterations, writing

RETURN = "rollout/episode_return_mean"
STEPS = "rollout/env_steps"


def train(config: ControlRunConfig, task: str = "control", import_seconds: float = 0.0) -> Path | None:
    """Trains a new run, evaluates it, and returns its folder; None: this process trains along with another, whose the
    folder is.

    Raises:
      UsageError: on settings that do not fit together, or a folder that cannot be used.
    """
    clock = driver.Clock(import_seconds)
    with closing(ControlTrainer(driver.settled(config))) as trainer, driver.begin(trainer, task) as folder:
        return _run(trainer, folder, clock)


def resume(folder: Path, import_seconds: float = 0.0, env: str | None = None) -> Path | None:
    """Goes on with a run from its latest checkpoint (without one: from its beginning), and returns what `train` does;
    `env` as in `run_folder.read_confirmed`.

    Raises:
      UsageError: if the folder is no run or in use, or its latest checkpoint is damaged.
    """
    clock = driver.Clock(import_seconds)
    config = driver.settled(run_folder.read_confirmed(folder, ControlRunConfig, "env", env))
    with closing(ControlTrainer(config)) as trainer, driver.go_on(trainer, folder) as (own, checkpoint):
        if checkpoint is not None and trainer.keeps_environments:
            print(trainer.collector.restore_environments(checkpoint))
        return _run(trainer, own, clock)


def evaluate(
    folder: Path,
    episodes: int,
    seed: int | None = None,
    video_episodes: int = 0,
    checkpoint: str = "latest",
    env: str | None = None,
) -> dict[str, Any]:
    """Greedy episodes of a run's checkpoint on gymnasium's own environment, summarised; `video_episodes` more are
    recorded as the run's video; `env` as in `run_folder.read_confirmed`.

    Raises:
      UsageError: if the folder is no run, has no checkpoint that can be read, or so many episodes are no video.
    """
    with _restored(folder, checkpoint, env, video_episodes) as trainer:
        config = trainer.config
        seed = config.run.seed if seed is None else seed
        judged = {"env": config.control.env, "seed": seed} | _judge(trainer, episodes, seed)
        _record(trainer, folder, seed)
        return judged


def export(folder: Path, checkpoint: str = "latest", env: str | None = None) -> Path:
    """Writes the policy of a run's checkpoint into its folder as a SavedModel (see `export_policy`), in place of
    an earlier one, says how to use it, and returns the SavedModel's folder; `env` as in `run_folder.read_confirmed`.

    Raises:
      UsageError: if the folder is no run, has no checkpoint that can be read, or cannot be written to.
    """
    path = folder / run_folder.EXPORT
    with _restored(folder, checkpoint, env) as trainer:
        export_policy(trainer.policy, trainer.observation_space, path, trainer.normalization)
        specs = input_specs(trainer.policy, trainer.observation_space)
    inputs = ", ".join(f"{name}=..." for name in specs)
    line = (
        f'{path} holds a SavedModel; policy = tf.saved_model.load("{path}"), then '
        f'policy.signatures["act"]({inputs})["actions"]'
    )
    if trainer.policy.is_recurrent:
        line += (
            f"; {' and '.join(MEMORY)}: zeros [B, {specs[MEMORY[0]].shape[-1]}] at first, then what came out under "
            "these names; episode_starts: bool [B], where an episode begins"
        )
    print(line)
    return path


@contextmanager
def _restored(folder: Path, checkpoint: str, env: str | None, video_episodes: int = 0) -> Iterator[ControlTrainer]:
    """The trainer of a run as a checkpoint left it, on whatever device there is."""
    config = driver.anywhere(run_folder.read_confirmed(folder, ControlRunConfig, "env", env))
    control = dataclasses.replace(config.control, video_episodes=video_episodes)
    with closing(ControlTrainer(dataclasses.replace(config, control=control))) as trainer:
        driver.checkpoints_of(trainer, folder).restore_for_use(checkpoint)
        yield trainer


@driver.resumable
def _run(trainer: ControlTrainer, folder: Path | None, clock: driver.Clock) -> Path | None:
    control = trainer.config.control
    backend = "in-graph" if trainer.in_graph else "gymnasium"
    subject = f"{control.env} ({backend}), {control.num_envs} environments"
    with closing(trainer), driver.training(trainer, folder, subject):
        finished = _train(trainer, folder)
    clock.end_training()
    if folder and finished:
        _finish(trainer, folder, clock)
    elif folder:
        print(f"stopped; go on with: {run_folder.resume_command(folder)}")
    return folder


def _finish(trainer: ControlTrainer, folder: Path, clock: driver.Clock) -> None:
    """What a run leaves behind when it is trained, and the last it says."""
    config = trainer.config
    with writing(folder):
        plot_curve(
            folder / run_folder.METRICS,
            folder / run_folder.CURVE,
            STEPS,
            RETURN,
            f"{config.control.env}, {folder.name}",
        )
    if config.control.eval_episodes:
        judged = _judge(trainer, config.control.eval_episodes, config.run.seed)
        evaluation = {"env": config.control.env, "seed": config.run.seed} | judged | {"env_steps": trainer.env_steps}
        print(describe(driver.keep_evaluation(trainer, folder, clock, evaluation)))
    _record(trainer, folder, config.run.seed)
    print(
        f"{folder} holds {run_folder.CURVE}, {run_folder.METRICS} and the rest; see it with: tensorboard --logdir "
        f"{run_folder.quoted(folder.parent)}"
    )


def _train(trainer: ControlTrainer, folder: Path | None) -> bool:
    """The training loop with what is written on the way, if there is a folder. Returns whether it came to its end."""
    run, control = trainer.config.run, trainer.config.control
    done = trainer.iteration == control.num_iterations or _is_solved(trainer.episode_metrics, control.target_return)
    if done:  # a finished run was resumed
        return True
    return write_iterations(
        trainer.iterations(),
        run,
        folder,
        _writers(trainer, folder) if folder else [],
        driver.checkpoints_of(trainer, folder) if folder else None,
        RETURN,
        lambda iteration, row: iteration + 1 == control.num_iterations or _is_solved(row, control.target_return),
        trainer.collector.save_environments if trainer.keeps_environments else None,
        trainer.replicas,
    )


def _is_solved(row: dict[str, float], target_return: float | None) -> bool:
    return target_return is not None and row["rollout/episodes"] >= WINDOW and row[RETURN] >= target_return


def _writers(trainer: ControlTrainer, folder: Path) -> list[Writer]:
    config, start = trainer.config, trainer.iteration
    tensorboard = TensorBoardWriter(folder, STEPS, trainer.env_steps + 1 if start else None)
    if not start:
        tensorboard.write_hparams(run_folder.flat_settings(config), [RETURN])
        tensorboard.write_graph(model_graph(trainer.policy))
    console = ConsoleWriter(
        config.control.num_iterations, {RETURN: "return", "time/env_steps_per_s": "steps/s"}, STEPS, start
    )
    diagnoses = DiagnosisWriter(config.ppo, "loss/kl", RETURN, trainer.has_choices, trainer.learner.guard)
    return [CsvWriter(folder / run_folder.METRICS, start), tensorboard, diagnoses, console]


def _judge(trainer: ControlTrainer, episodes: int, seed: int) -> dict[str, Any]:
    """Greedy episodes, summarised, and under "stochastic" as many with actions that are drawn."""
    control = trainer.config.control
    is_foreign = control.vectorization == "envpool" and control.env not in gymnasium.registry
    judged = []
    for greedy, label in ((True, "evaluating greedily"), (False, "evaluating stochastically")):
        with progress_bar(label, episodes) as advance:
            returns = episode_returns(
                trainer.policy,
                control.env,
                episodes,
                seed,
                vectorization="envpool" if is_foreign else "auto",
                normalization=trainer.normalization,
                greedy=greedy,
                progress=advance,
            )
        judged.append(summarise(returns))
    return judged[0] | {"stochastic": judged[1], "weights": weights_hash(trainer.weights)}


def _record(trainer: ControlTrainer, folder: Path, seed: int) -> None:
    """Leaves a video in the run's folder and on TensorBoard, or says why there is none."""
    env, episodes = trainer.config.control.env, trainer.config.control.video_episodes
    if not episodes:
        return
    if is_only_in_graph(env):
        print(f"no video: {env} is in the graph only, where nothing draws it")
        return
    try:
        with progress_bar("recording a video", episodes) as advance:
            video = record_episodes(
                trainer.policy, env, episodes, seed, normalization=trainer.normalization, progress=advance
            )
        (folder / run_folder.VIDEO).write_bytes(video)
        writer = TensorBoardWriter(folder)
        writer.write_image("rollout/video", video, trainer.env_steps)
        writer.close()
    except (UsageError, OSError) as error:
        command = run_folder.confirmed(folder, "env", env)
        print(f"no video: {error}; once that is mended: tfppo evaluate {command} --video-episodes {episodes}")
    else:
        shown = "a greedy episode" if episodes == 1 else f"{episodes} greedy episodes"
        print(f"{folder / run_folder.VIDEO} shows {shown} of {env}")
