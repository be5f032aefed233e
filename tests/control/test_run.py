"""Control runs from the first file to the last: write, stop, resume, evaluate."""

import csv
import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from support.remedy import carry_out
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from tfppo.control import evaluate, results, run, trainer, video
from tfppo.control.config import ControlConfig, ControlRunConfig
from tfppo.control.rollouts.normalization import Normalization
from tfppo.errors import UsageError
from tfppo.execution.devices import uses_onednn
from tfppo.ppo.config import PPOConfig
from tfppo.training import checkpoints, driver, loop, run_folder
from tfppo.training.config import RunConfig

RETURN, STEPS = "rollout/episode_return_mean", "rollout/env_steps"
ITERATIONS = 7
SIGNALS = [signal.SIGINT, signal.SIGTERM]


def tiny(runs_dir, *, mode="eager", name=None, intervals=(1, 3), iterations=ITERATIONS, **control):
    """Returns the settings of a run with this many iterations of 4 x 8 steps."""
    log_interval, checkpoint_interval = intervals
    return ControlRunConfig(
        RunConfig(
            seed=3,
            name=name,
            runs_dir=runs_dir,
            device="cpu",
            compile_rollout=mode,
            compile_update=mode,
            log_interval=log_interval,
            checkpoint_interval=checkpoint_interval,
            keep_checkpoints=2,
        ),
        ControlConfig(
            **{"num_envs": 4, "rollout_length": 8, "total_steps": 32 * iterations + 5, "hidden_units": (8,)}
            | {"eval_episodes": 2, "video_episodes": 0}
            | control
        ),
        PPOConfig(
            **({"num_epochs": 2, "minibatch_size": 16} if mode == "graph" else {"num_epochs": 1, "minibatch_size": 32}),
            kl_controller="schulman",
            kl_coeff=0.1,
        ),
    )


def evaluated(folder, episodes, seed=None, video_episodes=0, application=trainer.CONTROL):
    """Returns the result of `tfppo evaluate`."""
    return driver.evaluate(application, folder, episodes, seed, video_episodes=video_episodes)[0]


def read_rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def without_times(folder):
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in read_rows(folder)]


def read_evaluation(folder):
    evaluation = json.loads((folder / "evaluation.json").read_text())
    return evaluation, evaluation.pop("seconds")


