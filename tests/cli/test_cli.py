"""Tests the command line. A user's error gives one line on stderr and exit code 2, and writes no files."""

import ast
import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.remedy import carry_out

import tfppo
from tfppo import cli
from tfppo.cli import command_line, parsing
from tfppo.control import evaluate, results, video
from tfppo.control import run as control_run
from tfppo.control.config import ControlConfig, ControlRunConfig
from tfppo.execution.devices import uses_onednn
from tfppo.ppo.config import PPOConfig
from tfppo.settings import from_yaml
from tfppo.training import driver
from tfppo.training.config import RunConfig

TINY = [
    *("--num-envs", "4", "--rollout-length", "8", "--total-steps", "32", "--hidden-units", "8"),
    *("--minibatch-size", "16", "--num-epochs", "1", "--eval-episodes", "2", "--video-episodes", "0"),
    *("--device", "cpu", "--compile-rollout", "eager", "--compile-update", "eager"),
]


def tfppo_process(*arguments, python_options=()):
    """Runs `python -m tfppo` as a user does."""
    return python_process(*python_options, "-m", "tfppo", *arguments)


def python_process(*arguments):
    """Runs Python without the settings of this test session for TensorFlow."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    environment["PYTHONPATH"] = str(Path(tfppo.__file__).parents[1])
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=300)


def assert_one_line(err):
    assert err.startswith("tfppo: "), err
    assert err.endswith("\n") and len(err.splitlines()) == 1, err
    assert len(err) > len("tfppo: \n") and "Traceback" not in err
    assert err[:-1].isprintable() and not set(err) & set("╭│╰─") and "---" not in err, err  # no box, no colors


def contents(folder):
    """Returns the contents of all files below a folder, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory):
    """Returns a folder with two finished runs under their default names, and one of `train control`."""
    folder = tmp_path_factory.mktemp("cli") / "runs"
    assert cli.main(["train", "cartpole", *TINY, "--runs-dir", str(folder)]) == 0
    assert cli.main(["train", "cartpole", *TINY, "--runs-dir", str(folder)]) == 0
    acrobot = ["--env", "CartPole-v1", "--backend", "gymnasium", "--seed", "4"]
    assert cli.main(["train", "control", *TINY, *acrobot, "--runs-dir", str(folder)]) == 0
    return folder


@pytest.fixture
def finished(runs_dir, tmp_path):
    """Returns a copy of a finished run."""
    return Path(shutil.copytree(runs_dir / "cartpole-seed1", tmp_path / "finished"))


def test_training_writes_a_folder_under_a_default_name(runs_dir):
    assert sorted(path.name for path in runs_dir.iterdir()) == [
        "CartPole-v1-seed4",
        "cartpole-seed1",
        "cartpole-seed1-2",
    ]
    for folder in runs_dir.iterdir():
        names = {path.name for path in folder.iterdir() if not path.name.startswith("events.out.tfevents.")}
        assert names == {"config.yaml", "metrics.csv", "curve.png", "evaluation.json", "checkpoints", ".lock"}


def test_options_reach_the_settings(runs_dir):
    text = (runs_dir / "cartpole-seed1" / "config.yaml").read_text()
    modes = {"device": "cpu", "compile_rollout": "eager", "compile_update": "eager"}
    sizes = {"num_envs": 4, "rollout_length": 8, "total_steps": 32, "hidden_units": (8,)} | {
        "eval_episodes": 2,
        "video_episodes": 0,
    }
    modes |= {"threads": len(os.sched_getaffinity(0)), "onednn": uses_onednn()}
    assert from_yaml(ControlRunConfig, text) == ControlRunConfig(
        RunConfig(runs_dir=runs_dir, **modes), ControlConfig(**sizes), PPOConfig(minibatch_size=16, num_epochs=1)
    )
    config = from_yaml(ControlRunConfig, (runs_dir / "CartPole-v1-seed4" / "config.yaml").read_text())
    assert (config.control.env, config.control.backend, config.run.seed) == ("CartPole-v1", "gymnasium", 4)


