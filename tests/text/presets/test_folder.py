"""Saving and loading of presets: equal models, half the size, and one-line errors for damaged files."""

import json
import os
import shutil
import warnings
from pathlib import Path

import keras
import keras_hub
import numpy as np
import pytest
from support.refusal import refusal

from tfppo.errors import UsageError
from tfppo.text.config import NewModelConfig
from tfppo.text.data.corpus import sentences
from tfppo.text.data.special_tokens import special_tokens_of
from tfppo.text.data.tokenizer import train_tokenizer
from tfppo.text.models.lstm import LSTMLanguageModel, make_lstm
from tfppo.text.models.transformer import make_transformer
from tfppo.text.presets.configs import LAYERS_FILE
from tfppo.text.presets.folder import LSTM_FILE, WEIGHTS_FILE, halve_weights, load_preset, save_preset

TEXTS = [sentence.text for sentence in sentences("validation", "movie")]
CONFIG = NewModelConfig(num_layers=2, num_heads=2, hidden_dim=64, context_length=32)
EVERY_KIND = pytest.mark.parametrize("kind", ["gpt2", "lstm"])


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 700)


@pytest.fixture(scope="module")
def models(tokenizer):
    """A model of each kind, compiled and with the weights of an optimizer, as after training."""
    models = {}
    for kind, make in (("gpt2", make_transformer), ("lstm", make_lstm)):
        model = make(tokenizer.vocabulary_size(), CONFIG)
        model.compile("adam", "mse", weighted_metrics=[])
        model.optimizer.build(model.trainable_variables)
        models[kind] = model
    return models


@pytest.fixture(scope="module")
def presets(tmp_path_factory, models, tokenizer):
    """The folder of a preset of each kind."""
    folders = {kind: tmp_path_factory.mktemp("presets") / "deep" / kind for kind in models}
    for kind, folder in folders.items():
        save_preset(folder, models[kind], tokenizer)
    return folders


@pytest.fixture
def damaged(tmp_path, presets):
    """Copies a preset, and damages the copy."""

    def damage(kind, change):
        folder = tmp_path / "damaged"
        shutil.copytree(presets[kind], folder)
        change(folder)
        return folder

    return damage


def refusal_of(folder):
    """Returns the error of loading a folder; it must name the folder and the command that makes a preset."""
    text = refusal(load_preset, folder)
    assert str(folder) in text and "tfppo pretrain" in text
    assert len(text.replace(str(folder), "")) < 320  # errors of Keras can be long
    return text


def logits(model):
    tokens = np.random.default_rng(1).integers(1, 600, [4, 30])
    return model({"token_ids": tokens, "padding_mask": np.ones_like(tokens)}).numpy()


