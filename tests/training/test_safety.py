"""Tests that a run's folder from somebody else runs no code: modules are imported only if the user names them."""

import ast
import shutil
import sys
from pathlib import Path

import pytest

import tfppo
from tfppo import cli
from tfppo.control.config import ControlRunConfig
from tfppo.control.envs.environment import IN_GRAPH_ENVIRONMENTS
from tfppo.settings import to_yaml
from tfppo.text.config import TextRunConfig
from tfppo.training import run_folder

TINY = [
    *("--num-envs", "4", "--rollout-length", "8", "--total-steps", "32", "--hidden-units", "8"),
    *("--minibatch-size", "16", "--num-epochs", "1", "--eval-episodes", "0", "--video-episodes", "0"),
    *("--device", "cpu", "--compile-rollout", "eager", "--compile-update", "eager"),
]
MODULES = {path: ast.parse(path.read_text()) for path in sorted(Path(tfppo.__file__).parent.rglob("*.py"))}
RUN_CODE = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "runpy", "code", "subprocess", "ctypes"}
MAY_IMPORT_BY_NAME = {  # modules that may import by name, and where the name comes from
    "__init__.py": "_PUBLIC[public]",
    "deprecated.py": "MODULES[old]",
    "cli/runs.py": "'tfppo.text.run' if is_text else 'tfppo.control.run'",
    "control/envs/envpool.py": "'envpool'",
    "training/user_modules.py": "module_name",  # the user's
}
MAY_START_PROCESSES = ("text/data/archives.py",)  # pip, with fixed arguments