def test_a_resumed_run_multiplies_matrices_with_the_library_that_it_began_with(finished, capsys):
    settings = finished / "config.yaml"
    other = str(not uses_onednn()).lower()
    settings.write_text(re.sub(r"^  onednn: \w+$", f"  onednn: {other}", settings.read_text(), flags=re.MULTILINE))
    assert cli.main(["resume", str(finished)]) == 2  # this process has the other library
    assert_one_line(capsys.readouterr().err)
    done = tfppo_process("resume", str(finished))
    assert (done.returncode, done.stderr) == (0, "")
    assert python_process("-c", f"import tfppo; tfppo.resume({str(finished)!r})").returncode == 0
    assert f"  onednn: {other}\n" in settings.read_text()


def test_every_setting_is_an_option(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(control_run, "train_control", lambda *arguments: seen.append(arguments))
    options = (
        "--seed 9 --name mine --log-interval 2 --checkpoint-interval 3 --keep-checkpoints 4 --env Acrobot-v1 "
        "--backend gymnasium --vectorization async --double-buffer True --fused True "
        "--num-envs 6 --rollout-length 10 --total-steps 600 "
        "--hidden-units 3 2 --activation relu --shared-trunk True --box-policy squashed --log-std-init -1 "
        "--gsde-interval 2 --normalize-observations False --normalize-rewards True "
        "--target-return -80 --eval-episodes 0 --video-episodes 3 --learning-rate 1e-3 --learning-rate-schedule cosine "
        "--warmup-iterations 2 --clip-ratio 0.1 --clip-ratio-schedule linear --dual-clip 3 --value-clip 0.3 "
        "--value-coeff 1 --entropy-coeff 0 --kl-coeff 0.2 --kl-controller schulman --adaptive-kl-target 0.02 "
        "--kl-horizon 5 --target-kl 0.03 --max-grad-norm None --adam-epsilon 1e-7 --gamma 0.9 --gae-lambda 0.8 "
        "--normalize-advantages False --num-epochs 3 --minibatch-size 20 --num-micro-batches 5 "
        "--compile-rollout xla --compile-update graph --device cpu --deterministic False --threads 7 "
        "--onednn False --distribute none"
    )
    assert cli.main(["train", "control", *options.split(), "--runs-dir", str(tmp_path)]) == 0
    ((config, task, import_seconds),) = seen
    assert task == "Acrobot-v1"
    assert import_seconds >= 0
    assert config == ControlRunConfig(
        RunConfig(9, "mine", tmp_path, "cpu", "xla", "graph", False, 7, False, "none", 2, 3, 4),
        ControlConfig(
            env="Acrobot-v1",
            backend="gymnasium",
            vectorization="async",
            double_buffer=True,
            fused=True,
            num_envs=6,
            rollout_length=10,
            total_steps=600,
            hidden_units=(3, 2),
            activation="relu",
            shared_trunk=True,
            box_policy="squashed",
            log_std_init=-1.0,
            gsde_interval=2,
            normalize_observations=False,
            normalize_rewards=True,
            target_return=-80.0,
            eval_episodes=0,
            video_episodes=3,
        ),
        PPOConfig(
            learning_rate=1e-3,
            learning_rate_schedule="cosine",
            warmup_iterations=2,
            clip_ratio=0.1,
            clip_ratio_schedule="linear",
            dual_clip=3,
            value_clip=0.3,
            value_coeff=1,
            entropy_coeff=0,
            kl_coeff=0.2,
            kl_controller="schulman",
            adaptive_kl_target=0.02,
            kl_horizon=5,
            target_kl=0.03,
            max_grad_norm=None,
            adam_epsilon=1e-7,
            gamma=0.9,
            gae_lambda=0.8,
            normalize_advantages=False,
            num_epochs=3,
            minibatch_size=20,
            num_micro_batches=5,
        ),
    )


def test_plot_draws_runs_into_the_current_folder_and_says_what_it_shows(runs_dir, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    folders = [str(path) for path in sorted(runs_dir.iterdir())]
    before = contents(runs_dir)
    assert cli.main(["plot", *folders, "--metric", "loss/policy"]) == 0  # no episode has finished
    assert capsys.readouterr().out.splitlines() == [
        f"backend=gymnasium, ...: {folders[0]}",
        f"backend=auto, ...: {folders[1]}, {folders[2]}",
        "plot.png shows these runs",
    ]
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main(["plot", "--metric", "loss/policy", "--out", "loss.png", folders[1]]) == 0
    assert capsys.readouterr().out == f"all: {folders[1]}\nloss.png shows these runs\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loss.png", "plot.png"]
    assert contents(runs_dir) == before


def test_plot_does_without_tensorflow(finished, tmp_path):
    arguments = ["plot", str(finished), "--metric", "loss/policy", "--out", str(tmp_path / "a.png")]
    done = tfppo_process(*arguments, python_options=["-X", "importtime"])
    assert done.returncode == 0
    imported = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "matplotlib" in imported and not imported & {"tensorflow", "keras", "gymnasium"}


def test_an_environments_name_becomes_a_folders(monkeypatch):
    tasks = []
    monkeypatch.setattr(control_run, "train_control", lambda config, task, seconds: tasks.append(task))
    assert cli.main(["train", "control", "--env", "ALE/Pong-v5"]) == 0
    assert cli.main(["train", "control"]) == 0
    assert tasks == ["ALE-Pong-v5", "CartPole-v1"]


def test_evaluate_prints_the_evaluation_of_the_run(finished, capsys):
    evaluation = json.loads((finished / "evaluation.json").read_text())
    before = contents(finished)
    assert cli.main(["evaluate", str(finished), "--episodes", "2"]) == 0
    out = capsys.readouterr().out
    assert evaluate.describe(evaluation) in out and evaluation["weights"] in out
    assert "2 episodes" in out and "CartPole-v1" in out
    assert contents(finished) == before


def test_evaluate_takes_a_seed(finished, monkeypatch, capsys):
    seen = []
    numbers = {"episodes": 3, "mean": 9.0, "std": 0.5, "min": 8.0, "max": 10.0}
    evaluation = {"env": "CartPole-v1", "stochastic": numbers | {"mean": 7.0}, "weights": "00ff"} | numbers
    told = evaluate.describe(evaluation)
    monkeypatch.setattr(
        driver, "evaluate", lambda *given, **settings: seen.append((*given[2:], settings)) or (evaluation, told)
    )
    assert cli.main(["evaluate", str(finished)]) == 0
    assert cli.main(["evaluate", str(finished), "--episodes", "3", "--seed", "5"]) == 0
    assert cli.main(["evaluate", str(finished), "--video-episodes", "2"]) == 0
    assert cli.main(["evaluate", str(finished), "--checkpoint", "best", "--env", "my.package:Env-v0"]) == 0
    no_parts = {"env": None, "wrappers": None}
    none, two = {"video_episodes": 0}, {"video_episodes": 2}
    assert seen == [
        (100, None, "latest", no_parts, none),
        (3, 5, "latest", no_parts, none),
        (100, None, "latest", no_parts, two),
        (100, None, "best", {"env": "my.package:Env-v0", "wrappers": None}, none),
    ]
    out = capsys.readouterr().out
    assert (
        "weights 00ff (SHA-256)" in out
        and "over 3 episodes" in out
        and "9.000 +- 0.500" in out
        and "7.000 +- 0.500" in out
    )


def test_export_says_how_to_load_what_it_wrote(finished, capsys):
    before = contents(finished)
    for _ in range(2):
        assert cli.main(["export", str(finished)]) == 0
        out, err = capsys.readouterr()
        assert len(out.splitlines()) == 1 and err == "" and f'tf.saved_model.load("{finished / "export"}")' in out
        assert {name: data for name, data in contents(finished).items() if not name.startswith("export/")} == before
    assert (finished / "export" / "saved_model.pb").exists()


@pytest.mark.slow
def test_a_video_wants_no_window_and_makes_no_noise(finished, monkeypatch):
    for name in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER", "PYGAME_HIDE_SUPPORT_PROMPT", "DISPLAY", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    done = tfppo_process("evaluate", str(finished), "--episodes", "1", "--video-episodes", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == f"{finished / 'video.gif'} shows a greedy episode of CartPole-v1"
    assert len(done.stdout.splitlines()) == 3
    assert (finished / "video.gif").read_bytes().startswith(b"GIF89a")


def test_resume_of_a_finished_run_works(finished, capsys):
    rows = (finished / "metrics.csv").read_bytes()
    assert cli.main(["resume", str(finished)]) == 0
    assert (finished / "metrics.csv").read_bytes() == rows
    out = capsys.readouterr().out
    assert str(finished) in out and "the run is finished, so it is not trained further" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["train", "resume", "evaluate", "export"]),
        (["train"], ["train", "resume", "evaluate", "cartpole", "control"]),
        (["train", "cartpole"], ["--learning-rate", "--clip-ratio", "--num-envs", "--seed", "--seeds", "--runs-dir"]),
        (["train", "text"], ["--seeds"]),
        (["plot"], ["--out", "--metric", "plot.png"]),
        (["evaluate"], ["--episodes", "--seed"]),
        (["resume"], ["PATH"]),
        (["export"], ["PATH", "SavedModel", "preset"]),
    ],
)
def test_help_names_what_there_is(arguments, words, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([*arguments, "--help"])
    assert end.value.code in (0, None)
    out, err = capsys.readouterr()
    wanted = words if arguments != ["train"] else ["cartpole", "control"]
    assert all(word in out for word in wanted), out
    assert err == ""


@pytest.mark.parametrize(
    ("arguments", "default"),
    [
        (["train", "control", "--env", "Pendulum-v1"], "gsde"),
        (["train", "control", "--env=Pendulum-v1"], "gsde"),
        (["train", "control"], "normal"),  # not affected by the previous environment
        (["train", "cartpole", "--env", "Pendulum-v1"], "normal"),
        (["bench", "--env", "Pendulum-v1"], "gsde"),
    ],
)
def test_help_shows_the_environments_recipe(arguments, default, capsys):
    with pytest.raises(SystemExit):
        cli.main([*arguments, "--help"])
    words = re.sub(r"[\s│|]+", " ", capsys.readouterr().out)
    assert f"noise (gSDE, Raffin et al. 2022). (default: {default})" in words


def test_help_answers_before_tensorflow_is_imported():
    done = tfppo_process("--help", python_options=["-X", "importtime"])
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("train", "resume", "evaluate"))
    imported = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "tfppo" in imported and "tyro" in imported  # otherwise the output was not parsed
    assert not imported & {"tensorflow", "keras", "tensorboard", "gymnasium", "matplotlib", "tensorflow_probability"}