def cut_short(name):
    def cut(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return cut


def with_lambda(folder):
    """Replaces the file of an LSTM by a model that runs code."""
    x, mark = keras.Input([2]), str(folder / "was_here")
    spy = keras.layers.Lambda(lambda v: (open(mark, "w").close(), v)[1], output_shape=(2,))
    keras.Model(x, spy(x)).save(folder / LSTM_FILE)


def with_another_class(name, module, class_name):
    def change(folder):
        config = json.loads((folder / name).read_text())
        config |= {"module": module, "class_name": class_name, "registered_name": None}
        (folder / name).write_text(json.dumps(config))

    return change


def weights_of_a_narrower_model(folder):
    model = make_transformer(700, NewModelConfig(num_layers=2, num_heads=2, hidden_dim=32, context_length=32))
    save_preset(folder.with_name("narrow"), model, keras_hub.models.Tokenizer.from_preset(str(folder)))
    shutil.copy(folder.with_name("narrow") / WEIGHTS_FILE, folder / WEIGHTS_FILE)


def test_a_transformer_comes_back_rounded_to_half_precision(presets, models):
    model, _ = load_preset(str(presets["gpt2"]))
    assert type(model) is keras_hub.models.GPT2CausalLM
    assert {weight.dtype for weight in model.get_weights()} == {np.dtype(np.float32)}
    for loaded, saved in zip(model.get_weights(), models["gpt2"].get_weights(), strict=True):
        np.testing.assert_array_equal(loaded, saved.astype(np.float16).astype(np.float32))
    difference = np.abs(logits(model) - logits(models["gpt2"])).max()
    assert 0 < difference < 2e-3 < np.ptp(logits(model)) / 100


def test_an_lstm_comes_back_exactly(presets, models):
    model, _ = load_preset(presets["lstm"])
    assert type(model) is LSTMLanguageModel
    np.testing.assert_array_equal(logits(model), logits(models["lstm"]))


@EVERY_KIND
def test_the_tokenizer_comes_back(presets, tokenizer, kind):
    loaded = load_preset(presets[kind])[1]
    assert loaded(TEXTS) == tokenizer(TEXTS)
    assert loaded.vocabulary == tokenizer.vocabulary


def test_a_transformer_can_be_asked_for_in_another_precision(presets):
    model, _ = load_preset(presets["gpt2"], "mixed_bfloat16")
    layer = model.backbone.transformer_layers[0]
    assert (layer.compute_dtype, layer.variable_dtype) == ("bfloat16", "float32")
    difference = np.abs(logits(model) - logits(load_preset(presets["gpt2"])[0])).max()
    assert 0 < difference < 0.05


def test_an_lstm_keeps_its_chat_template(models, tokenizer, tmp_path):
    special = special_tokens_of(tokenizer)._replace(chat_template="Q: {{ messages[-1].content }} A:")
    save_preset(tmp_path / "lstm", models["lstm"], tokenizer, "float32", special)
    assert special_tokens_of(load_preset(tmp_path / "lstm")[1]) == special


def test_an_lstm_in_another_precision_is_refused(presets):
    with pytest.raises(UsageError, match="mixed_bfloat16.*LSTM.*float32"):
        load_preset(presets["lstm"], "mixed_bfloat16")


def test_files_hold_the_weights_once_and_the_transformers_halved(presets, models):
    overhead = 120_000  # bytes of HDF5, which has a group for each layer
    floats = {kind: 4 * model.count_params() for kind, model in models.items()}
    assert min(floats.values()) > 3 * overhead
    size = (presets["gpt2"] / WEIGHTS_FILE).stat().st_size
    assert floats["gpt2"] / 2 < size < floats["gpt2"] / 2 + overhead
    size = (presets["lstm"] / LSTM_FILE).stat().st_size
    assert floats["lstm"] < size < floats["lstm"] + overhead  # with its optimizer it would be three times as large
    assert not list(presets["gpt2"].rglob("*.tmp"))


def test_a_folder_that_exists_is_not_written_to(presets, models, tokenizer):
    with pytest.raises(FileExistsError):
        save_preset(presets["lstm"], models["lstm"], tokenizer)


def test_kerashub_loads_a_preset_and_writes_with_it(presets):
    model = keras_hub.models.CausalLM.from_preset(str(presets["gpt2"]))
    np.testing.assert_array_equal(logits(model), logits(load_preset(presets["gpt2"])[0]))
    model.compile(sampler="greedy")
    text = model.generate("<|movie|>A film that", max_length=10)
    assert text.startswith("<|movie|>A film that") and len(text) > len("<|movie|>A film that")


def test_halving_leaves_other_types_and_attributes_alone(tmp_path):
    import h5py

    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        file.attrs["version"] = "3"
        file["layer/vars/0"] = np.linspace(0, 1, 5, dtype=np.float32)
        file["layer/vars/1"] = np.arange(5, dtype=np.int64)
        file["layer/vars"].attrs["name"] = "dense"
        file["layer/vars/0"].attrs["trainable"] = True
        file.create_group("empty")
    halve_weights(path)
    with h5py.File(path) as file:
        assert file.attrs["version"] == "3" and "empty" in file
        assert file["layer/vars"].attrs["name"] == "dense" and file["layer/vars/0"].attrs["trainable"]
        assert file["layer/vars/0"].dtype == np.float16 and file["layer/vars/1"].dtype == np.int64
        np.testing.assert_allclose(file["layer/vars/0"][()], np.linspace(0, 1, 5), atol=1e-3)
        np.testing.assert_array_equal(file["layer/vars/1"][()], np.arange(5))
    assert [p.name for p in tmp_path.iterdir()] == ["weights.h5"]


def test_the_folder_of_a_run_is_refused_with_the_preset_in_it(presets, tmp_path):
    folder = presets["gpt2"]
    (tmp_path / "export").symlink_to(folder)
    text = refusal(load_preset, tmp_path)
    assert text.endswith(f"give {tmp_path / 'export'}")
    load_preset(text.rpartition(" give ")[2])
    (tmp_path / "export").unlink()
    (tmp_path / "config.yaml").write_text("text: {}\n")
    assert refusal(load_preset, tmp_path).endswith(f"write its preset with: tfppo export {tmp_path}")


def test_a_folder_that_is_none_or_holds_none_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("{}")
    assert "not the folder of a preset" in refusal_of(tmp_path / "empty")
    for name in ("nowhere", "file"):
        assert f"{tmp_path / name} is neither the folder of a preset" in refusal(load_preset, tmp_path / name)


@pytest.mark.parametrize("name", ["config.json", WEIGHTS_FILE, "assets/tokenizer/vocabulary.json"])
def test_a_file_that_is_missing_is_told(damaged, name):
    assert "cannot be read" in refusal_of(damaged("gpt2", lambda folder: (folder / name).unlink()))


@pytest.mark.fault("A file of a preset is damaged", "A one-line error names the preset.")
@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("gpt2", cut_short(WEIGHTS_FILE)),
        ("gpt2", lambda folder: (folder / WEIGHTS_FILE).write_bytes(b"no weights" * 1000)),
        ("gpt2", weights_of_a_narrower_model),
        ("gpt2", cut_short("config.json")),
        ("gpt2", cut_short("tokenizer.json")),
        ("lstm", cut_short(LSTM_FILE)),
        ("lstm", cut_short("assets/tokenizer/vocabulary.json")),
    ],
    ids=["short-weights", "no-weights", "other-weights", "config", "tokenizer", "lstm", "vocabulary"],
)
def test_damage_is_told_in_a_line(damaged, kind, change):
    folder = damaged(kind, change)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert "cannot be read" in refusal_of(folder)
    assert [w.message for w in warned if w.category is UserWarning] == []


