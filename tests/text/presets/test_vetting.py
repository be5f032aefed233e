"""A malicious preset runs no code, fetches nothing, and gives a one-line error."""

import json
import shutil
import sys
import zipfile
from pathlib import Path

import keras
import keras_hub
import numpy as np
import pytest
from support.refusal import refusal

from tfppo import cli
from tfppo.text import run
from tfppo.text.defaults import make_text_config
from tfppo.text.presets.folder import LSTM_FILE, default_preset, load_preset
from tfppo.text.presets.vetting import vet_archive, vet_folder
from tfppo.text.rewards.callables import as_reward
from tfppo.text.rewards.reward_model import RewardModel
from tfppo.training import run_folder

JSON_FILES = ["config.json", "task.json", "preprocessor.json", "tokenizer.json"]


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """A file that exists after a successful attack.

    It is also written by the import of the package `evil`, or of packages with names that Keras trusts.
    """
    mark, packages = tmp_path / "was_here", tmp_path / "packages"
    for name in ("evil", "keras_nlp", "keras_cv"):
        (packages / name).mkdir(parents=True)
        (packages / name / "__init__.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
        (packages / name / "layers.py").write_text("class Evil:\n    pass\n")
    monkeypatch.syspath_prepend(packages)
    monkeypatch.chdir(packages)
    yield mark
    for name in [name for name in sys.modules if name.split(".")[0] in ("evil", "keras_nlp", "keras_cv")]:
        del sys.modules[name]


@pytest.fixture
def copied(any_preset, tmp_path):
    return Path(shutil.copytree(any_preset, tmp_path / "preset"))


def a_lambda(mark):
    """A serialized layer that writes the mark when it is created or called."""
    code = f"open({str(mark)!r}, 'w').close() or x"
    return keras.saving.serialize_keras_object(keras.layers.Lambda(eval(f"lambda x: {code}")))


def payloads(mark):
    command = f"touch {mark}"
    return {
        "os.system": {"module": "os", "class_name": "function", "config": "system", "registered_name": "system"},
        "class": {"module": "subprocess", "class_name": "Popen", "config": {"args": ["touch", str(mark)]}},
        "registered": {"module": "subprocess", "class_name": "Popen", "config": {}, "registered_name": "a>Popen"},
        "builtin": {"module": "builtins", "class_name": "function", "config": "exec", "registered_name": "exec"},
        "evil": {"module": "evil.layers", "class_name": "Evil", "config": {}, "registered_name": None},
        "keras_nlp": {"module": "keras_nlp.layers", "class_name": "Evil", "config": {}, "registered_name": None},
        "keras_cv": {"module": "keras_cv.layers", "class_name": "Evil", "config": {}, "registered_name": "Evil"},
        "lambda": a_lambda(mark),
        "code": {"class_name": "__lambda__", "config": {"value": a_lambda(mark)["config"]["function"]["config"]}},
        "saved model": {
            "module": "keras.layers",
            "class_name": "TFSMLayer",
            "config": {"filepath": str(mark.parent)},
            "registered_name": None,
        },
        "torch": {
            "module": "keras.layers",
            "class_name": "TorchModuleWrapper",
            "config": {"module": command},
            "registered_name": None,
        },
        "load_model": {
            "module": "keras.saving",
            "class_name": "function",
            "config": "load_model",
            "registered_name": "load_model",
        },
        "a good name elsewhere": {
            "module": "subprocess",
            "class_name": "GPT2Backbone",
            "config": {},
            "registered_name": "keras_hub>GPT2Backbone",
        },
        "two names": {
            "module": "keras.layers",
            "class_name": "Lambda",
            "config": {},
            "registered_name": "keras_hub>GPT2Backbone",
        },
        "no text": {"module": ["os"], "class_name": {"a": 1}, "config": {}, "registered_name": 3},
    }


def rewrite(path, change):
    """Changes the JSON of a file, or of the config in a .keras archive."""
    if path.suffix != ".keras":
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
        return
    with zipfile.ZipFile(path) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    held["config.json"] = json.dumps(change(json.loads(held["config.json"]))).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in held.items():
            archive.writestr(name, data)


PLACES = {
    "itself": lambda config, payload: payload,
    "dtype": lambda config, payload: config | {"config": config["config"] | {"dtype": payload}},
    "setting": lambda config, payload: config | {"config": config["config"] | {"name": payload}},
    "list": lambda config, payload: config | {"config": config["config"] | {"unsplittable_tokens": [[payload]]}},
    "compile_config": lambda config, payload: config | {"compile_config": {"loss": payload}},
    "build_config": lambda config, payload: config | {"build_config": payload},
    "beside": lambda config, payload: config | {"other": {"deep": [payload]}},
}


@pytest.mark.fault(
    "A file of a preset names a Python object that could run code",
    "A one-line error names the file. The object is not created.",
)
@pytest.mark.parametrize("place", list(PLACES))
def test_an_object_of_a_strangers_choice_is_not_made(copied, mark, place):
    files = [LSTM_FILE, "tokenizer.json"] if (copied / LSTM_FILE).exists() else JSON_FILES
    for name in files:
        intact = (copied / name).read_bytes()
        for payload in payloads(mark).values():
            rewrite(copied / name, lambda config, payload=payload: PLACES[place](config, payload))
            text = refusal(load_preset, copied)
            assert f"{name} names" in text and "tfppo pretrain" in text, text
            (copied / name).write_bytes(intact)
    assert not mark.exists() and not {"evil", "keras_nlp", "keras_cv"} & set(sys.modules)
    load_preset(copied)  # the files are intact again


@pytest.mark.fault(
    "A preset contains a Lambda layer, and Keras' safe mode is off", "A one-line error. The layer does not run."
)
def test_a_lambda_layer_is_not_run_whatever_keras_is_told(copied, mark, monkeypatch):
    """Keras' safe mode can be switched off for the whole process; vetting cannot."""
    name = LSTM_FILE if (copied / LSTM_FILE).exists() else "task.json"
    rewrite(copied / name, lambda config: a_lambda(mark))
    keras.config.enable_unsafe_deserialization()
    try:
        assert "keras.layers.Lambda" in refusal(load_preset, copied)
    finally:
        keras.src.backend.common.global_state.set_global_attribute("safe_mode_saving", None)
    assert not mark.exists()


def test_a_model_with_a_lambda_layer_is_no_reward_model_and_no_preset(copied, mark):
    x = keras.Input([2])
    spy = keras.layers.Lambda(eval(f"lambda v: open({str(mark)!r}, 'w').close() or v"), output_shape=(2,))
    model = keras.Model(x, spy(x))
    model.save(copied / LSTM_FILE)
    mark.unlink(missing_ok=True)
    (copied / "head.json").write_text(json.dumps({"kernel": [0.0], "bias": 0.0, "words_slope": 0.0, "words_mean": 0.0}))
    assert "keras.layers.Lambda" in refusal(load_preset, copied)
    assert "keras.layers.Lambda" in refusal(RewardModel.load, copied)
    assert not mark.exists()
    keras.saving.load_model(copied / LSTM_FILE, safe_mode=False)(np.zeros([1, 2]))  # without safe mode it does run
    assert mark.exists()


def test_the_folder_of_a_saved_model_is_no_archive(copied, mark):
    """Keras would load a folder with a config.json, which vetting does not check."""
    (copied / LSTM_FILE).unlink(missing_ok=True)
    (copied / LSTM_FILE).mkdir()
    (copied / LSTM_FILE / "config.json").write_text(json.dumps(a_lambda(mark)))
    assert "cannot be read" in refusal(load_preset, copied)
    assert not mark.exists()


@pytest.fixture
def offline(monkeypatch):
    """Replaces all downloads by an error, and lists what was requested."""
    asked = []

    def fetch(*arguments, **options):
        asked.append(arguments)
        raise ValueError("no network")

    utilities = keras_hub.src.utils.preset_utils
    monkeypatch.setattr(utilities.kagglehub, "model_download", fetch)
    if utilities.huggingface_hub is not None:
        monkeypatch.setattr(utilities.huggingface_hub, "hf_hub_download", fetch)
        monkeypatch.setattr(utilities.huggingface_hub, "snapshot_download", fetch)
    monkeypatch.setattr(utilities, "tf_copy_gfile_to_cache", fetch)
    return asked


def test_a_folder_that_is_called_like_a_known_model_is_that_folder(preset, offline, tmp_path, monkeypatch):
    shutil.copytree(preset, tmp_path / "gpt2_base_en")
    monkeypatch.chdir(tmp_path)
    keras_hub.models.CausalLM.presets  # noqa: B018 (loads KerasHub's list of known presets)
    model, _ = load_preset("gpt2_base_en")
    assert model.backbone.hidden_dim == 16 and offline == []


def test_a_tokenizer_takes_no_files_from_elsewhere(preset, offline, tmp_path):
    folder = Path(shutil.copytree(preset, tmp_path / "preset"))
    rewrite(folder / "tokenizer.json", lambda c: c | {"config": c["config"] | {"vocabulary": "gs://a/vocabulary.json"}})
    assert "names gs://a/vocabulary.json" in refusal(load_preset, folder)
    assert offline == []


@pytest.mark.parametrize("name", ["GPT2", "OPT", "Llama", "Mistral", "Gemma"])
def test_language_models_of_kerashub_pass(name, tmp_path):
    sizes = {"vocabulary_size": 20, "num_layers": 1, "hidden_dim": 8, "intermediate_dim": 8}
    sizes |= {"num_heads": 2} if name in ("GPT2", "OPT") else {"num_query_heads": 2, "num_key_value_heads": 1}
    sizes |= {"head_dim": 4} if name == "Gemma" else {}
    backbone = getattr(keras_hub.models, f"{name}Backbone")(**sizes, dtype="mixed_bfloat16")
    getattr(keras_hub.models, f"{name}CausalLM")(backbone).save_to_preset(str(tmp_path))
    vet_folder(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["class_name"] == f"{name}Backbone"


def test_what_is_shipped_passes(any_preset):
    for folder in (default_preset(), default_preset().with_name("movie-reward"), any_preset):
        vet_folder(folder)  # raises no UsageError
    if (any_preset / LSTM_FILE).exists():
        vet_archive(any_preset / LSTM_FILE)


@pytest.fixture(scope="module")
def finished(preset, tmp_path_factory):
    """A run with a Python reward."""
    return run.train_text(tiny(tmp_path_factory.mktemp("finished"), preset), reward=as_reward(fair))


def fair(prompts, responses):
    return [float(len(response)) for response in responses]


def tiny(folder, preset, **settings):
    small = {"iterations": 1, "batch_size": 4, "minibatch_size": 4, "response_length": 4, "eval_prompts": 0}
    where = {"runs_dir": folder, "preset": preset, "task": "length"}
    return make_text_config(**(small | where | {"num_epochs": 1, "sample_interval": 9} | settings))


@pytest.fixture
def hostile(finished, mark, tmp_path):
    """A copy of the run with a reward in a module that writes the mark."""
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    path = folder / run_folder.CONFIG
    named = f"reward: {__name__}:fair"
    assert named in path.read_text()
    path.write_text(path.read_text().replace(named, "reward: evil:score"))
    Path("evil/__init__.py").write_text(f"open({str(mark)!r}, 'w').close()\n\ndef score(p, r): return [0.0] * len(r)\n")
    return folder


@pytest.mark.slow
def test_writing_and_exporting_need_no_reward_and_load_none(hostile, mark, capsys):
    assert cli.main(["generate", str(hostile), "--prompt", "This film"]) == 0
    assert cli.main(["export", str(hostile)]) == 0
    load_preset(hostile / run_folder.EXPORT)
    assert not mark.exists() and "evil" not in sys.modules


@pytest.mark.slow
def test_scoring_loads_the_reward_that_the_user_names(hostile, mark, capsys):
    for command in (["evaluate", "--prompts", "4"], ["resume"]):
        capsys.readouterr()
        assert cli.main([command[0], str(hostile), *command[1:]]) == 2
        assert capsys.readouterr().err.count("--reward evil:score") == 1
        assert not mark.exists()
    assert cli.main(["evaluate", str(hostile), "--prompts", "4", "--reward", "evil:score"]) == 0
    assert mark.exists()
    assert cli.main(["resume", str(hostile), "--reward", "evil:score"]) == 0


@pytest.mark.fault(
    "The preset of a run names a Python object that could run code",
    "A one-line error names the preset. The object is not created.",
)
@pytest.mark.parametrize(
    "command", ["evaluate", *(pytest.param(name, marks=pytest.mark.slow) for name in ("resume", "generate", "export"))]
)
def test_a_run_whose_preset_is_hostile_is_refused(finished, preset, mark, tmp_path, capsys, command):
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    bad = Path(shutil.copytree(preset, tmp_path / "bad"))
    rewrite(bad / "task.json", lambda config: PLACES["dtype"](config, payloads(mark)["keras_nlp"]))
    path = folder / run_folder.CONFIG
    text = path.read_text().replace(f"reward: {__name__}:fair", "reward: null")
    assert str(preset) in text
    path.write_text(text.replace(f"preset: {preset}", f"preset: {bad}"))
    options = ["--prompt", "It"] if command == "generate" else []
    assert cli.main([command, str(folder), *options]) == 2
    err = capsys.readouterr().err
    assert err.startswith("tfppo: preset ") and "keras_nlp.layers.Evil" in err and len(err.splitlines()) == 1
    assert not mark.exists()