CONTROL = ["train", "control"]
CARTPOLE = ["train", "cartpole"]
LONG = "some/" + "name-that-is-too-long-for-a-narrow-terminal-" * 3


@pytest.mark.fault(
    "A command has an unknown option or an invalid value", "A one-line error, exit code 2. No file is created."
)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["train", "resume", "evaluate"]),
        (["nope"], ["nope"]),
        (["train"], ["cartpole", "control"]),
        (["train", "chess"], ["chess"]),
        ([*CARTPOLE, "--no-such-option", "3"], ["--no-such-option"]),
        ([*CARTPOLE, "--learnin-rate", "3"], ["--learnin-rate", "--learning-rate"]),
        ([*CARTPOLE, "--learning-rate", "nan"], ["learning_rate", "nan"]),
        ([*CARTPOLE, "--learning-rate", "inf"], ["learning_rate", "inf"]),
        ([*CARTPOLE, "--learning-rate", "-1"], ["learning_rate", "-1"]),
        ([*CARTPOLE, "--learning-rate", "fast"], ["--learning-rate", "fast"]),
        ([*CARTPOLE, "--learning-rate"], ["--learning-rate"]),
        ([*CARTPOLE, "--target-return", "nan"], ["target_return", "nan"]),
        ([*CARTPOLE, "--num-envs", "0"], ["num_envs", "0"]),
        ([*CARTPOLE, "--num-envs", "2.5"], ["--num-envs", "2.5"]),
        ([*CARTPOLE, "--seed", "-1"], ["seed", "-1"]),
        ([*CARTPOLE, "--seed", "1", "--seeds", "2,3"], ["--seed and --seeds", "give --seed"]),
        ([*CARTPOLE, "--seeds=2,3", "--seed=1"], ["--seed and --seeds", "give --seed"]),
        ([*CARTPOLE, "--seeds", "1,1"], ["seeds", "1,1", "once"]),
        ([*CARTPOLE, "--seeds", "-1,2"], ["seeds"]),
        ([*CARTPOLE, "--seeds", ""], ["seeds", "1,2,3"]),
        (["train", "text", "--seeds", "one"], ["seeds", "one"]),
        ([*CARTPOLE, "--backend", "jax"], ["--backend", "jax", "graph"]),
        ([*CARTPOLE, "--total-steps", "10"], ["total_steps", "10"]),
        ([*CARTPOLE, "--minibatch-size", "100"], ["minibatch_size = 100", "4096"]),
        ([*CARTPOLE, "--minibatch-size", "1024", "--num-micro-batches", "3"], ["num_micro_batches = 3"]),
        ([*CARTPOLE, "--kl-controller", "ziegler"], ["kl_controller", "kl_coeff"]),
        ([*CARTPOLE, "--warmup-iterations", "64"], ["warmup_iterations is 64"]),
        ([*CARTPOLE, "--name", "a/b"], ["name", "a/b"]),
        ([*CONTROL, "--env", "Nope-v1"], ["Nope"]),
        ([*CONTROL, "--env", "Nope-v1", "--backend", "graph"], ["Nope-v1", "CartPole-v1"]),
        ([*CONTROL, "--env", "Nope-v1", "--backend", "gymnasium"], ["Nope"]),
        ([*CONTROL, "--env", "CartPole-v99"], ["CartPole", "v99"]),
        ([*CONTROL, "--env", ""], ["environment"]),
        ([*CONTROL, "--env", "no_module:Nope-v1"], ["no_module"]),
        ([*CONTROL, "--env", "Pendulum-v1", "--box-policy", "beta"], ["--box-policy", "beta", "gsde"]),
        ([*CONTROL, "--env", "Pendulum-v1", "--hidden-units"], ["gsde", "hidden_units"]),
        ([*CONTROL, "--env", "FrozenLake-v1", "--fused", "True"], ["fused", "in-graph"]),
        ([*CONTROL, "--env", "FrozenLake-v1", "--vectorization", "native"], ["FrozenLake-v1 has no native form"]),
        (["evaluate"], ["Folder"]),
        (["evaluate", "nowhere"], ["nowhere"]),
        (["generate", "nowhere", "--prompt", "a", "--seed", "9" * 20], ["seed", "2**31", "9" * 20]),
        ([*CARTPOLE, "--vectorization", "async"], ["vectorization is async", "--backend gymnasium"]),
        (
            [*CARTPOLE, "--vectorization", "async", "--double-buffer", "True"],
            ["vectorization is async with double_buffer", "CartPole-v1", "--backend gymnasium"],
        ),
        (["evaluate", "nowhere", "--episodes", "many"], ["--episodes", "many"]),
        (["evaluate", "nowhere", "elsewhere"], ["elsewhere"]),
        (["plot"], ["folders"]),
        (["plot", "nowhere"], ["nowhere"]),
        (["plot", "nowhere", "--out", "curve.txt"], ["curve.txt", ".png"]),
        (["resume"], ["Folder"]),
        (["resume", "nowhere"], ["nowhere"]),
        (["resume", "."], ["."]),
        (["export"], ["Folder"]),
        (["export", "nowhere"], ["nowhere"]),
        (["export", "."], ["."]),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(arguments, words, tmp_path, monkeypatch, capfd, recwarn):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    out, err = capfd.readouterr()
    assert_one_line(err)
    assert all(word in err for word in words), err
    assert out == ""
    assert list(tmp_path.iterdir()) == []
    assert [warning for warning in recwarn if issubclass(warning.category, UserWarning)] == []


