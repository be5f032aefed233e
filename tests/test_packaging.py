"""Tests that the wheel and the source distribution contain the package and its assets, and work without a checkout."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
LARGEST = 20 * 10**6  # maximum size of the wheel, in bytes
CARTPOLE = (
    "train cartpole --num-envs 4 --rollout-length 8 --total-steps 32 --minibatch-size 16 --num-epochs 1 --name control "
    "--eval-episodes 1 --video-episodes 0 --device cpu --compile-rollout eager --compile-update eager"
)
TEXT = (
    "train text --iterations 1 --batch-size 4 --minibatch-size 4 --response-length 4 --num-epochs 1 --name text "
    "--eval-prompts 2 --device cpu --compile-rollout graph --compile-update graph"
)


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Builds the wheel and the source distribution from a copy of the sources, because a build writes files there."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    shutil.copytree(ROOT / "tfppo", source / "tfppo", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "build", "--outdir", folder, source, cwd=folder)  # the wheel from the sdist
    return {path.suffix: path for path in folder.iterdir()}


@pytest.fixture(params=[".whl", ".gz"])
def installed(request, built, tmp_path):
    """Returns the `bin` folder of an environment in which one of the two is installed."""
    venv.create(tmp_path / "venv", with_pip=True)
    (libraries,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    # Reuse the installed dependencies, because installing them takes minutes.
    ours = [path for path in sys.path if path.endswith("site-packages")]
    (libraries / "dependencies.pth").write_text("\n".join(ours))
    # They must meet the requirements of the wheel. A source distribution is built with setuptools of the index.
    option = "--no-index" if request.param == ".whl" else "--no-deps"
    programs = tmp_path / "venv" / "bin"
    run(programs / "python", "-m", "pip", "install", "--quiet", option, built[request.param], cwd=tmp_path)
    return programs


def test_they_are_well_formed_and_small(built):
    assert sorted(built) == [".gz", ".whl"]
    run(sys.executable, "-m", "twine", "check", "--strict", *built.values())
    assert built[".whl"].stat().st_size < LARGEST


def test_the_wheel_holds_every_file_of_the_package(built):
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "tfppo").rglob("*") if path.is_file()}
    names = zipfile.ZipFile(built[".whl"]).namelist()
    assert {name for name in names if ".dist-info/" not in name} == {f for f in files if "__pycache__" not in f}
    assert any(name.endswith("LICENSE") for name in names)


def test_what_is_installed_trains_outside_of_a_checkout(installed, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TF_"))}
    place = run(installed / "python", "-c", "import tfppo; print(tfppo.__file__)", cwd=tmp_path, env=environment)
    assert place.startswith(str(tmp_path / "venv"))
    for arguments in (CARTPOLE, TEXT):
        run(installed / "tfppo", *arguments.split(), cwd=tmp_path, env=environment)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["control", "text"]
    assert all((folder / "evaluation.json").exists() for folder in (tmp_path / "runs").iterdir())
