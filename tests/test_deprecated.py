"""Tests that names of version 0.1 still work, with a warning that has the current name."""

import importlib.util
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import tfppo
from tfppo import cli, deprecated
from tfppo.control import run as control_run
from tfppo.control.config import ControlRunConfig
from tfppo.control.recipes import make_control_config
from tfppo.settings import from_yaml, to_yaml
from tfppo.text.config import TextRunConfig
from tfppo.text.defaults import make_text_config

USES = {  # a line of a user's program, and the text of its warning
    "from tfppo import control_run": "tfppo.control_run is now called tfppo.make_control_config",
    "import tfppo; tfppo.text_run()": "tfppo.text_run is now called tfppo.make_text_config",
    "import tfppo.random": "tfppo.random is now called tfppo.ops.random",
    "from tfppo.random import uniform": "tfppo.random is now called tfppo.ops.random",
    "from tfppo.config import PPOConfig, ControlConfig, RunConfig": "tfppo.config is now called tfppo",
    "import tfppo; tfppo.make_control_config(kl_target=2.0)": "the setting kl_target is now called adaptive_kl_target",
    "import tfppo; tfppo.make_text_config(kl_rule='fixed')": "the setting kl_rule is now called kl_controller",
}


@pytest.mark.parametrize(("old", "new"), deprecated.NAMES.items())
def test_an_old_public_name_is_the_new_one(old, new):
    with pytest.warns(DeprecationWarning, match=f"tfppo.{old} is now called tfppo.{new}"):
        assert getattr(tfppo, old) is getattr(tfppo, new)
    assert old not in tfppo.__all__


@pytest.mark.slow
def test_users_are_shown_their_own_lines(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("\n".join(USES))
    done = subprocess.run(
        [sys.executable, str(program)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(Path(tfppo.__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr
    expected = {f"{program}:{line}: DeprecationWarning: {text};" for line, text in enumerate(USES.values(), 1)}
    expected = {warning for warning in expected if not warning.startswith(f"{program}:4:")}  # line 3 imported it
    shown = [line for line in done.stderr.splitlines() if "DeprecationWarning" in line]
    assert {line.partition(";")[0] + ";" for line in shown} == expected and len(shown) == len(expected), done.stderr


def test_an_old_module_is_the_new_one():
    with pytest.warns(DeprecationWarning, match="tfppo.text.preferences is now called tfppo.text.rewards.reward_model"):
        from tfppo.text.preferences import RewardModel  # as in README.md of version 0.1
    from tfppo.text.rewards import reward_model

    assert RewardModel is reward_model.RewardModel
    spec = reward_model.__spec__
    assert (reward_model.__name__, spec.name) == ("tfppo.text.rewards.reward_model",) * 2


def test_a_module_of_an_old_package_is_not_loaded_twice():
    with pytest.warns(DeprecationWarning):
        from tfppo.control.classic.cartpole import CartPole
    from tfppo.control.envs.classic import cartpole

    assert CartPole is cartpole.CartPole


@pytest.mark.parametrize(("old", "new"), deprecated.MODULES.items())
def test_every_old_module_has_its_place(old, new):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert importlib.util.find_spec(new) is not None
    folder = Path(tfppo.__file__).parents[1]
    assert not (folder / (old.replace(".", "/") + ".py")).exists()  # otherwise the old name would be a current module
    assert not (folder / old.replace(".", "/") / "__init__.py").exists()


def test_settings_of_python_keep_their_old_names():
    with pytest.warns(DeprecationWarning, match="kl_(target|rule) is now called (adaptive_kl_target|kl_controller)"):
        config = make_control_config("Pendulum-v1", kl_coeff=0.1, kl_rule="schulman", kl_target=0.3)
    assert config == make_control_config("Pendulum-v1", kl_coeff=0.1, kl_controller="schulman", adaptive_kl_target=0.3)
    with pytest.warns(DeprecationWarning, match="kl_rule is now called kl_controller"):
        assert make_text_config(kl_rule="fixed") == make_text_config(kl_controller="fixed")


@pytest.mark.parametrize(
    ("config_class", "make"), [(ControlRunConfig, make_control_config), (TextRunConfig, make_text_config)]
)
def test_a_config_yaml_of_version_0_1_is_read_without_a_word(config_class, make, recwarn):
    config = make(kl_controller="schulman", kl_coeff=0.2, adaptive_kl_target=0.7)
    text = to_yaml(config).replace("kl_controller:", "kl_rule:").replace("adaptive_kl_target:", "kl_target:")
    assert "kl_rule: schulman" in text and "  kl_target: 0.7" in text
    assert from_yaml(config_class, text) == config
    assert [warning for warning in recwarn if warning.category is DeprecationWarning] == []


@pytest.mark.parametrize("options", ["--kl-rule schulman --kl-target 0.5", "--kl_rule=schulman --kl_target=0.5"])
def test_options_keep_their_old_names(options, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(control_run, "train_control", lambda config, task, seconds: seen.append(config))
    assert cli.main(["train", "control", "--kl-coeff", "0.1", *options.split()]) == 0
    assert seen == [make_control_config(kl_coeff=0.1, kl_controller="schulman", adaptive_kl_target=0.5)]
    old = [option.partition("=")[0] for option in options.split() if option.startswith("--")]
    assert capsys.readouterr().err.splitlines() == [
        f"tfppo: {old[0]} is now called --kl-controller",
        f"tfppo: {old[1]} is now called --adaptive-kl-target",
    ]