KINDS = {"control": "control: {}\n", "text": "text: {}\n"}


@pytest.mark.parametrize(
    ("kind", "options", "complaint"),
    [
        ("control", ["--episodes", "0"], "episodes is 0; it must be at least 1"),
        ("control", ["--prompts", "5"], "is a control run, which has no prompts: leave --prompts out"),
        ("control", ["--prompts", "0"], "is a control run, which has no prompts: leave --prompts out"),
        ("control", ["--reward", "a:b"], "is a control run, which has no reward: leave --reward out"),
        ("control", ["--seed", "9" * 20], f"seed is {'9' * 20}; it must be between 0 and 2**31 - 1"),
        ("control", ["--seed", "-1"], "seed is -1; it must be between 0 and 2**31 - 1"),
        ("text", ["--prompts", "0"], "prompts is 0; it must be at least 1"),
        ("text", ["--episodes", "5"], "is a text run, which has no episodes: leave --episodes out"),
        ("text", ["--video-episodes", "1"], "is a text run, which has no video_episodes: leave --video-episodes out"),
        ("text", ["--env", "a:b"], "is a text run, which has no env: leave --env out"),
        ("text", ["--seed", "2147483648"], "seed is 2147483648; it must be between 0 and 2**31 - 1"),
    ],
)
def test_evaluate_refuses_what_does_not_fit_the_run(kind, options, complaint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tfppo.cli.runs.import_tensorflow", lambda *settings: pytest.fail("that takes seconds"))
    (tmp_path / "config.yaml").write_text(KINDS[kind])
    assert cli.main(["evaluate", str(tmp_path), *options]) == 2
    err = capsys.readouterr().err
    assert_one_line(err)
    assert complaint in err


def test_a_name_that_is_taken_is_refused(finished, capsys):
    before = contents(finished)
    assert cli.main([*CARTPOLE, *TINY, "--name", finished.name, "--runs-dir", str(finished.parent)]) == 2
    err = capsys.readouterr().err
    assert_one_line(err)
    assert str(finished) in err
    assert contents(finished) == before
    assert [path.name for path in finished.parent.iterdir()] == [finished.name]
    carry_out(err)
    assert (finished / "metrics.csv").read_bytes() == before["metrics.csv"]


def test_a_runs_dir_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert cli.main([*CARTPOLE, *TINY, "--runs-dir", str(tmp_path / "file")]) == 2
    err = capsys.readouterr().err
    assert_one_line(err)
    assert str(tmp_path / "file") in err and "--runs-dir" in err
    assert contents(tmp_path) == {"file": b"in the way"}


@pytest.mark.fault(
    "`tfppo resume`, `evaluate` or `export` on a run with a damaged checkpoint",
    "A one-line error names the checkpoint. The files stay unchanged.",
)
@pytest.mark.parametrize("command", ["resume", "evaluate", "export"])
def test_a_damaged_checkpoint_is_refused_and_the_run_left_alone(finished, command, capsys):
    data = finished / "checkpoints" / "000001" / "state.npz"
    data.write_bytes(data.read_bytes()[:100])
    before = contents(finished)
    assert cli.main([command, str(finished)]) == 2
    err = capsys.readouterr().err
    assert_one_line(err)
    assert str(finished / "checkpoints" / "000001") in err and "restore this one from a copy" in err
    assert contents(finished) == before


@pytest.mark.parametrize("command", ["resume", "evaluate", "export"])
def test_a_run_without_a_checkpoint_is_refused(finished, command, capsys):
    shutil.rmtree(finished / "checkpoints")
    before = contents(finished)
    assert cli.main([command, str(finished)]) == 2
    err = capsys.readouterr().err
    assert_one_line(err)
    assert "is a finished run, but its checkpoints were deleted: restore them from a copy" in err
    assert contents(finished) == before


def test_a_run_that_stopped_before_its_first_checkpoint_is_to_be_resumed(finished, capsys):
    shutil.rmtree(finished / "checkpoints")
    (finished / "curve.png").unlink()
    assert cli.main(["evaluate", str(finished), "--episodes", "1"]) == 2
    err = capsys.readouterr().err
    assert_one_line(err)
    carry_out(err)
    assert cli.main(["evaluate", str(finished), "--episodes", "1"]) == 0


def test_a_damaged_config_is_refused(finished, capsys):
    (finished / "config.yaml").write_text("control: {num_envs: many}")
    assert cli.main(["evaluate", str(finished)]) == 2
    err = capsys.readouterr().err
    assert_one_line(err)
    assert "num_envs" in err and str(finished / "config.yaml") in err


def test_a_process_fails_with_one_line_in_spite_of_tensorflow(finished):
    """The checkpoint has other networks: TensorFlow is imported and prints messages, which are suppressed."""
    config = (finished / "config.yaml").read_text()
    (finished / "config.yaml").write_text(config.replace("hidden_units:\n  - 8\n", "hidden_units:\n  - 9\n"))
    done = tfppo_process("evaluate", str(finished), "--episodes", "2")
    assert done.returncode == 2
    assert_one_line(done.stderr)
    assert str(finished / "checkpoints" / "000001") in done.stderr
    assert done.stdout == ""


class Terminal(io.StringIO):
    """A standard output with the properties of a terminal that affect tyro's output."""

    def __init__(self, encoding):
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self):
        return self._encoding

    def isatty(self):
        return True