def dangers(tree, name=""):
    """Returns the calls in a module that could run somebody else's code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            named = [alias.name for alias in node.names]
            roots = {n.split(".")[0] for n in ([node.module] if isinstance(node, ast.ImportFrom) else named)}
            yield from roots & RUN_CODE - ({"subprocess"} if name in MAY_START_PROCESSES else set())
            yield from {"system", "popen", "unsafe_load", "enable_unsafe_deserialization"} & set(named)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called in ("eval", "exec", "compile", "__import__") or called.endswith((".system", ".popen")):
                yield called
            if called.startswith("yaml.") and called not in ("yaml.safe_load", "yaml.safe_dump"):
                yield called
            if called in ("np.load", "numpy.load") and options.get("allow_pickle") != "False":
                yield called
            if options.get("allow_pickle", "False") != "False" or options.get("safe_mode", "True") != "True":
                yield called
            if called.endswith((".load_model", ".model_from_json")) and options.get("safe_mode") != "True":
                yield called
            if called.endswith(("enable_unsafe_deserialization", "saved_model.load", "model_from_json")):
                yield called
            if called.endswith("import_module") and ast.unparse(node.args[0]) != MAY_IMPORT_BY_NAME.get(name):
                yield called
            if called.endswith(".from_preset") and name not in (
                "text/presets/folder.py",
                "text/presets/hugging_face.py",
            ):  # which check it
                yield called


@pytest.mark.parametrize("path", list(MODULES), ids=lambda path: path.stem)
def test_no_module_can_run_what_a_file_holds(path):
    assert list(dangers(MODULES[path], str(path.relative_to(Path(tfppo.__file__).parent)))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from marshal import loads",
        "from os import system",
        "eval('1')",
        "def f():\n    exec('1')",
        "__import__('evil')",
        "os.system('ls')",
        "yaml.load(text, yaml.Loader)",
        "yaml.unsafe_load(text)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "keras.saving.load_model(path)",
        "keras.saving.load_model(path, safe_mode=False)",
        "keras.config.enable_unsafe_deserialization()",
        "tf.saved_model.load(path)",
        "importlib.import_module(name)",
        "keras_hub.models.CausalLM.from_preset('gpt2_base_en')",
    ],
)
def test_a_danger_would_be_found(code):
    assert list(dangers(ast.parse(code)))


@pytest.mark.parametrize(
    ("function", "callers"),
    [
        ("import_named", ["control/envs/registration.py", "training/user_modules.py"]),
        ("load_named", ["control/envs/options.py", "text/rewards/callables.py", "text/tasks/definition/registry.py"]),
        (
            "registered_id",
            [
                *["control/assembly.py"] * 2,
                *["control/envs/vector.py"] * 4,
                "control/envs/workers.py",
                "control/video.py",
            ],
        ),
        ("load_reward", ["text/rewards/callables.py"]),
    ],
)
def test_modules_of_the_users_are_imported_in_these_places_only(function, callers):
    calls = [
        str(path.relative_to(Path(tfppo.__file__).parent))
        for path, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(function)
    ]
    assert calls == callers


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """Creates a module in the current folder that registers an environment, and writes a file when it is imported."""
    here, mark = tmp_path / "here", tmp_path / "was_here"
    here.mkdir()
    (here / "evil.py").write_text(
        f"open({str(mark)!r}, 'w').close()\n"
        "from tfppo import register_environment\n"
        "from tfppo.control.envs.classic import CartPole\n"
        "register_environment('Evil-v0', CartPole)\n"
    )
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(here)
    yield mark
    sys.modules.pop("evil", None)
    IN_GRAPH_ENVIRONMENTS.pop("Evil-v0", None)


def refused(capsys, *arguments):
    """Returns the single line on stderr of a command that must fail."""
    capsys.readouterr()
    assert cli.main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("tfppo: ") and len(err.splitlines()) == 1, err
    return err


@pytest.mark.fault(
    "`config.yaml` names a Python module as the environment",
    "The module is imported only if the command line names it too (`--env`).",
)
@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("CartPole-v1", "gymnasium"),
        pytest.param("Evil-v0", "graph", marks=pytest.mark.slow),
        pytest.param("Evil-v0", "auto", marks=pytest.mark.slow),
    ],
)
def test_an_environments_module_is_imported_only_if_the_user_names_it(evil, tmp_path, capsys, name, backend):
    env, runs_dir = f"evil:{name}", tmp_path / "runs"
    options = ["--env", env, "--backend", backend, *TINY, "--name", "a", "--runs-dir", str(runs_dir)]
    assert cli.main(["train", "control", *options]) == 0
    assert evil.exists()  # from the user's own command line
    del sys.modules["evil"]
    IN_GRAPH_ENVIRONMENTS.pop("Evil-v0")
    evil.unlink()
    folder = runs_dir / "a"
    for command in ("resume", "evaluate", "export"):
        err = refused(capsys, command, folder)
        assert "config.yaml names the env" in err and f"--env {env}" in err
        assert "evil:Acrobot-v1" in refused(capsys, command, folder, "--env", "evil:Acrobot-v1")
    assert not evil.exists() and "evil" not in sys.modules and not (folder / "export").exists()
    assert cli.main(["evaluate", str(folder), "--env", env, "--episodes", "1"]) == 0
    assert evil.exists()
    assert cli.main(["export", str(folder), "--env", env]) == 0
    assert cli.main(["resume", str(folder), "--env", env]) == 0


def stranger(folder, text):
    """Creates a run's folder with only its settings, which are read before anything else."""
    folder.mkdir()
    (folder / run_folder.CONFIG).write_text(text)
    return folder


@pytest.mark.parametrize("backend", ["auto", "graph", "gymnasium"])
@pytest.mark.parametrize("vectorization", ["auto", "native", "sync", "async"])
def test_no_backend_imports_it_otherwise(evil, tmp_path, capsys, backend, vectorization):
    text = f"control:\n  env: evil:CartPole-v1\n  backend: {backend}\n  vectorization: {vectorization}\n"
    assert "names the env" in refused(capsys, "evaluate", stranger(tmp_path / "run", text))
    assert not evil.exists()


