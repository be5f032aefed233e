"""Tests run folders: names that never collide, files that are complete, and one-line errors."""

import dataclasses
import json
import os
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.refusal import refusal

from tfppo.control.config import ControlConfig, ControlRunConfig
from tfppo.ppo.config import PPOConfig
from tfppo.settings import to_yaml, with_settings
from tfppo.text.config import TextParts
from tfppo.text.defaults import make_text_config
from tfppo.training import new_folder, run_folder
from tfppo.training.config import RunConfig
from tfppo.training.lock import LOCK, locked

CONFIG = ControlRunConfig()


def create(run, name="t", tell=print, fill=lambda folder: None):
    """Creates the folder of a run that fails at once."""
    with new_folder.new_run_folder(run, name, CONFIG, tell, fill) as folder:
        return folder


def train(run, name="t"):
    """Creates the folder of a run that does an iteration."""
    folder = create(run, name)
    (folder / run_folder.METRICS).write_text("iteration\n0\n")
    return folder


def test_default_names_are_the_task_and_the_seed_and_count_up(tmp_path):
    run = RunConfig(seed=7, runs_dir=tmp_path / "deep" / "runs")
    folders = [train(run, "cartpole") for _ in range(3)]
    assert [folder.name for folder in folders] == ["cartpole-seed7", "cartpole-seed7-2", "cartpole-seed7-3"]
    assert all(folder.parent == tmp_path / "deep" / "runs" and folder.is_dir() for folder in folders)
    other = create(dataclasses.replace(run, seed=8), "cartpole")
    assert other.name == "cartpole-seed8"


@pytest.mark.fault("The disk is full while a run's folder is created", "A one-line error. No folder is left.")
def test_a_folder_appears_with_all_its_files_or_not_at_all(tmp_path):
    def fill(folder):
        assert not (tmp_path / "mine").exists()
        (folder / "model").mkdir()
        if failing:
            raise OSError(28, "No space left on device")

    run = RunConfig(name="mine", runs_dir=tmp_path)
    failing = True
    assert "No space left" in refusal(create, run, fill=fill)
    assert list(tmp_path.iterdir()) == []
    failing = False
    assert (create(run, fill=fill) / "model").is_dir()


def test_a_gap_in_the_default_names_is_filled(tmp_path):
    (tmp_path / "t-seed1").mkdir()
    (tmp_path / "t-seed1-3").mkdir()
    assert train(RunConfig(runs_dir=tmp_path)).name == "t-seed1-2"
    assert train(RunConfig(runs_dir=tmp_path)).name == "t-seed1-4"


def test_a_given_name_is_taken_as_it_is(tmp_path):
    folder = create(RunConfig(name="mine", runs_dir=tmp_path))
    assert folder == tmp_path / "mine" and folder.is_dir()


@pytest.mark.fault(
    "`--name` is the name of an existing folder", "A one-line error names the folder. Its files stay unchanged."
)
def test_a_given_name_that_exists_is_refused_and_left_alone(tmp_path):
    run = RunConfig(name="mine", runs_dir=tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "metrics.csv").write_text("precious")
    text = refusal(create, run)
    assert str(tmp_path / "mine") in text and "--name" in text and "resume" not in text  # there is nothing to resume
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["metrics.csv"]
    assert (tmp_path / "mine" / "metrics.csv").read_text() == "precious"
    (tmp_path / "mine" / run_folder.CONFIG).write_text("control: {}\n")
    assert f"tfppo resume {tmp_path / 'mine'}" in refusal(create, run)
    other = dataclasses.replace(run, name="other")
    assert create(other) == tmp_path / "other"  # as the text advises


def make_failed_run(folder):
    """Writes the files of a text run whose reward failed in the first iteration."""
    folder.mkdir(parents=True)
    (folder / run_folder.CONFIG).write_text("text: {}\n")
    (folder / run_folder.METRICS).write_text("")
    (folder / run_folder.SAMPLES).write_text('{"iteration": 0, "prompt": "It"}\n')
    (folder / "events.out.tfevents.1.host.2.0").write_bytes(b"events")
    with locked(folder):
        pass
    return folder