@pytest.mark.parametrize("columns", ["30", "80", "300"])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            [*CARTPOLE, "--no-such-option", "3"],
            "unrecognized arguments: --no-such-option, 3; help: tfppo train cartpole --help",
        ),
        (["train"], "a command is missing: give one of cartpole, control, text; help: tfppo train --help"),
        (
            [*CARTPOLE, "--name", LONG],
            f"name is {LONG!r}; it must be a folder name of printable characters without slashes; "
            "help: tfppo train cartpole --help",
        ),
    ],
    ids=["unknown", "missing", "long"],
)
def test_a_terminal_gets_the_same_line(arguments, text, encoding, columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "xterm-256color")
    with contextlib.redirect_stdout(Terminal(encoding)) as terminal:
        assert cli.main(arguments) == 2
    assert terminal.getvalue() == ""
    err = capsys.readouterr().err
    assert_one_line(err)
    assert err == f"tfppo: {text}\n"
    assert os.environ["COLUMNS"] == columns


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            [*CARTPOLE, "--learning-rat", "0.1"],
            "--learning-rat, 0.1; perhaps you meant --learning-rate or --learning-rate-schedule",
        ),
        (["train", "text", "--taks", "length"], "--taks, length; perhaps you meant --task"),
        (["evaluate", "runs/mine", "--sed", "2"], "--sed, 2; perhaps you meant --seed"),  # evaluate has no --seeds
        (["pretrain", "--num-env", "2"], "--num-env, 2"),  # pretrain has no --num-envs
    ],
)
def test_a_misspelt_option_gets_the_names_of_similar_ones(arguments, text, capsys):
    assert cli.main(arguments) == 2
    command = " ".join(["tfppo", *arguments[: arguments.index(text.partition(",")[0])]]).removesuffix(" runs/mine")
    assert capsys.readouterr().err == f"tfppo: unrecognized arguments: {text}; help: {command} --help\n"


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("", []),
        ("", ["nope"]),
        ("train", []),
        ("train", ["chess"]),
        ("evaluate", []),  # the folder is missing
        ("evaluate", ["runs/mine", "elsewhere"]),
        ("generate", ["runs/mine"]),  # the prompt is missing
        ("generate", ["runs/mine", "--top-p", "2", "--prompt", "a"]),
        ("train cartpole", ["--backend", "jax"]),
        ("train cartpole", ["--learning-rate", "fast"]),
        ("train cartpole", ["--learning-rate", "-1"]),
        ("train cartpole", ["--learning-rate"]),
        ("train cartpole", ["--no-such-option", "3"]),
        ("train control", ["--num-envs", "0"]),
        ("train text", ["--seeds", "one"]),
    ],
)
def test_a_mistake_ends_with_where_help_is(command, arguments, capsys):
    assert cli.main([*command.split(), *arguments]) == 2
    program = " ".join(["tfppo", *command.split()])
    assert capsys.readouterr().err.endswith(f"; help: {program} --help\n")