@pytest.mark.fault(
    "`config.yaml` names a Python function as the reward",
    "The module is imported only if the command line names it too (`--reward`).",
)
@pytest.mark.parametrize("command", ["resume", "evaluate"])
def test_a_reward_is_imported_only_if_the_user_names_it(evil, tmp_path, capsys, command):
    folder = stranger(tmp_path / "run", "text:\n  task: length\n  reward: evil:score\n")
    err = refused(capsys, command, folder)
    assert "config.yaml names the reward 'evil:score'" in err and "--reward evil:score" in err
    assert "evil:other" in refused(capsys, command, folder, "--reward", "evil:other")
    assert not evil.exists()
    refused(capsys, command, folder, "--reward", "evil:score")  # the module defines no such function
    assert evil.exists()


@pytest.mark.fault(
    "`config.yaml` contains YAML tags that create Python objects", "A one-line error. No object is created."
)
@pytest.mark.parametrize("command", ["resume", "evaluate", "generate", "export", "plot"])
@pytest.mark.parametrize(
    "payload",
    [
        "!!python/object/apply:os.system ['touch MARK']",
        "!!python/object/apply:builtins.open [MARK, w]",
        "!!python/object/new:os.system ['touch MARK']",
        "!!python/module:evil",
        "!!python/name:evil.score",
        "{env: !!python/object/apply:os.system ['touch MARK']}",
    ],
)
@pytest.mark.parametrize("part", ["control", "text"])
def test_tags_of_yaml_make_no_objects(evil, tmp_path, capsys, command, payload, part):
    folder = stranger(tmp_path / "run", f"{part}: {payload.replace('MARK', str(evil))}\n")
    err = refused(capsys, command, folder, *(["--prompt", "It"] if command == "generate" else []))
    assert "python" in err or "is a control run" in err
    assert not evil.exists()


@pytest.mark.parametrize("command", ["resume", "evaluate", "export"])
def test_an_option_of_the_other_kind_of_run_is_refused(tmp_path, capsys, command):
    control = stranger(tmp_path / "control", to_yaml(ControlRunConfig()))
    text = stranger(tmp_path / "text", to_yaml(TextRunConfig()))
    assert "text run, which has no env" in refused(capsys, command, text, "--env", "CartPole-v1")
    if command != "export":
        assert "control run, which has no reward" in refused(capsys, command, control, "--reward", "evil:score")
        assert "has no reward of its own" in refused(capsys, command, text, "--reward", "evil:score")


@pytest.mark.fault("The folder of a run contains a Python module", "The module is not imported.")
def test_what_a_folder_holds_beside_its_files_is_not_imported(evil, tmp_path, capsys):
    """A module in the run's folder must not be imported either."""
    folder = stranger(tmp_path / "run", "control:\n  env: evil:CartPole-v1\n")
    shutil.copy("evil.py", folder)
    assert "names the env" in refused(capsys, "export", folder)
    assert not evil.exists()


@pytest.mark.fault(
    "The folder of a run contains symbolic links", "A one-line error names the link. Its target stays unchanged."
)
@pytest.mark.parametrize("command", ["resume", "evaluate", "export", "generate"])
@pytest.mark.parametrize(
    "name", ["checkpoints", "metrics.csv", "samples.jsonl", ".lock", "events.out.tfevents.1", run_folder.ROLLOUTS]
)
def test_a_folder_with_links_is_not_written_to(tmp_path, capsys, command, name):
    """Otherwise the command would truncate or remove files that do not belong to the run."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".profile").write_text("mine")
    folder = stranger(tmp_path / "run", to_yaml(TextRunConfig() if command == "generate" else ControlRunConfig()))
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).symlink_to(home if name == "checkpoints" else home / ".profile")
    options = ["--prompt", "It"] if command == "generate" else []
    assert f"{folder / name} is a symbolic link" in refused(capsys, command, folder, *options)
    assert (home / ".profile").read_text() == "mine" and (home / ".ssh").is_dir()