def contents(folder):
    """Returns everything below a folder: the texts of files, the targets of links, and None for folders."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.is_file() and path.read_text()
        for path in folder.rglob("*")
        if path.name != LOCK
    }


@pytest.mark.fault(
    "A run fails before its first iteration, and is started again under the same name",
    "The new run replaces the folder, and a line says so.",
)
@pytest.mark.parametrize("name", [None, "mine"])
@pytest.mark.parametrize("more", ["nothing", "columns", "checkpoints", "pretraining"])
def test_the_folder_of_a_run_that_failed_before_its_first_iteration_is_replaced(tmp_path, name, more):
    folder = make_failed_run(tmp_path / (name or "length-seed1"))
    if more == "columns":
        (folder / run_folder.METRICS).write_text("iteration,loss/policy\n")
    elif more == "checkpoints":
        (folder / run_folder.CHECKPOINTS).mkdir()
    elif more == "pretraining":
        (folder / run_folder.CONFIG).write_text("model: gpt2\n")
        (folder / "train").mkdir()
        (folder / "train" / "events.out.tfevents.1.host.2.0.v2").write_bytes(b"events")
    run, told = RunConfig(name=name, runs_dir=tmp_path), []
    new_folder.refuse_taken_name(run)
    with new_folder.new_run_folder(run, "length", CONFIG, told.append) as new:
        assert new == folder and contents(new) == {run_folder.CONFIG: to_yaml(CONFIG)}
        assert "in use" in refusal(enter, folder)
    assert told == [f"{folder} is replaced: its run ended without a checkpoint and without a row of metrics"]
    assert list(tmp_path.iterdir()) == [folder]
    with new_folder.new_run_folder(run, "length", CONFIG, told.append) as new:
        assert new == folder and len(told) == 2  # that run did no iteration, either


def enter(folder):
    with locked(folder):
        pass


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


def write_in(folder_name, name):
    def make(folder):
        (folder / folder_name).mkdir()
        (folder / folder_name / name).write_text("precious")

    return make


def link(name):
    def make(folder):
        (folder.parent / "target").write_text("text: {}\n")
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(folder.parent / "target")

    return make


def link_the_folder(folder):
    folder.rename(folder.parent / "target")
    folder.symlink_to(folder.parent / "target")


@pytest.mark.fault(
    "The name of a run is used again, and its folder holds a row of metrics, a checkpoint, a link or a user's file",
    "With `--name` a one-line error, otherwise another folder. The files stay unchanged.",
)
@pytest.mark.parametrize("name", [None, "mine"])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(write("notes.txt", "precious"), id="file-of-the-user"),
        pytest.param(lambda folder: (folder / "data").mkdir(), id="folder-of-the-user"),
        pytest.param(write_in("train", "notes.txt"), id="file-of-the-user-among-events"),
        pytest.param(write_in("rollouts", "responses.jsonl.gz"), id="responses"),
        pytest.param(write(run_folder.METRICS, "iteration,loss/policy\n0,1\n"), id="row"),
        pytest.param(write(run_folder.SAMPLES, '{"iteration": 2, "prompt": "It"}\n'), id="samples"),
        pytest.param(write(run_folder.SAMPLES, "[]\n"), id="damaged-samples"),
        pytest.param(write(run_folder.CONFIG, "text: [\n"), id="damaged-config"),
        pytest.param(write(run_folder.CONFIG, "- gpt2\n"), id="config-without-settings"),
        pytest.param(lambda folder: (folder / run_folder.CONFIG).unlink(), id="no-config"),
        pytest.param(lambda folder: (folder / LOCK).unlink(), id="copy-of-a-config"),
        pytest.param(lambda folder: (folder / run_folder.CHECKPOINTS / "000001").mkdir(parents=True), id="checkpoint"),
        pytest.param(link(run_folder.CONFIG), id="link"),
        pytest.param(link(LOCK), id="link-to-a-lock"),
        pytest.param(link("events.out.tfevents.9"), id="link-to-events"),
        pytest.param(link_the_folder, id="link-in-its-place"),
    ],
)
def test_nothing_else_is_replaced(tmp_path, name, change):
    folder = make_failed_run(tmp_path / (name or "length-seed1"))
    change(folder)
    before, told = contents(tmp_path), []
    run = RunConfig(name=name, runs_dir=tmp_path)
    if name:
        assert f"{folder} exists" in refusal(new_folder.refuse_taken_name, run)
        assert f"{folder} exists" in refusal(create, run, "length", told.append)
        assert contents(tmp_path) == before
    else:
        new = create(run, "length", told.append)
        assert new.name == "length-seed1-2"
        assert contents(tmp_path) == before | {new.name: False, f"{new.name}/{run_folder.CONFIG}": to_yaml(CONFIG)}
    assert told == []


PROCESS = """
import sys
from pathlib import Path
from tfppo.control.config import ControlRunConfig
from tfppo.errors import UsageError
from tfppo.training.config import RunConfig
from tfppo.training.new_folder import new_run_folder
name, runs_dir, seed = sys.argv[1:]
config = ControlRunConfig(RunConfig(seed=int(seed), name=name, runs_dir=runs_dir))
print("ready", flush=True)
sys.stdin.readline()
try:
    with new_run_folder(config.run, "", config, lambda line: None):
        print("has it", flush=True)
        sys.stdin.read()
