"""Presets by name or handle: fetched once, only the files that are needed, and only if the user asks for them."""

import fnmatch
import json
import os
import shutil
from pathlib import Path

import kagglehub
import keras_hub
import numpy as np
import pytest
import requests
import yaml
from huggingface_hub.errors import LocalEntryNotFoundError
from kagglehub.cache import Cache
from kagglehub.handle import parse_model_handle
from support.hugging_face import CONFIG, logits, make_folder
from support.refusal import refusal

from tfppo import TextConfig, cli, load_preset
from tfppo.settings import from_yaml, to_yaml
from tfppo.text import run
from tfppo.text.defaults import make_text_config
from tfppo.text.presets import fetching
from tfppo.text.presets.fetching import folder_of, label_of
from tfppo.text.presets.folder import save_preset
from tfppo.training import run_folder

MODEL, PRESET = "hf://someone/small-llama", "gpt2_base_en"
KAGGLE = "kaggle://keras/gpt2/keras/gpt2_base_en"
TOKENS = np.random.default_rng(0).integers(20, 290, 12)


class Hub:
    """Stands for both hubs and their caches. A hub is a folder with a folder for each handle."""

    def __init__(self, folder):
        self.folder, self.fetched, self.is_down = folder, [], False

    def put(self, handle, make):
        make(self.folder / handle)

    def snapshot_download(self, repository, *, allow_patterns, local_files_only):
        cached, source = self.folder.with_name("cache") / repository, self.folder / repository
        if local_files_only or self.is_down:
            if not cached.is_dir():
                raise LocalEntryNotFoundError("no snapshot") from (ConnectionError("down") if self.is_down else None)
            return str(cached)
        self.fetched.append(repository)
        for path in source.rglob("*"):
            name = str(path.relative_to(source))
            if path.is_file() and any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                (cached / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, cached / name)
        return str(cached)

    def model_download(self, name):
        handle, cache = parse_model_handle(name), Cache()
        if handle.is_versioned() and cache.load_from_cache(handle):
            return cache.load_from_cache(handle)
        if self.is_down:
            raise requests.ConnectionError("down")
        self.fetched.append(name)
        handle = handle if handle.is_versioned() else handle.with_version(2)
        shutil.copytree(self.folder / "gpt2_base_en", cache.get_path(handle))
        cache.mark_as_complete(handle)
        return cache.get_path(handle)


@pytest.fixture
def hub(tmp_path, monkeypatch, preset):
    hub = Hub(tmp_path / "hub")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kaggle"))
    monkeypatch.setattr(fetching.huggingface_hub, "snapshot_download", hub.snapshot_download)
    monkeypatch.setattr(fetching.kagglehub, "model_download", hub.model_download)
    (tmp_path / "hub" / "someone").mkdir(parents=True)
    shutil.copytree(preset, tmp_path / "hub" / "gpt2_base_en")
    monkeypatch.chdir(tmp_path)
    return hub


def tiny(**settings):
    small = {"iterations": 1, "batch_size": 4, "minibatch_size": 4, "response_length": 4, "eval_prompts": 0}
    small |= {"task": "length", "num_epochs": 1, "prompt_length": 40, "runs_dir": Path("runs")}
    return make_text_config(**(small | settings))


def test_a_model_of_the_hugging_face_hub_is_fetched_once_and_loaded_by_our_own_code(hub):
    weights = make_folder(hub.folder / "someone" / "small-llama")
    for name in ("pytorch_model.bin", "modeling_small.py", "tokenizer.pkl", "consolidated.safetensors"):
        (hub.folder / "someone" / "small-llama" / name).write_text("code or a copy")
    model, _ = load_preset(MODEL)
    inputs = {"token_ids": TOKENS[None], "padding_mask": np.ones_like(TOKENS[None])}
    expected = logits(CONFIG, weights, TOKENS)  # with the epsilon that KerasHub does not read
    np.testing.assert_allclose(model(inputs, training=False).numpy()[0], expected, atol=1e-4)
    cached = folder_of(MODEL)
    assert {path.name for path in cached.iterdir()} == {
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    }
    hub.is_down = True
    load_preset(MODEL)
    assert hub.fetched == ["someone/small-llama"]


def test_an_interrupted_download_is_completed(hub):
    make_folder(hub.folder / "someone" / "small-llama")
    (folder_of(MODEL) / "model.safetensors").unlink()
    load_preset(MODEL)
    assert len(hub.fetched) == 2
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    cached = folder_of(MODEL)
    (cached / "model.safetensors").rename(cached / "model-1.safetensors")
    (cached / "model.safetensors.index.json").write_text(json.dumps(index))
    folder_of(MODEL)
    assert len(hub.fetched) == 3


@pytest.mark.parametrize("name", [PRESET, KAGGLE, f"{KAGGLE}/3"])
def test_a_preset_of_kerashub_is_fetched_once(hub, name):
    model, _ = load_preset(name)
    assert model.backbone.hidden_dim == 16
    hub.is_down = True
    load_preset(name)
    assert len(hub.fetched) == 1 and hub.fetched[0].startswith("keras/gpt2/keras/gpt2_base_en")


def test_a_folder_with_the_name_of_a_known_preset_is_the_folder(hub, preset):
    shutil.copytree(preset, PRESET)
    assert folder_of(PRESET) == Path(PRESET).absolute()
    load_preset(PRESET)
    assert hub.fetched == []


