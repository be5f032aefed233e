"""Checkpoints of text runs leave out the weights that the run does not train, and lose nothing by that."""

import csv
import json
import re
import shutil

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from support.refusal import refusal

import tfppo
from tfppo import TextTrainer, load_preset, make_text_config
from tfppo.execution.variables import named_variables
from tfppo.settings import with_settings
from tfppo.text import run
from tfppo.text.config import TextRunConfig
from tfppo.text.data.tokenizer import train_tokenizer
from tfppo.text.models.adapters import merged_copy
from tfppo.text.models.lstm import LSTMLanguageModel
from tfppo.text.models.reference import as_language_model
from tfppo.text.trainer import TEXT
from tfppo.training import driver, run_folder
from tfppo.training.checkpoints import STATE, Checkpoints

KINDS = ["adapters", pytest.param("frozen", marks=pytest.mark.slow)]
DONE = 1  # the run is cut off after this iteration


def tiny(folder, **settings):
    small = {"iterations": 2, "batch_size": 8, "minibatch_size": 4, "response_length": 6, "eval_prompts": 4}
    every = {"sample_interval": 9, "checkpoint_interval": 1, "num_epochs": 1, "learning_rate": 3e-3, "device": "cpu"}
    return make_text_config(**({"task": "length", "runs_dir": folder} | small | every | settings))


def with_frozen_layers(preset):
    """Makes a language model of two layers, and freezes its embedding and its first layer."""
    tokenizer = load_preset(preset)[1]
    keras.utils.set_random_seed(1)
    model = LSTMLanguageModel(tokenizer.vocabulary_size(), num_layers=2, hidden_dim=16)
    for layer in (model.token_embedding, model.lstm_layers[0]):
        layer.trainable = False
    return model, tokenizer


@pytest.fixture(scope="module")
def finished_with(presets, tmp_path_factory):
    """Trains a run of a kind. Tests must not write into its folder."""
    folders = {}

    def finished_with(kind):
        if kind not in folders:
            config = tiny(tmp_path_factory.mktemp(kind), name=kind)
            if kind == "frozen":
                folders[kind] = run.train_text(config, model=with_frozen_layers(presets("gpt2")))
            else:
                adapters = with_settings(config, {"preset": presets("gpt2"), "lora_rank": 2})
                folders[kind] = run.train_text(adapters)
        return folders[kind]

    return finished_with


def saved_in(folder, iteration):
    with np.load(folder / run_folder.CHECKPOINTS / f"{iteration:06d}" / STATE) as file:
        return {name: file[name] for name in file.files}


def rows_of(folder):
    with (folder / run_folder.METRICS).open(newline="") as file:
        return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in csv.DictReader(file)]


def evaluation_of(folder):
    evaluation = run_folder.read_evaluation(folder)
    del evaluation["seconds"]
    return evaluation


def trainer_of(folder):
    return TextTrainer(run_folder.read_config(folder, TextRunConfig), folder=folder)


def interrupted(whole, folder):
    """Copies a finished run, and removes what it did after the iteration `DONE`."""
    cut = shutil.copytree(whole, folder)
    for path in (cut / run_folder.CHECKPOINTS).iterdir():
        if int(path.name) > DONE:
            shutil.rmtree(path)
    for name in (run_folder.CURVE, run_folder.EVALUATION):
        (cut / name).unlink()
    return cut


def make_complete(folder):
    """Replaces the checkpoints of a run by those that version 0.2 wrote, which hold all weights."""
    trainer = trainer_of(folder)
    for path in driver.checkpoints_of(trainer, folder).paths():
        progress = (path / "progress.json").read_bytes()
        driver.checkpoints_of(trainer, folder).restore(str(int(path.name)))
        Checkpoints(folder / run_folder.CHECKPOINTS, 9, **trainer.state).save(int(path.name))
        (path / "progress.json").write_bytes(progress)
    return trainer