def test_a_model_of_another_kind_is_no_lstm(damaged):
    other = make_transformer(700, CONFIG).backbone
    assert "holds a GPT2Backbone" in refusal_of(damaged("lstm", lambda folder: other.save(folder / LSTM_FILE)))


def test_a_lambda_layer_is_refused_and_not_run(damaged):
    folder = damaged("lstm", with_lambda)
    assert "Lambda" in refusal_of(folder)
    assert not (folder / "was_here").exists()
    keras.saving.load_model(folder / LSTM_FILE, safe_mode=False)(np.zeros([1, 2]))  # without safe mode it does run
    assert (folder / "was_here").exists()


@pytest.mark.parametrize("name", ["config.json", "task.json", "tokenizer.json", "lstm.keras/tokenizer.json"])
def test_a_config_that_names_another_class_is_refused_and_makes_none(damaged, monkeypatch, name):
    called = []
    monkeypatch.setattr(os, "system", lambda *arguments, **settings: called.append(arguments))
    kind = "lstm" if "/" in name else "gpt2"
    folder = damaged(kind, with_another_class(Path(name).name, "os", "system"))
    refusal_of(folder)
    assert called == []


# ----- Settings that KerasHub leaves out of a preset


def small_llama(vocabulary_size, tied=True, kind="Llama"):
    sizes = {"num_layers": 1, "hidden_dim": 8, "intermediate_dim": 8, "num_query_heads": 2, "num_key_value_heads": 1}
    backbone = getattr(keras_hub.models, f"{kind}Backbone")(vocabulary_size, tie_word_embeddings=tied, **sizes)
    for weight in backbone.weights:
        weight.assign(weight + np.random.default_rng(0).normal(0.0, 0.3, weight.shape))
    return getattr(keras_hub.models, f"{kind}CausalLM")(backbone)


