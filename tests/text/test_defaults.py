"""Defaults for larger language models: by size, adapters, response length and length of the run."""

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file

from tfppo.cli.command_line import _defaults
from tfppo.cli.train import TrainText
from tfppo.text.config import TEXT_PPO, TextConfig
from tfppo.text.defaults import (
    NAMES,
    UNKNOWN_PARAMETERS,
    defaults_for,
    describe_defaults,
    make_text_config,
    parameters_of,
)
from tfppo.text.presets import default_preset
from tfppo.training.run_folder import flat_settings

USUAL = tuple(getattr(TEXT_PPO, name) for name in NAMES)


@pytest.fixture
def large(tmp_path):
    """A folder with the weights of a model of 16 million parameters, as far as its size matters."""
    save_file(
        {"a": np.zeros([4000, 3000], np.float16), "b": np.zeros([4_000_000], np.float16)}, tmp_path / "m.safetensors"
    )
    return tmp_path


def chosen(config):
    return tuple(getattr(config.ppo, name) for name in NAMES)


def test_the_size_of_a_model_is_in_the_header_of_its_file(large, tmp_path):
    assert parameters_of(large) == 16_000_000
    assert parameters_of(default_preset()) == pytest.approx(3.7e6, rel=0.01)
    (tmp_path / "h5").mkdir()
    with h5py.File(tmp_path / "h5" / "model.weights.h5", "w") as file:
        file["layers/dense/0"], file["layers/dense/1"] = np.zeros([3, 4]), np.zeros([5])
    assert parameters_of(tmp_path / "h5") == 17
    (tmp_path / "m.safetensors").write_bytes(b"no header")
    assert parameters_of(tmp_path) is None and parameters_of(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("parameters", "published"), [(124e6, 3.5e-5), (774e6, 1.77e-5), (1.3e9, 1.5e-5), (6.7e9, 7e-6)]
)
def test_the_learning_rate_is_near_those_that_were_published(parameters, published):
    """Ziegler et al. 2019 (774M) and Stiennon et al. 2020 (1.3B, 6.7B); within a factor of 1.6."""
    rate = defaults_for(parameters, TextConfig()).learning_rate
    assert published / 1.6 <= rate <= published * 1.6
    assert defaults_for(parameters, TextConfig(lora_rank=8)).learning_rate == pytest.approx(10 * rate, rel=0.05)


def test_target_and_horizon_follow_from_the_run():
    text = TextConfig(response_length=24, iterations=34, batch_size=50)
    assert defaults_for(1e9, text)[1:] == (6.0, 100)


def test_settings_that_are_given_stay_and_small_models_keep_the_usual_defaults(large):
    assert chosen(make_text_config()) == chosen(make_text_config(preset=default_preset())) == USUAL
    rate, target, horizon = defaults_for(16e6, TextConfig())
    assert chosen(make_text_config(preset=large)) == (rate, target, horizon) != USUAL
    assert chosen(make_text_config(preset=large, learning_rate=1e-3)) == (1e-3, target, horizon)
    assert chosen(make_text_config(preset="hf://a/b")) == defaults_for(UNKNOWN_PARAMETERS, TextConfig())


def test_a_given_model_has_the_defaults_of_its_size():
    class Model:
        def count_params(self):
            return 16_000_000

    assert (
        chosen(make_text_config(Model()))
        == chosen(make_text_config((Model(), None)))
        == defaults_for(16e6, TextConfig())
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ([], TextConfig()),
        (["--lora-rank", "8", "--response-length=20"], TextConfig(lora_rank=8, response_length=20)),
        (["--batch-size", "4", "--iterations", "7"], TextConfig(batch_size=4, iterations=7)),
        (["--lora_rank", "8", "--iterations=1e2"], TextConfig(lora_rank=8, iterations=100)),
        (["--response_length=9", "--response-length", "20"], TextConfig(response_length=20)),
    ],
)
def test_the_command_line_has_the_same_defaults(large, options, text):
    command = _defaults(["train", "text", "--preset", str(large), *options])[TrainText]
    assert tuple(getattr(command.ppo, name) for name in NAMES) == defaults_for(16e6, text)


def test_the_defaults_of_the_model_replace_those_of_a_task(large):
    """The learning rate of a task was found for the included model, unless the task asks for adapters."""
    for task, preset, rate, length in (
        ("length", None, 4e-4, 24),
        ("length", large, defaults_for(16e6, TextConfig()).learning_rate, 24),
        ("countries", large, 1e-3, 12),
    ):
        given = [] if preset is None else ["--preset", str(preset)]
        command = _defaults(["train", "text", "--task", task, *given])[TrainText]
        assert command.ppo.learning_rate == rate and command.text.response_length == length


def test_a_line_says_what_was_chosen(large):
    config = make_text_config(preset=large, lora_rank=4, adaptive_kl_target=3.0)
    said = describe_defaults(16e6, config.text, flat_settings(config))
    assert said == (
        f"defaults for this language model: learning_rate {config.ppo.learning_rate:g} (16M parameters, adapters), "
        "kl_horizon 301 (1/17 of 5,120 responses)"
    )
    fixed = make_text_config(preset=large, kl_controller="fixed")
    assert "horizon" not in describe_defaults(16e6, fixed.text, flat_settings(fixed))
    assert describe_defaults(3e6, config.text, flat_settings(config)) is None