def assert_same_end(cut, whole):
    assert rows_of(cut) == rows_of(whole)
    assert evaluation_of(cut) == evaluation_of(whole)
    last, expected = saved_in(cut, 2), saved_in(whole, 2)
    for name, array in expected.items():
        assert last[name].tobytes() == array.tobytes(), name
    return set(last) - set(expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_holds_the_trained_weights_under_their_former_names(finished_with, kind):
    folder = finished_with(kind)
    trainer = trainer_of(folder)
    every, trained = named_variables(trainer.state), {id(weight) for weight in trainer.policy.trainable_variables}
    wanted = {name for name, x in every.items() if not name.startswith("model/") or id(x) in trained}
    saved = saved_in(folder, 2)
    assert set(saved) == wanted < set(every)
    assert len(trainer.fixed) == len(every) - len(wanted) > 2
    if kind == "adapters":
        assert len(wanted & {name for name in every if name.startswith("model/")}) == 4  # 2 factors of 2 layers
    moments = [saved[name] for name in saved if name.startswith("optimizer/")][2:]
    assert len(moments) == 2 * len(trained)


def test_a_run_that_trains_all_weights_saves_all(preset, tmp_path):
    trainer = TextTrainer(tiny(tmp_path, preset=preset))
    driver.checkpoints_of(trainer, tmp_path).save(1)
    assert trainer.fixed == [] and list(saved_in(tmp_path, 1)) == list(named_variables(trainer.state))


def test_a_separate_critic_is_saved_completely(preset, tmp_path):
    trainer = TextTrainer(tiny(tmp_path, preset=preset, lora_rank=2, separate_critic=True))
    driver.checkpoints_of(trainer, tmp_path).save(1)
    names = [name for name in saved_in(tmp_path, 1) if name.startswith("critic/")]
    assert len(names) == len(trainer.policy.critic.model.weights) > 10


@pytest.mark.slow
@pytest.mark.fault(
    "A run with adapters or with frozen layers is interrupted", "The resumed run ends with the same bits."
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_resumes_to_the_same_bits(finished_with, tmp_path, kind):
    whole = finished_with(kind)
    cut = interrupted(whole, tmp_path / "cut")
    driver.resume(TEXT, cut)
    assert assert_same_end(cut, whole) == set()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adapters", "frozen"])
@pytest.mark.parametrize("has_checksum", [True, False])
def test_a_run_resumes_from_the_complete_checkpoint_of_an_older_version(finished_with, tmp_path, kind, has_checksum):
    """A run without checksums of its parts is one of version 0.2 or older, and its checkpoints stay complete."""
    whole = finished_with(kind)
    cut = interrupted(whole, tmp_path / "cut")
    all_names = set(named_variables(make_complete(cut).state))
    assert set(saved_in(cut, DONE)) == all_names > set(saved_in(whole, DONE))
    if not has_checksum:
        config = cut / run_folder.CONFIG
        text = config.read_text()
        config.write_text(re.sub(r"^  model_sha256: .*$", "  model_sha256: null", text, flags=re.MULTILINE))
        assert config.read_text() != text
    driver.resume(TEXT, cut)
    more = assert_same_end(cut, whole)
    assert more == (set() if has_checksum else all_names - set(saved_in(whole, DONE)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adapters", "frozen"])
def test_a_policy_is_evaluated_sampled_from_and_exported(finished_with, tmp_path, kind):
    """All give the same as a checkpoint of all weights does."""
    folder = finished_with(kind)
    complete = shutil.copytree(folder, tmp_path / "complete")
    trained = make_complete(complete)
    recorded = evaluation_of(folder)
    for path in (folder, complete):
        found, _ = driver.evaluate(TEXT, path, 4)
        assert json.loads(json.dumps(found)) == recorded
    assert tfppo.generate(folder, ["It"], samples=4) == tfppo.generate(complete, ["It"], samples=4)
    exported = driver.export(TEXT, shutil.copytree(folder, tmp_path / "lean"))
    model = as_language_model(load_preset(exported)[0])
    for weight, wanted in zip(model.model.weights, merged_copy(trained.policy.model).model.weights, strict=True):
        np.testing.assert_array_equal(weight, wanted)
    before = load_preset(trained.config.text.preset if kind == "adapters" else folder / run_folder.OWN_MODEL)[0]
    tokens = tf.constant([[7, 8, 9, 10]])
    assert np.abs(model.hidden_states(tokens) - as_language_model(before).hidden_states(tokens)).max() > 1e-4


@pytest.mark.slow
def test_a_checkpoint_without_a_trained_weight_is_refused(finished_with, tmp_path):
    folder = shutil.copytree(finished_with("adapters"), tmp_path / "run")
    arrays = saved_in(folder, 2)
    lost = max(name for name in arrays if name.startswith("model/"))
    del arrays[lost]
    np.savez(folder / run_folder.CHECKPOINTS / "000002" / STATE, allow_pickle=False, **arrays)
    for use in (lambda: driver.resume(TEXT, folder), lambda: driver.export(TEXT, folder)):
        assert f"does not fit this run ({lost} is missing in the checkpoint, but (" in refusal(use)


@pytest.mark.slow
def test_the_checkpoint_of_a_model_of_the_sizes_of_smollm2_is_small(tmp_path):
    """135 million weights would need 538 megabytes. KerasHub's adapters of rank 16 have 3.4 million, with Adam 41."""
    heads = {"num_query_heads": 9, "num_key_value_heads": 3, "hidden_dim": 576, "intermediate_dim": 1536}
    backbone = keras_hub.models.Llama3Backbone(49152, 30, tie_word_embeddings=True, **heads)
    given = (keras_hub.models.Llama3CausalLM(backbone), train_tokenizer(["A film", "the film"], 300))
    assert given[0].count_params() == 134_515_008
    trainer = TextTrainer(tiny(tmp_path, eval_prompts=0, prompt_length=20, lora_rank=16), model=given)
    driver.checkpoints_of(trainer, tmp_path).save(1)
    size = sum(path.stat().st_size for path in (tmp_path / run_folder.CHECKPOINTS).rglob("*") if path.is_file())
    trained = sum(weight.shape.num_elements() for weight in trainer.policy.trainable_variables)
    assert 12 * trained < size < 12.1 * trained < 42e6