except UsageError as error:
    print(error, flush=True)
"""


@pytest.fixture
def processes(tmp_path):
    """Returns `processes(count)`, which starts processes that wait for a line before they create the folder `mine`."""
    started = []

    def start(count):
        command = [sys.executable, "-c", PROCESS, "mine", str(tmp_path)]
        for seed in range(count):
            process = subprocess.Popen(
                [*command, str(seed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
            started.append(process)
        assert [process.stdout.readline() for process in started[-count:]] == ["ready\n"] * count
        return started[-count:]

    yield start
    for process in started:
        process.communicate("")


def test_processes_that_replace_a_folder_at_once_do_it_one_after_the_other(tmp_path, processes):
    folder = make_failed_run(tmp_path / "mine")
    several = processes(4)
    for process in several:
        process.stdin.write("go\n")
    said = [process.stdout.readline() for process in several]
    (winner,) = [seed for seed, line in enumerate(said) if line == "has it\n"]
    assert all(f"{folder} exists" in line for seed, line in enumerate(said) if seed != winner)
    assert list(tmp_path.iterdir()) == [folder]
    assert run_folder.read_config(folder, ControlRunConfig).run.seed == winner


def test_the_folder_of_a_run_that_has_just_begun_in_another_process_is_not_replaced(tmp_path, processes):
    (process,) = processes(1)
    process.stdin.write("go\n")
    assert process.stdout.readline() == "has it\n"
    folder = tmp_path / "mine"
    before = contents(folder)
    assert f"{folder} exists" in refusal(create, RunConfig(name="mine", runs_dir=tmp_path))
    assert contents(folder) == before
    process.communicate("")
    assert create(RunConfig(name="mine", runs_dir=tmp_path)) == folder


def test_the_folder_of_a_run_in_another_thread_is_not_replaced(tmp_path):
    run, begun, done = RunConfig(name="mine", runs_dir=tmp_path), threading.Event(), threading.Event()

    def hold():
        with new_folder.new_run_folder(run, "", CONFIG, lambda line: None):
            begun.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    begun.wait()
    try:
        for _ in range(2):  # a refusal must not release the lock
            assert "mine exists" in refusal(create, run)
    finally:
        done.set()
        thread.join()
    assert create(run) == tmp_path / "mine"


def test_a_folder_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    folder = make_failed_run(tmp_path / "mine")
    before, real = contents(folder), Path.rename

    def rename(self, target):
        if self.name == "new":
            raise OSError(5, "Input/output error")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    text = refusal(create, RunConfig(name="mine", runs_dir=tmp_path))
    assert "Input/output error" in text and "--runs-dir" in text
    assert contents(folder) == before and list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("name", [None, "mine"])
@pytest.mark.parametrize(
    "place", ["file", "file/below", "dangling", "x" * 300], ids=["file", "below-a-file", "dangling-link", "too-long"]
)
def test_a_runs_dir_that_cannot_be_one_is_refused(tmp_path, place, name):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    text = refusal(create, RunConfig(name=name, runs_dir=tmp_path / place))
    assert str(tmp_path / place) in text and "--runs-dir" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "file"]
    assert (tmp_path / "file").read_text() == "in the way"


def test_settings_come_back_equal_from_a_run(tmp_path):
    config = ControlRunConfig(
        RunConfig(seed=3, name="mine", runs_dir=tmp_path),
        ControlConfig(hidden_units=(8, 4), target_return=475.0),
        PPOConfig(gamma=0.9, max_grad_norm=None),
    )
    run_folder.write_config(tmp_path, config)
    assert run_folder.read_config(tmp_path, ControlRunConfig) == config
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_what_is_no_run_is_refused_with_its_name(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "odd" / "config.yaml").mkdir(parents=True)
    for name in ("nowhere", "empty", "file", "odd"):
        text = refusal(run_folder.read_config, tmp_path / name, ControlRunConfig)
        assert str(tmp_path / name) in text and "not the folder of a run" in text


@pytest.mark.fault("`config.yaml` is damaged", "A one-line error names the file.")
@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"ppo: {gamma: 2}", "gamma"),
        (b"ppo: {gama: 0.9}", "gama"),
        (b"ppo: {gamma: ", "YAML"),
        (b"", "mapping"),
        (b"\xff\xfe\x00", "config.yaml"),
        (b"ppo: {minibatch_size: 100}", "minibatch_size"),
    ],
)
def test_a_damaged_config_is_refused_with_its_path(tmp_path, content, named):
    (tmp_path / "config.yaml").write_bytes(content)
    text = refusal(run_folder.read_config, tmp_path, ControlRunConfig)
    assert str(tmp_path / "config.yaml") in text and named in text


def test_an_evaluation_is_kept_as_json(tmp_path):
    evaluation = {"env": "CartPole-v1", "mean": 487.25, "seconds": {"train": 1.5}}
    run_folder.write_evaluation(tmp_path, evaluation)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == evaluation
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


def test_numbers_that_are_not_finite_become_null(tmp_path):
    inf, nan = float("inf"), float("nan")
    run_folder.write_evaluation(tmp_path, {"perplexity": {"policy": inf, "reference": 2.0}, "all": [nan, -inf, 1, "x"]})
    evaluation = json.loads((tmp_path / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert evaluation == {"perplexity": {"policy": None, "reference": 2.0}, "all": [None, None, 1, "x"]}


@pytest.mark.fault("The process dies while it writes `evaluation.json`", "The previous file stays complete.")
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    run_folder.write_evaluation(tmp_path, {"mean": 1.0})
    seen = []

    def broken(source, target):
        seen.append((Path(source).read_text(), Path(target).read_text()))
        raise OSError("the power is gone")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="power"):
        patch.setattr(os, "replace", broken)
        run_folder.write_evaluation(tmp_path, {"mean": 2.0})
    assert [tuple(json.loads(text)["mean"] for text in pair) for pair in seen] == [(2.0, 1.0)]
    assert json.loads((tmp_path / "evaluation.json").read_text()) == {"mean": 1.0}
    run_folder.write_evaluation(tmp_path, {"mean": 3.0})
    assert json.loads((tmp_path / "evaluation.json").read_text()) == {"mean": 3.0}
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


@pytest.mark.parametrize(
    ("named", "argument"),
    [(None, "runs/mine"), ("CartPole-v1", "runs/mine"), ("my worlds:W-v0", "runs/mine --env 'my worlds:W-v0'")],
)
def test_a_command_on_a_run_names_the_module_that_it_would_import(named, argument):
    assert run_folder.confirmed(Path("runs/mine"), {"env": named}) == argument


@pytest.mark.parametrize("name", ["my run", "it's", "a;b", "$HOME", "plain"])
def test_a_shell_reads_the_folder_in_a_command_as_one_word(name, tmp_path):
    folder = tmp_path / name
    assert shlex.split(run_folder.confirmed(folder, {"env": "my worlds:W-v0"})) == [
        str(folder),
        "--env",
        "my worlds:W-v0",
    ]
    assert shlex.split(run_folder.confirmed(folder, {"env": None})) == [str(folder)]
    assert shlex.split(run_folder.resume_command(folder)) == ["tfppo", "resume", str(folder)]
    folder.mkdir()
    (folder / run_folder.CONFIG).write_text("control: {}\n")
    taken = refusal(new_folder.refuse_taken_name, RunConfig(name=name, runs_dir=tmp_path))
    assert shlex.split(taken.partition("resume its run with: ")[2]) == ["tfppo", "resume", str(folder)]


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ("control:\n  env: CartPole-v1\n", ""),
        ("control:\n  env: my worlds:W-v0\n", " --env 'my worlds:W-v0'"),
        ("text:\n  reward: null\n", ""),
        ("text:\n  reward: mine:exclaim\n", " --reward mine:exclaim"),
        ("text:\n  task: mine:ASKS\n  reward: mine:exclaim\n", " --task mine:ASKS --reward mine:exclaim"),
        ("control: [\n", ""),
        ("control: {}\n", ""),
        (None, ""),
    ],
)
def test_the_command_that_goes_on_with_a_run_names_it_too(settings, options, tmp_path):
    if settings is not None:
        (tmp_path / run_folder.CONFIG).write_text(settings)
    assert run_folder.resume_command(tmp_path) == f"tfppo resume {tmp_path}{options}"


def test_workers_share_their_settings_and_their_parts_but_not_their_places(tmp_path):
    config = make_text_config(name="a", runs_dir=tmp_path, device="cpu", threads=1, preset=tmp_path)
    parts = TextParts(model_sha256="1" * 64)
    here = dataclasses.replace(config, parts=parts)
    there = with_settings(
        here, {"name": "b", "runs_dir": tmp_path / "b", "device": "gpu", "threads": 2, "onednn": True, "preset": None}
    )
    assert run_folder.shared_settings(here) == run_folder.shared_settings(there)
    for other in (config, dataclasses.replace(here, parts=TextParts("2" * 64)), with_settings(here, {"seed": 2})):
        assert run_folder.shared_settings(other) != run_folder.shared_settings(here)