def test_what_was_fetched_is_vetted(hub):
    path = hub.folder / "gpt2_base_en" / "task.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"module": "os", "class_name": "system", "registered_name": None}))
    text = refusal(load_preset, PRESET)
    assert text.startswith(f"preset {PRESET} (") and "task.json names os.system" in text


@pytest.mark.slow
def test_a_run_records_the_handle_as_written_and_needs_no_network_later(hub):
    make_folder(hub.folder / "someone" / "small-llama")
    folder = run.train_text(tiny(preset=MODEL, name="hf"))
    assert yaml.safe_load((folder / run_folder.CONFIG).read_text())["text"]["preset"] == MODEL
    hub.is_down = True
    for command in ("resume", "export"):
        assert cli.main([command, str(folder)]) == 0
    assert len(hub.fetched) == 1


@pytest.mark.slow
def test_a_run_of_a_name_is_refused_if_the_name_has_come_to_mean_another_model(hub, presets, capsys):
    folder = run.train_text(tiny(preset=PRESET, name="named"))
    assert yaml.safe_load((folder / run_folder.CONFIG).read_text())["text"]["preset"] == PRESET
    other, tokenizer = load_preset(PRESET)
    other.backbone.layer_norm.gamma.assign_add(np.ones(16))
    save_preset(Path(PRESET), other, tokenizer)
    assert len(hub.fetched) == 1
    assert cli.main(["resume", str(folder)]) == 2
    assert f"the language model in {PRESET} has the checksum" in capsys.readouterr().err


@pytest.mark.parametrize("given", [MODEL, KAGGLE, PRESET, Path("some/where"), "some/where"])
def test_a_setting_keeps_a_handle_with_both_slashes(given):
    config = TextConfig(preset=given)
    assert str(config.preset) == str(given)
    assert from_yaml(TextConfig, to_yaml(config)) == config


def test_the_last_part_of_a_name_is_its_label(tmp_path):
    assert [label_of(name) for name in (MODEL, PRESET, tmp_path / "a", "b/")] == ["small-llama", PRESET, "a", "b"]


@pytest.mark.fault("`--preset` is neither a folder nor a known name", "A one-line error with similar names.")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gpt2_base", "perhaps you meant gpt2_base_en"),
        ("smal", "perhaps you meant small"),
        ("bert_base_en", "neither the folder of a preset nor the name of a known one"),  # it is no CausalLM
        ("/no/where", "give a folder, a name such as gpt2_base_en, or a handle such as hf://USER/MODEL"),
        ("gs://a/b", "a handle must begin with hf:// or kaggle://"),
        ("modelscope://a/b", "a handle must begin with hf:// or kaggle://"),
        ("kaggle://a", "cannot fetch kaggle://a (ValueError: Invalid model handle"),
    ],
)
def test_an_unknown_name_is_one_line_and_fetches_nothing(hub, name, said):
    Path("small").mkdir()
    assert said in refusal(load_preset, name)
    assert hub.fetched == []


@pytest.mark.fault("A preset must be fetched, and there is no network", "A one-line error.")
@pytest.mark.parametrize("name", [MODEL, KAGGLE, PRESET])
def test_without_a_network_there_is_one_line(hub, name, capsys):
    hub.is_down = True
    for command in (["train", "text"], ["pretrain"], ["reward-model"]):
        assert cli.main([*command, "--preset", name]) == 2
        err = capsys.readouterr().err
        assert f"cannot fetch {name}: no network (down); give a folder" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("name", ["hf://nobody/nothing", "kaggle://nobody/none/keras/nothing"])
def test_the_real_libraries_say_that_there_is_no_network(name, tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: (_ for _ in ()).throw(OSError("no such host")))
    assert refusal(load_preset, name).startswith(f"cannot fetch {name}: no network (")


def test_kagglehub_asks_nobody_for_a_version_that_it_holds(tmp_path, monkeypatch, preset):
    """The stand-in of the other tests does the same."""
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("asked the network"))
    handle = parse_model_handle("keras/gpt2/keras/gpt2_base_en/2")
    shutil.copytree(preset, Cache().get_path(handle))
    Cache().mark_as_complete(handle)
    assert kagglehub.model_download(str(handle)) == os.fspath(folder_of(KAGGLE))


@pytest.mark.fault("The run of somebody else names a preset on a hub", "Nothing is fetched: one line names the preset.")
@pytest.mark.parametrize("name", [MODEL, KAGGLE, PRESET, f"{KAGGLE}/2"])
def test_what_only_a_run_names_is_not_fetched(hub, name, preset):
    said = refusal(folder_of, name, fetches=False)
    assert f"the run started from the preset {name}, which no cache holds" in said and not hub.fetched
    if name == MODEL:
        hub.put(MODEL.removeprefix("hf://"), lambda folder: shutil.copytree(preset, folder))
    assert folder_of(folder := folder_of(name), fetches=False) == folder
    assert folder_of(name, fetches=False) == folder and len(hub.fetched) == 1


def test_kerashub_knows_the_names_in_the_documentation():
    assert {"gpt2_base_en", "llama3.2_1b"} <= keras_hub.models.CausalLM.presets.keys()