def read_events(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return events


def read_state(folder, iteration):
    """Returns every tensor of a checkpoint as bytes, by name."""
    with np.load(folder / "checkpoints" / f"{iteration:06d}" / "state.npz") as file:
        return {name: file[name].tobytes() for name in file.files}


def checkpoints_of(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


def assert_same_run(folder, whole):
    """Asserts that metrics, TensorBoard, the final state and the evaluation equal those of the uninterrupted run."""
    assert without_times(folder) == without_times(whole)
    assert read_state(folder, ITERATIONS) == read_state(whole, ITERATIONS)
    assert read_evaluation(folder)[0] == read_evaluation(whole)[0]
    ours, theirs = read_events(folder), read_events(whole)
    assert ours.Tags()["scalars"] == theirs.Tags()["scalars"]
    for tag in ours.Tags()["scalars"]:
        if not tag.startswith("time/"):
            read = [[(event.step, event.value) for event in events.Scalars(tag)] for events in (ours, theirs)]
            np.testing.assert_array_equal(read[0], read[1], err_msg=tag)


@pytest.fixture
def at(monkeypatch):
    """Calls a function when the other writers have written an iteration."""

    def install(iteration, happen):
        class Console(driver.ConsoleWriter):
            def write(self, number, metrics):
                super().write(number, metrics)
                if number == iteration:
                    happen()

        monkeypatch.setattr(driver, "ConsoleWriter", Console)

    yield install
    monkeypatch.undo()


@pytest.fixture
def handlers():
    """Sets signal handlers, which a run must restore; an error here then does not stop the test session."""
    received = []
    previous = {number: signal.signal(number, lambda number, _: received.append(number)) for number in SIGNALS}
    own = [signal.getsignal(number) for number in SIGNALS]
    yield lambda: (received, [signal.getsignal(number) for number in SIGNALS] == own)
    for number, handler in previous.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run, compiled as graphs."""
    return run.train_control(tiny(tmp_path_factory.mktemp("whole"), mode="graph", video_episodes=1), "cartpole")


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of the run `whole` in another folder."""
    return shutil.copytree(whole, tmp_path / "copy")


def test_a_run_leaves_its_files(whole):
    assert whole.name == "cartpole-seed3"
    names = sorted(path.name for path in whole.iterdir())
    events = [name for name in names if name.startswith("events.out.tfevents.")]  # one of training, one of the video
    assert len(events) == 2
    others = [".lock", "checkpoints", "config.yaml", "curve.png", "evaluation.json", "metrics.csv", "video.gif"]
    assert names == sorted(events + others)
    config = tiny(whole.parent, mode="graph", video_episodes=1)
    kept = dataclasses.replace(config.run, threads=len(os.sched_getaffinity(0)), onednn=uses_onednn())
    assert run_folder.read_config(whole, ControlRunConfig) == dataclasses.replace(config, run=kept)
    assert checkpoints_of(whole) == [6, 7]
    picture = (whole / "curve.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n" and picture[-8:-4] == b"IEND" and len(picture) > 5_000


def test_every_metric_that_is_written_is_documented_and_the_other_way_round(whole, control_metrics):
    rows = read_rows(whole)
    assert [int(row["iteration"]) for row in rows] == list(range(ITERATIONS))
    assert set(rows[0]) - {"iteration"} == set(control_metrics)


def test_metrics_mean_what_they_say(whole):
    rows = [{name: float(value) for name, value in row.items()} for row in read_rows(whole)]
    steps = [row[STEPS] for row in rows]
    assert steps[0] > 0 and all(0 < later - sooner <= 32 for sooner, later in zip(steps, steps[1:], strict=False))
    # A new episode takes one step that does not count, unless the last one ended in the last step of the rollout.
    assert 0 <= steps[-1] + rows[-1]["rollout/episodes"] - 32 * ITERATIONS <= 4
    assert rows[-1]["rollout/episodes"] > 0
    assert all(row[RETURN] == row["rollout/episode_length_mean"] for row in rows[2:])  # the reward of each step is 1
    np.testing.assert_allclose(
        [row["schedule/learning_rate"] for row in rows], 4e-3 * (1 - np.arange(ITERATIONS) / ITERATIONS), rtol=1e-6
    )
    assert rows[0]["schedule/kl_coeff"] == pytest.approx(0.1)
    assert rows[1]["schedule/kl_coeff"] == pytest.approx(0.05)  # KL far below its target: halved
    assert all(row["time/rollout_s"] > 0 and row["time/update_s"] > 0 for row in rows)
    for row in rows:
        assert row["time/env_steps_per_s"] == pytest.approx(
            32 / (row["time/rollout_s"] + row["time/update_s"]), rel=1e-4
        )


def test_tensorboard_gets_what_the_csv_gets(whole, control_metrics):
    events, rows = read_events(whole), read_rows(whole)
    assert set(events.Tags()["scalars"]) == set(control_metrics)
    for name in control_metrics:
        read = events.Scalars(name)
        assert [event.step for event in read] == [int(row[STEPS]) for row in rows]
        np.testing.assert_allclose([event.value for event in read], [float(row[name]) for row in rows], rtol=1e-5)


def test_tensorboard_gets_the_settings_and_the_networks(whole):
    events = read_events(whole)
    settings = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    assert all(name in settings for name in (b"learning_rate", b"num_envs", b"seed", b"hidden_units"))
    assert {"MatMul", "Tanh"} <= {node.op for node in events.Graph().node}


def test_tensorboard_gets_the_video(whole):
    events = read_events(whole)
    assert events.Tags()["images"] == ["rollout/video"]
    (image,) = events.Images("rollout/video")
    assert image.step == int(read_rows(whole)[-1][STEPS])
    assert image.encoded_image_string == (whole / "video.gif").read_bytes()


def test_the_video_is_of_the_runs_own_policy_and_seed(copy, monkeypatch, capsys):
    """The video shows the policy and the seed of the run, and is the same in every call."""
    trained = (copy / "video.gif").read_bytes()
    (copy / "video.gif").unlink()
    evaluated(copy, 1, video_episodes=1)
    assert (copy / "video.gif").read_bytes() == trained
    assert f"{copy / 'video.gif'} shows a greedy episode of CartPole-v1" in capsys.readouterr().out
    seen = []
    monkeypatch.setattr(
        video, "record_episodes", lambda *arguments, **options: seen.append((arguments, options)) or b"G"
    )
    evaluated(copy, 1, seed=8, video_episodes=2)
    (((policy, *arguments), options),) = seen
    assert arguments == ["CartPole-v1", 2, 8] and (copy / "video.gif").read_bytes() == b"G"
    assert {v.numpy().tobytes() for v in policy.trainable_variables} <= set(read_state(copy, ITERATIONS).values())
    assert isinstance(options["normalization"], Normalization)
    assert "shows 2 greedy episodes" in capsys.readouterr().out


@pytest.mark.fault(
    "The video of a run cannot be recorded", "The run finishes. A line gives the reason and the command to try again."
)
def test_a_video_that_cannot_be_made_fails_no_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pygame", None)
    folder = run.train_control(tiny(tmp_path, iterations=1, video_episodes=3), "cartpole")
    out, err = capsys.readouterr()
    (line,) = [line for line in out.splitlines() if line.startswith("no video: ")]
    assert "pygame is not installed" in line and line.endswith(f"tfppo evaluate {folder} --video-episodes 3")
    assert err == "" and "greedy return" in out and f"{folder} holds" in out
    assert not (folder / "video.gif").exists() and (folder / "evaluation.json").exists()


def test_a_video_that_cannot_be_written_fails_no_evaluation(copy, capsys):
    (copy / "video.gif").unlink()
    (copy / "video.gif").mkdir()
    assert evaluated(copy, 1, video_episodes=1)["episodes"] == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("no video: ") and "video.gif" in line


def test_so_many_episodes_are_no_video(copy):
    before = (copy / "video.gif").read_bytes()
    with pytest.raises(UsageError, match="video_episodes is 11; it must be between 0 and 10"):
        evaluated(copy, 1, video_episodes=11)
    assert (copy / "video.gif").read_bytes() == before


def test_the_evaluation_says_what_was_played_and_how_long_it_took(whole):
    evaluation, seconds = read_evaluation(whole)
    assert list(evaluation) == [
        "env",
        "seed",
        "episodes",
        "mean",
        "std",
        "min",
        "max",
        "stochastic",
        "env_steps",
        "weights",
    ]
    assert list(evaluation["stochastic"]) == ["episodes", "mean", "std", "min", "max"]
    assert (evaluation["env"], evaluation["seed"], evaluation["episodes"]) == ("CartPole-v1", 3, 2)
    assert evaluation["env_steps"] == int(read_rows(whole)[-1][STEPS])
    assert 1 <= evaluation["min"] <= evaluation["mean"] <= evaluation["max"] <= 500
    assert evaluation["mean"] == (evaluation["min"] + evaluation["max"]) / 2
    assert evaluation["std"] == pytest.approx((evaluation["max"] - evaluation["min"]) / 2)
    assert list(seconds) == ["import", "compile", "train", "evaluate", "total"]
    assert seconds["import"] == 0 and all(seconds[name] > 0 for name in ("compile", "train", "evaluate"))
    parts = sum(seconds[name] for name in ("import", "compile", "train", "evaluate"))
    assert seconds["total"] == pytest.approx(parts, abs=0.003)


def test_a_run_that_is_only_judged_again_took_what_it_took(copy):
    before = read_evaluation(copy)
    assert read_evaluation(driver.resume(trainer.CONTROL, copy)) == before


def test_a_run_says_what_it_does(tmp_path, capsys):
    config = tiny(tmp_path, mode="auto", name="mine", iterations=2)
    folder = run.train_control(config, "cartpole")
    out, err = capsys.readouterr()
    assert folder == tmp_path / "mine"
    evaluation, _ = read_evaluation(folder)
    assert evaluate.describe(evaluation) in out
    for words in ("CartPole-v1 (in-graph), 4 environments, seed 3", f"-> {folder}", "device CPU", "graph (rollout)"):
        assert words in out
    assert "iteration 2/2" in out and "return" in out
    assert "curve.png" in out
    process = {"threads": len(os.sched_getaffinity(0)), "onednn": uses_onednn()}
    chosen = dataclasses.replace(config.run, compile_rollout="graph", compile_update="graph", **process)
    assert run_folder.read_config(folder, ControlRunConfig) == dataclasses.replace(
        config, run=chosen
    )  # "auto" is replaced by its choice
    assert err == ""


def test_evaluate_repeats_the_evaluation_of_the_run(copy):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    evaluation, _ = read_evaluation(copy)
    assert evaluated(copy, 2) == evaluation
    assert evaluated(copy, 2, seed=3) == evaluation
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_evaluate_plays_as_many_episodes_from_as_many_starts_as_it_is_told(copy, monkeypatch):
    seen = []
    real = evaluate.play_episodes

    def listen(acting, *arguments, **options):
        seen.append((*arguments[:3], acting.greedy, real(acting, *arguments, **options)))
        return seen[-1][-1]

    monkeypatch.setattr(evaluate, "play_episodes", listen)
    ours, other = evaluated(copy, 5), evaluated(copy, 5, seed=4)
    assert [call[:4] for call in seen] == [("CartPole-v1", 5, s, greedy) for s in (3, 4) for greedy in (True, False)]
    judged = [ours, ours["stochastic"], other, other["stochastic"]]
    for evaluation, (*_, played) in zip(judged, seen, strict=True):
        assert (evaluation["episodes"], len(played.returns)) == (5, 5)
        assert evaluation["mean"] == np.mean(played.returns)
    assert (ours["seed"], other["seed"]) == (3, 4)


def test_evaluate_works_on_a_machine_without_the_device_of_the_run(copy):
    text = (copy / "config.yaml").read_text()
    assert "device: cpu" in text
    (copy / "config.yaml").write_text(text.replace("device: cpu", "device: gpu"))
    evaluation, _ = read_evaluation(copy)
    assert evaluated(copy, 2)["mean"] == evaluation["mean"]


def test_evaluate_uses_the_weights_of_the_latest_checkpoint(copy, monkeypatch):
    policies = []
    played = evaluate.Episodes(np.ones(2), 0)
    monkeypatch.setattr(evaluate, "play_episodes", lambda acting, *_, **__: policies.append(acting.policy) or played)
    evaluated(copy, 2)
    weights = [variable.numpy().tobytes() for variable in policies[0].trainable_variables]
    state = read_state(copy, ITERATIONS)
    assert len(set(weights)) > 2 and set(weights) <= set(state.values())


@pytest.mark.fault(
    "Ctrl-C stops a run, and the run is resumed",
    "A line gives the command to resume. The resumed run ends with the same bits.",
)
def test_a_run_that_is_stopped_goes_on_to_the_same_end(whole, tmp_path, at, handlers, monkeypatch, capsys):
    at(3, lambda: os.kill(os.getpid(), signal.SIGINT))
    folder = run.train_control(tiny(tmp_path, mode="graph", video_episodes=1), "cartpole")
    assert handlers() == ([], True)
    assert f"stopped after iteration 4 of {ITERATIONS}; resume with: tfppo resume {folder}" in capsys.readouterr().out
    assert [int(row["iteration"]) for row in read_rows(folder)] == [0, 1, 2, 3]
    assert checkpoints_of(folder) == [3, 4]
    assert not any((folder / name).exists() for name in ("evaluation.json", "curve.png", "video.gif"))
    monkeypatch.undo()
    assert driver.resume(trainer.CONTROL, folder) == folder
    assert handlers() == ([], True)
    assert_same_run(folder, whole)
    assert (folder / "curve.png").exists() and checkpoints_of(folder) == [6, 7]
    assert (folder / "video.gif").read_bytes() == (whole / "video.gif").read_bytes()


@pytest.mark.fault("Ctrl-C or SIGTERM during training", "The current iteration finishes, and a checkpoint is written.")
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_lets_the_iteration_end_and_saves_it(number, tmp_path, at, handlers):
    at(0, lambda: os.kill(os.getpid(), number))
    folder = run.train_control(tiny(tmp_path, intervals=(1, 100)), "cartpole")
    assert handlers() == ([], True)
    assert [int(row["iteration"]) for row in read_rows(folder)] == [0]
    assert checkpoints_of(folder) == [1]


@pytest.mark.slow
@pytest.mark.fault(
    "An exception ends the training", "The latest checkpoint stays. The resumed run ends with the same bits."
)
def test_a_run_that_crashed_redoes_what_came_after_its_checkpoint(whole, tmp_path, at, handlers, monkeypatch):
    closed = []
    for name in ("CsvWriter", "TensorBoardWriter"):

        class Writer(getattr(driver, name)):
            def close(self):
                super().close()
                closed.append(type(self).__bases__[0].__name__)

        monkeypatch.setattr(driver, name, Writer)

    def crash():
        raise ZeroDivisionError("a defect")

    at(4, crash)
    config = tiny(tmp_path, mode="graph")
    with pytest.raises(ZeroDivisionError, match="a defect"):
        run.train_control(config, "cartpole")
    folder = tmp_path / "cartpole-seed3"
    assert sorted(closed) == ["CsvWriter", "TensorBoardWriter"]
    assert handlers() == ([], True)
    assert [int(row["iteration"]) for row in read_rows(folder)] == [0, 1, 2, 3, 4]
    assert checkpoints_of(folder) == [3]
    monkeypatch.undo()
    driver.resume(trainer.CONTROL, folder)
    assert_same_run(folder, whole)


def test_a_stop_between_two_looks_at_it_still_saves(tmp_path, monkeypatch):
    answers = iter([False])

    @contextmanager
    def stop_requests(_):
        yield lambda: next(answers, True)

    monkeypatch.setattr(loop, "_stop_requests", stop_requests)
    folder = run.train_control(tiny(tmp_path, intervals=(1, 100), iterations=3), "cartpole")
    (checkpoint,) = checkpoints_of(folder)
    assert checkpoint == len(read_rows(folder))


def test_resuming_a_finished_run_changes_nothing(whole, copy, capsys):
    driver.resume(trainer.CONTROL, copy)
    assert (copy / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    assert checkpoints_of(copy) == checkpoints_of(whole)
    assert_same_run(copy, whole)
    assert evaluate.describe(read_evaluation(whole)[0]) in capsys.readouterr().out


def test_a_solved_run_stops_early(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trainer, "WINDOW", 1)
    folder = run.train_control(tiny(tmp_path, intervals=(100, 100), target_return=1.0), "cartpole")
    (row,) = read_rows(folder)
    iteration = int(row["iteration"])
    assert iteration + 1 < ITERATIONS and float(row["rollout/episodes"]) >= 1
    assert checkpoints_of(folder) == [iteration + 1]
    assert read_evaluation(folder)[0]["env_steps"] == int(float(row[STEPS]))
    assert (folder / "curve.png").exists()
    out = capsys.readouterr().out
    assert f"iteration {iteration + 1}/{ITERATIONS}" in out
    (line,) = [line for line in out.splitlines() if line.startswith("stopped")]
    mean = f"{float(row['rollout/episode_return_mean']):.5g}"
    reason = f"mean return {mean} of the last 1 episodes reaches target_return 1"
    assert line == f"stopped after iteration {iteration + 1} of {ITERATIONS}: {reason}"
    rows = (folder / "metrics.csv").read_bytes()
    driver.resume(trainer.CONTROL, folder)
    assert (folder / "metrics.csv").read_bytes() == rows


@pytest.mark.representatives(1)
@pytest.mark.parametrize(("window", "target"), [(100, 1.0), (1, 1e6)], ids=["too few episodes", "too little"])
def test_an_unsolved_run_goes_on_to_its_end(tmp_path, monkeypatch, window, target):
    monkeypatch.setattr(trainer, "WINDOW", window)
    folder = run.train_control(tiny(tmp_path, iterations=4, target_return=target, eval_episodes=0), "cartpole")
    rows = read_rows(folder)
    assert len(rows) == 4 and float(rows[2]["rollout/episodes"]) >= 1  # an episode has finished


def test_intervals_thin_out_rows_and_checkpoints_and_zero_episodes_the_evaluation(tmp_path):
    folder = run.train_control(tiny(tmp_path, intervals=(2, 3), iterations=5, eval_episodes=0), "cartpole")
    assert [int(row["iteration"]) for row in read_rows(folder)] == [1, 3, 4]
    assert checkpoints_of(folder) == [3, 5]
    assert not (folder / "evaluation.json").exists()
    assert (folder / "curve.png").exists()


@pytest.mark.slow
@pytest.mark.fault(
    "Ctrl-C stops a run on Gymnasium's environments, and the run is resumed",
    "The environments continue where they were. The resumed run ends with the same bits.",
)
@pytest.mark.parametrize("vectorization", ["auto", pytest.param("sync", marks=pytest.mark.slow)])
def test_a_gymnasium_run_is_stopped_and_goes_on_to_the_same_end(
    vectorization, tmp_path, at, handlers, monkeypatch, capsys
):
    settings = {"backend": "gymnasium", "vectorization": vectorization}
    whole = run.train_control(tiny(tmp_path / "whole", **settings), "cartpole")
    at(1, lambda: os.kill(os.getpid(), signal.SIGINT))
    folder = run.train_control(tiny(tmp_path / "stopped", **settings), "cartpole")
    assert handlers() == ([], True)
    assert [int(row["iteration"]) for row in read_rows(folder)] == [0, 1]
    assert "CartPole-v1 (gymnasium)" in capsys.readouterr().out
    monkeypatch.undo()
    driver.resume(trainer.CONTROL, folder)
    assert "all 4 environments continue exactly where they were" in capsys.readouterr().out
    assert_same_run(folder, whole)


@pytest.mark.slow
@pytest.mark.fault(
    "A run dies before its first checkpoint", "`tfppo resume` starts it from the beginning. It ends with the same bits."
)
def test_a_run_that_dies_before_its_first_checkpoint_starts_anew_and_doubles_nothing(
    whole, tmp_path, at, monkeypatch, capsys
):
    def crash():
        raise ZeroDivisionError("a defect")

    at(1, crash)
    with pytest.raises(ZeroDivisionError):
        run.train_control(tiny(tmp_path, mode="graph", video_episodes=1), "cartpole")
    folder = tmp_path / "cartpole-seed3"
    assert len(read_rows(folder)) == 2 and not (folder / "checkpoints").exists()
    monkeypatch.undo()
    driver.resume(trainer.CONTROL, folder)
    assert "starts from the beginning" in capsys.readouterr().out
    assert_same_run(folder, whole)
    assert len(list(folder.glob("events.*"))) == 2


@pytest.mark.slow
@pytest.mark.fault(
    "A kill leaves half a row, half an event, or an event file that is newer than the checkpoint",
    "`tfppo resume` cuts the files back to the checkpoint. No row appears twice.",
)
def test_event_files_are_cut_back_to_the_checkpoint(copy, whole):
    """The state after a kill during a write: half an event, half a line, and a file that no checkpoint knows."""
    shutil.rmtree(copy / "checkpoints" / "000007")
    for path in copy.glob("events.*"):
        path.write_bytes(path.read_bytes() + b"half an event")
    (copy / "events.out.tfevents.9999999999.elsewhere").write_bytes(b"garbage")
    with (copy / "metrics.csv").open("a") as file:
        file.write("3")  # the rest of a line such as "33,..."
    driver.resume(trainer.CONTROL, copy)
    assert_same_run(copy, whole)
    assert (copy / "metrics.csv").read_text().count("\n") == ITERATIONS + 1


@pytest.mark.fault(
    "A finished run has lost its checkpoints and is resumed", "A one-line error. The files stay unchanged."
)
def test_a_finished_run_without_checkpoints_is_not_trained_over(copy):
    shutil.rmtree(copy / "checkpoints")
    before = {path: path.read_bytes() for path in copy.iterdir() if path.name != ".lock"}
    with pytest.raises(UsageError, match="is a finished run, but its checkpoints were deleted"):
        driver.resume(trainer.CONTROL, copy)
    assert {path: path.read_bytes() for path in copy.iterdir() if path.name != ".lock"} == before


@pytest.mark.fault(
    "`tfppo resume` on a run that another process trains",
    "A one-line error names the other process. `tfppo evaluate` still works.",
)
def test_a_run_in_use_is_refused(copy):
    with subprocess.Popen(
        [sys.executable, "-c", LOCKED, str(copy)], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "in\n"
        with pytest.raises(UsageError, match=f"in use by process {other.pid}"):
            driver.resume(trainer.CONTROL, copy)
        other.stdin.close()
    evaluated(copy, 1)  # a reader needs no lock


LOCKED = """
import sys
from pathlib import Path
from tfppo.training.lock import locked
with locked(Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.read()
"""


def full_record(self, data):
    """Returns the error of TensorBoard's thread on a full disk."""
    no_space()


def no_space(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.fault(
    "The disk is full",
    "The run ends with a one-line error, and the latest checkpoint stays. The resumed run ends with the same bits.",
)
@pytest.mark.parametrize(
    "where",
    ["checkpoint"]
    + [pytest.param(where, marks=pytest.mark.slow) for where in ("curve", "evaluation", "events", "metrics", "fsync")],
)
def test_a_full_disk_ends_a_run_in_one_line_and_its_checkpoint_stays(where, whole, tmp_path, monkeypatch, capfd):
    config = tiny(tmp_path, mode="graph", video_episodes=1)
    folder = tmp_path / "cartpole-seed3"
    iteration = 5

    class Console(driver.ConsoleWriter):
        def write(self, number, metrics):
            super().write(number, metrics)
            if number == iteration - 2:
                fill()

    def fill():
        if where == "events":
            monkeypatch.setattr(RecordWriter, "write", full_record)
        elif where == "metrics":
            monkeypatch.setattr(driver.CsvWriter, "write", no_space)
        elif where == "checkpoint":
            monkeypatch.setattr(checkpoints.np, "savez", no_space)
        elif where == "fsync":
            monkeypatch.setattr(checkpoints, "_to_disk", no_space)
        elif where == "curve":
            monkeypatch.setattr(results, "plot_curve", no_space)
        else:
            monkeypatch.setattr(run_folder, "write_evaluation", no_space)

    monkeypatch.setattr(driver, "ConsoleWriter", Console)
    with pytest.raises(UsageError) as caught:
        run.train_control(config, "cartpole")
    text = str(caught.value)
    assert text.startswith(f"cannot write to {folder} (") and f"tfppo resume {folder}" in text
    assert "No space left on device" in text and len(text.splitlines()) == 1
    assert "Traceback" not in capfd.readouterr().err
    monkeypatch.undo()
    evaluated(folder, 1)
    driver.resume(trainer.CONTROL, folder)
    assert_same_run(folder, whole)


@pytest.mark.fault(
    "The folder of a run is deleted during training",
    "The run ends with a one-line error. No folder is put in its place.",
)
def test_a_run_whose_folder_is_lost_ends_in_one_line(tmp_path, at):
    folder = tmp_path / "cartpole-seed3"
    at(1, lambda: shutil.rmtree(folder))
    with pytest.raises(UsageError, match="cannot write to .*No such file or directory.*move the folder back"):
        run.train_control(tiny(tmp_path), "cartpole")
    assert not folder.exists()  # nothing is written into a folder that is not a run


@pytest.mark.fault("An environment calls `sys.exit`", "A one-line error. The latest checkpoint stays.")
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_an_environment_that_exits_ends_the_run_in_one_line(tmp_path, vectorization):
    config = tiny(tmp_path, iterations=1, env="Exiting-v0", vectorization=vectorization)
    with pytest.raises(UsageError) as caught:
        run.train_control(config)
    assert len(str(caught.value).splitlines()) == 1
    assert "step of Exiting-v0 raised SystemExit: 3 (copy" in str(caught.value)


def test_an_environment_that_exits_in_the_evaluation_does_so_too(tmp_path, monkeypatch):
    folder = run.train_control(tiny(tmp_path, iterations=1, env="Counting-v0", vectorization="sync", eval_episodes=0))
    monkeypatch.setattr(trainer.ControlTrainer, "judge", lambda *_: sys.exit("enough"))
    with pytest.raises(UsageError, match="raised SystemExit: enough; it must not end the process"):
        driver.evaluate(trainer.CONTROL, folder, 1)


@pytest.mark.fault(
    "An environment raises KeyboardInterrupt", "A line gives the command to resume. The latest checkpoint stays."
)
@pytest.mark.parametrize("vectorization", ["sync", pytest.param("async", marks=pytest.mark.slow)])
def test_an_environment_that_interrupts_stops_the_run_like_ctrl_c(tmp_path, vectorization):
    with pytest.raises(KeyboardInterrupt) as caught:
        run.train_control(tiny(tmp_path, iterations=1, env="Interrupting-v0", vectorization=vectorization))
    assert str(caught.value) == f"resume with: tfppo resume {tmp_path / 'Interrupting-v0-seed3'}"


@pytest.mark.slow
def test_a_run_whose_folder_was_moved_goes_on_when_it_is_moved_back(tmp_path, at, monkeypatch):
    folder = tmp_path / "cartpole-seed3"
    at(1, lambda: folder.rename(tmp_path / "elsewhere"))
    with pytest.raises(UsageError) as caught:
        run.train_control(tiny(tmp_path), "cartpole")
    assert f"move the folder back, then resume with: tfppo resume {folder}" in str(caught.value)
    monkeypatch.undo()
    (tmp_path / "elsewhere").rename(folder)
    carry_out(str(caught.value))
    assert len(read_rows(folder)) == ITERATIONS


def test_environments_are_closed_whatever_happens(tmp_path, at):
    closed = {}

    class Trainer(trainer.ControlTrainer):
        def close(self):
            super().close()
            closed[self] = self.collector.environments[0].closed

    def crash():
        raise ZeroDivisionError("a defect")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "ControlTrainer", Trainer)
        folder = run.train_control(
            tiny(tmp_path, iterations=1, backend="gymnasium", vectorization="sync", eval_episodes=0)
        )
        evaluated(folder, 1, application=trainer.CONTROL._replace(make_trainer=lambda config, _: Trainer(config)))
        at(0, crash)
        with pytest.raises(ZeroDivisionError):
            run.train_control(tiny(tmp_path, iterations=1, backend="gymnasium", vectorization="sync"))
    assert list(closed.values()) == [True, True, True]


def test_a_run_can_be_trained_in_a_thread(tmp_path):
    folders = []
    thread = threading.Thread(target=lambda: folders.append(run.train_control(tiny(tmp_path, iterations=1))))
    thread.start()
    thread.join()
    assert len(read_rows(folders[0])) == 1


@pytest.mark.slow
def test_a_run_starts_from_another(tmp_path, capsys, monkeypatch):
    """It has the weights and the statistics of the other run, and also if it starts again after a crash."""
    normalized = {"normalize_observations": True, "normalize_rewards": True}
    first = run.train_control(tiny(tmp_path, name="first", iterations=3, **normalized))
    other = tiny(
        tmp_path, name="second", iterations=2, init_from=first, init_checkpoint="3", num_envs=8, rollout_length=4
    )
    other = dataclasses.replace(other, control=dataclasses.replace(other.control, **normalized))
    with driver.opened(trainer.CONTROL, first, "latest") as done:
        wanted = [weight.numpy() for weight in (*done.weights, *done.normalization.statistics)]
    seen = []
    collect = trainer.train_iterations

    def look(collector, learner, *arguments):
        seen.append([weight.numpy() for weight in (*learner.policy.actor.weights, *learner.policy.critic.weights)])
        seen[-1] += [variable.numpy() for variable in collector.normalization.statistics]
        return collect(collector, learner, *arguments)

    monkeypatch.setattr(trainer, "train_iterations", look)
    second = run.train_control(other)
    assert f"starts with the policy and the normalization of {first}, iteration 3\n" in capsys.readouterr().out
    for a, b in zip(seen[0], wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    assert run_folder.read_config(second, ControlRunConfig).control.init_from == first
    driver.resume(trainer.CONTROL, second)  # a finished run is only evaluated again
    assert "starts with" not in capsys.readouterr().out
    wide = tiny(tmp_path, name="third", iterations=2, init_from=first, hidden_units=(9,))
    with pytest.raises(UsageError, match="does not fit this run"):
        run.train_control(dataclasses.replace(wide, control=dataclasses.replace(wide.control, **normalized)))


@pytest.mark.fault("The environment does not exist or is not supported", "A one-line error. No folder is created.")
@pytest.mark.parametrize(
    "control",
    [
        {"env": "Nope-v1"},
        {"env": "Nope-v1", "backend": "graph"},
        {"env": "Words-v0"},
        {"env": "FrozenLake-v1", "backend": "graph"},
        {"env": "FrozenLake-v1", "fused": True},
    ],
    ids=str,
)
def test_an_environment_that_cannot_be_used_leaves_no_folder(tmp_path, control):
    with pytest.raises(UsageError) as caught:
        run.train_control(tiny(tmp_path / "runs", **control))
    assert len(str(caught.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault("`config.yaml` was edited and does not fit the checkpoint", "A one-line error names the run.")
def test_settings_of_another_run_do_not_go_with_the_checkpoint(copy):
    text = (copy / "config.yaml").read_text()
    for old, new in [("num_envs: 4", "num_envs: 2"), ("  - 8\n", "  - 9\n"), ("  - 8\n", "  - 8\n  - 8\n")]:
        assert old in text
        (copy / "config.yaml").write_text(text.replace(old, new))
        with pytest.raises(UsageError) as caught:
            driver.resume(trainer.CONTROL, copy)
        assert len(str(caught.value).splitlines()) == 1 and str(copy) in str(caught.value)