def test_an_interrupt_is_one_line(monkeypatch, tmp_path, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(control_run, "train_control", interrupted)
    assert cli.main([*CARTPOLE, "--runs-dir", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "tfppo: interrupted\n"


@pytest.mark.fault(
    "Ctrl-C while the curve, the evaluation or the video is made",
    "A line gives the command to resume, which makes them again.",
)
@pytest.mark.parametrize(
    ("module", "where"),
    [
        pytest.param(results, "plot_curve", marks=pytest.mark.slow),
        (evaluate, "play_episodes"),
        pytest.param(video, "record_episodes", marks=pytest.mark.slow),
    ],
)
def test_an_interrupt_behind_the_training_says_how_to_go_on(module, where, heard_ctrl_c, monkeypatch, tmp_path, capsys):
    folder = tmp_path / "mine"
    monkeypatch.setattr(module, where, lambda *_, **__: signal.raise_signal(signal.SIGINT))
    options = ["--video-episodes", "1", "--name", "mine", "--runs-dir", str(tmp_path)]
    assert cli.main([*CARTPOLE, *TINY, *options]) == 130
    assert capsys.readouterr().err == f"tfppo: interrupted; resume with: tfppo resume {folder}\n"
    rows = (folder / "metrics.csv").read_bytes()
    monkeypatch.undo()
    assert cli.main(["resume", str(folder)]) == 0
    assert (folder / "metrics.csv").read_bytes() == rows
    assert all((folder / name).exists() for name in ("evaluation.json", "curve.png", "video.gif"))


@pytest.mark.fault("Ctrl-C before the first iteration", "A line gives the command to resume.")
def test_an_interrupt_before_the_training_says_how_to_go_on(heard_ctrl_c, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(driver, "TensorBoardWriter", lambda *_: signal.raise_signal(signal.SIGINT))
    assert cli.main([*CARTPOLE, *TINY, "--name", "mine", "--runs-dir", str(tmp_path)]) == 130
    assert capsys.readouterr().err == f"tfppo: interrupted; resume with: tfppo resume {tmp_path / 'mine'}\n"
    monkeypatch.undo()
    assert cli.main(["resume", str(tmp_path / "mine")]) == 0


def test_a_defect_keeps_its_trace(monkeypatch, tmp_path):
    def broken(*arguments):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(control_run, "train_control", broken)
    with pytest.raises(ZeroDivisionError, match="a defect"):
        cli.main([*CARTPOLE, "--runs-dir", str(tmp_path)])


def test_a_closed_pipe_is_no_stack_trace():
    """As in `tfppo train text --help | head -1`."""
    command = [sys.executable, "-m", "tfppo", "train", "text", "--help"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 141


def test_the_version_is_printed(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"tfppo {tfppo.__version__}\n"


def test_every_option_that_a_message_names_exists():
    """Strings of the package that name an option, for example "set --device cpu"."""
    options = {"--help", "--version", "--logdir"}  # the last is TensorBoard's
    for command in all_commands(command_line.COMMANDS):
        options |= set(parsing._options(command))
    named = set()
    for path in Path(tfppo.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named |= set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", node.value))
    unknown = {name for name in named if name not in options and not name.startswith(("--xla", "--tf"))}
    assert unknown <= NOT_OURS, unknown


PIP = {
    "--no-binary",
    "--only-binary",
    "--no-deps",
    "--hash",
    "--require-hashes",
    "--disable-pip-version-check",
    "--quiet",
}
NOT_OURS = {"--compile-", "--option"} | PIP  # the start of options, an example, and those of pip


def all_commands(group):
    for command in group.commands.values():
        yield from all_commands(command) if isinstance(command, parsing.Group) else [command]