@pytest.mark.parametrize("tied", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_llama_comes_back_with_its_embeddings_tied_or_not(tmp_path, tokenizer, tied):
    model = small_llama(tokenizer.vocabulary_size(), tied)
    save_preset(tmp_path / "llama", model, tokenizer, "float32")
    for loaded in (load_preset(tmp_path / "llama")[0], keras_hub.models.CausalLM.from_preset(str(tmp_path / "llama"))):
        assert loaded.backbone.token_embedding.tie_weights == tied
        np.testing.assert_array_equal(logits(loaded), logits(model))


@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_a_preset_of_kerashub_with_tied_embeddings_is_loaded(tmp_path, tokenizer):
    """KerasHub writes no `tie_word_embeddings`, and cannot load the preset itself."""
    model = small_llama(tokenizer.vocabulary_size())
    model.save_to_preset(tmp_path)
    tokenizer.save_to_preset(tmp_path)
    with pytest.raises(ValueError, match="token_embedding"):
        keras_hub.models.CausalLM.from_preset(str(tmp_path), preprocessor=None)
    loaded, _ = load_preset(tmp_path, "mixed_bfloat16")
    assert loaded.dtype_policy.name == "mixed_bfloat16"
    loaded, _ = load_preset(tmp_path)
    assert type(loaded) is keras_hub.models.LlamaCausalLM
    np.testing.assert_array_equal(logits(loaded), logits(model))


def test_a_changed_epsilon_comes_back(tmp_path, tokenizer):
    model = small_llama(tokenizer.vocabulary_size(), tied=False)
    norms = [layer for layer in model._flatten_layers() if hasattr(layer, "epsilon")]
    for layer in norms:
        layer.epsilon = 0.3
    save_preset(tmp_path / "llama", model, tokenizer, "float32")
    for loaded in (load_preset(tmp_path / "llama")[0], keras_hub.models.CausalLM.from_preset(str(tmp_path / "llama"))):
        assert loaded.backbone.layer_norm_epsilon == 0.3
        np.testing.assert_array_equal(logits(loaded), logits(model))


def test_a_number_of_one_layer_comes_back(tmp_path, tokenizer):
    """KerasHub's files have no setting for it, so a file of ours has it."""
    model = small_llama(tokenizer.vocabulary_size(), tied=False)
    model.backbone.layer_norm.epsilon = 0.3  # only in one of the layers
    save_preset(tmp_path / "llama", model, tokenizer, "float32")
    np.testing.assert_array_equal(logits(load_preset(tmp_path / "llama")[0]), logits(model))
    written = json.loads((tmp_path / "llama" / LAYERS_FILE).read_text())
    assert {name for numbers in written.values() for name in numbers} == {"epsilon", "layer_norm_epsilon"}
    for wrong in ({"llama_backbone/none": {"epsilon": 0.3}}, {path: {"name": 1} for path in written}, {"": {"a": "b"}}):
        (tmp_path / "llama" / LAYERS_FILE).write_text(json.dumps(wrong))
        assert f"{LAYERS_FILE} has " in refusal(load_preset, tmp_path / "llama")


@pytest.mark.fault("A preset would be loaded as another model than was saved", "A one-line error says what differs.")
def test_a_model_that_would_come_back_as_another_is_not_saved(tmp_path, tokenizer):
    model = small_llama(tokenizer.vocabulary_size(), tied=False)
    model.backbone.layer_norm.flavor = "sweet"
    text = refusal(save_preset, tmp_path / "llama", model, tokenizer)
    assert "LlamaCausalLM cannot be saved as a preset" in text and "flavor sweet" in text


def test_the_special_tokens_of_llama_3_come_back(tmp_path, tokenizer):
    """SmolLM2 and others have a Llama 3 tokenizer with other special tokens, which KerasHub does not save."""
    names = {"bos_token": "<|movie|>", "eos_token": "<|amazon|>", "misc_special_tokens": {"<|nyt|>"}}
    llama3 = keras_hub.models.Llama3Tokenizer(tokenizer.vocabulary, tokenizer.merges, **names)
    model = small_llama(tokenizer.vocabulary_size(), kind="Llama3")
    save_preset(tmp_path / "llama3", model, llama3)
    loaded = load_preset(tmp_path / "llama3")[1]
    assert (loaded.start_token, loaded.end_token) == ("<|movie|>", "<|amazon|>")
    assert set(loaded.special_tokens) == set(llama3.special_tokens) == {"<|movie|>", "<|amazon|>", "<|nyt|>"}
    assert loaded(TEXTS) == llama3(TEXTS)


def test_kerashub_loads_a_preset_with_the_usual_tokens_of_llama_3(tmp_path, tokenizer):
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
    vocabulary = {**tokenizer.vocabulary, **{name: len(tokenizer.vocabulary) + i for i, name in enumerate(special)}}
    llama3 = keras_hub.models.Llama3Tokenizer(vocabulary, tokenizer.merges)
    save_preset(tmp_path / "llama3", small_llama(len(vocabulary), kind="Llama3"), llama3)
    assert keras_hub.models.Tokenizer.from_preset(str(tmp_path / "llama3"))(TEXTS) == llama3(TEXTS)
