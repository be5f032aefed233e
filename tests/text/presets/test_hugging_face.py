"""Folders in the form of Hugging Face, compared with a Llama in NumPy."""

import json
import os

import keras_hub
import numpy as np
import pytest
from safetensors import safe_open
from support.hugging_face import BEGIN, CONFIG, END, LLAMA3_ROPE, logits, make_folder, write
from support.refusal import refusal

from tfppo import load_preset
from tfppo.cli import main
from tfppo.text.data.codec import PromptCodec
from tfppo.text.presets import save_preset
from tfppo.text.presets.hugging_face import SUPPORTED, corrected_config

VERSION_5 = {"rope_theta": None}  # transformers 5 writes it into rope_parameters
TOKENS = np.random.default_rng(0).integers(20, 290, 24)


def computed(model, tokens=TOKENS):
    inputs = {"token_ids": tokens[None], "padding_mask": np.ones_like(tokens[None])}
    return model(inputs, training=False).numpy()[0]


@pytest.fixture
def folder(tmp_path):
    make_folder(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.representatives(2)
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="tied"),
        pytest.param({"tie_word_embeddings": None}, id="untied"),
        pytest.param({"rope_scaling": LLAMA3_ROPE}, id="rope of version 4"),
        pytest.param(
            {"rope_theta": None, "rope_parameters": LLAMA3_ROPE | {"rope_theta": 700.0}}, id="rope of version 5"
        ),
        pytest.param({"rope_theta": None, "rope_parameters": {"rope_theta": 9.0, "rope_type": "default"}}, id="theta"),
        pytest.param({"num_key_value_heads": 4}, id="as many keys as queries"),
    ],
)
def test_a_folder_gives_the_logits_of_its_weights(tmp_path, settings):
    weights = make_folder(tmp_path / "model", **settings)
    model, tokenizer = load_preset(tmp_path / "model")
    expected = logits(CONFIG | settings, weights, TOKENS)
    assert expected.std() > 0.5
    np.testing.assert_allclose(computed(model), expected, atol=1e-4)
    assert PromptCodec(tokenizer).end == tokenizer.token_to_id(END)
    assert tokenizer.start_token == BEGIN


def test_what_was_loaded_is_saved_as_a_preset_and_loaded_again(folder, tmp_path):
    model, tokenizer = load_preset(folder)
    save_preset(tmp_path / "preset", model, tokenizer, "float32")
    again, same = load_preset(tmp_path / "preset")
    np.testing.assert_array_equal(computed(again), computed(model))
    assert (same.end_token, same.start_token) == (END, BEGIN)
    of_keras_hub = keras_hub.models.Backbone.from_preset(str(tmp_path / "preset"))
    assert of_keras_hub.layer_norm_epsilon == CONFIG["rms_norm_eps"] and of_keras_hub.tie_word_embeddings


def test_weights_in_several_files_are_found(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    with safe_open(folder / "model-00001-of-00001.safetensors", "np") as file:
        names = list(file.keys())
    index = folder / "model.safetensors.index.json"
    write(index, {"weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")})
    load_preset(folder)
    for outside in ("../other.safetensors", "/tmp/other.safetensors", "pytorch_model.bin"):
        write(index, {"weight_map": dict.fromkeys(names, outside)})
        assert f"names {outside!r}" in refusal(load_preset, folder)


@pytest.mark.fault(
    "The folder of a Hugging Face model has weights that can contain code, or a setting that KerasHub does not compute",
    "A one-line error names the setting.",
)
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model_type": "mamba"}, "model_type is 'mamba'; it must be one of gemma, "),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling of the model is 'linear'"),
        ({"attention_bias": True}, "attention_bias of the model is True; KerasHub's llama computes only False"),
        ({"hidden_act": "gelu"}, "hidden_act of the model is 'gelu'"),
        ({"head_dim": 8}, "head_dim of the model is 8; KerasHub's llama computes only hidden_size / num_attention"),
    ],
)
def test_what_keras_hub_does_not_compute_is_refused(folder, settings, said):
    write(folder / "config.json", json.loads((folder / "config.json").read_text()) | settings)
    text = refusal(load_preset, folder)
    assert text.startswith(f"{folder}: ") and said in text


def test_weights_that_can_contain_code_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "has no weights in the form safetensors" in refusal(load_preset, folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_damaged_folder_is_one_line(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert str(folder) in refusal(load_preset, folder)


def test_nothing_in_the_folder_changes_and_no_link_is_left(folder, tmp_path):
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    load_preset(os.path.relpath(folder))
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_the_settings_of_gpt2_need_no_rope():
    config = corrected_config({"model_type": "gpt2", "n_embd": 16})
    assert config["n_embd"] == 16 and config["rope_scaling"] is None and "gpt2" in SUPPORTED


@pytest.mark.slow
@pytest.mark.parametrize("lora_rank", ["0", "2"])
def test_a_folder_is_trained_resumed_evaluated_used_exported_and_trained_again(
    folder, tmp_path, monkeypatch, lora_rank
):
    monkeypatch.chdir(tmp_path)
    write(folder / "generation_config.json", {"eos_token_id": [12, 5]})
    sizes = "--task length --iterations 2 --batch-size 8 --minibatch-size 4 --response-length 5 --eval-prompts 4"
    sizes += " --prompt-length 40 --lora-targets all"
    train = ["train", "text", *sizes.split(), "--lora-rank", lora_rank]
    for preset, name in ((folder, "one"), (tmp_path / "runs" / "one" / "export", "two")):
        assert main([*train, "--preset", str(preset), "--name", name]) == 0
        (tmp_path / "runs" / name / "curve.png").unlink()
        for command in ("resume", "evaluate", "export"):
            assert main([command, f"runs/{name}"]) == 0
        assert main(["generate", f"runs/{name}", "--prompt", "the film"]) == 0
        exported, tokenizer = load_preset(tmp_path / "runs" / name / "export")
        assert PromptCodec(tokenizer).ends == (12, 5)
        assert exported.backbone.layer_norm_epsilon == CONFIG["rms_norm_eps"]
