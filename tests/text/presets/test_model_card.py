"""The model card of an export: front matter that Hugging Face reads, the settings of the run, and its results."""

import shutil

import pytest
import yaml

import tfppo
from tfppo import load_preset
from tfppo.execution.variables import weights_hash
from tfppo.text.defaults import make_text_config
from tfppo.text.presets import default_preset, model_card
from tfppo.text.presets.model_card import Base, Tuning, base_of, write_card

EVALUATION = {
    "task": "length",
    "prompts": 50,
    "score": {"reference": {"mean": 0.25, "std": 1.0}, "policy": {"mean": 0.75, "std": 1.0}},
    "within_one_word": {"reference": 0.1, "policy": None},
    "kl": 3.21,
    "weights": "abc",
}


def card(folder, base, evaluation=None, form="keras", **settings):
    """Writes a card; returns its front matter and its text."""
    folder.mkdir()
    config = make_text_config(**({"task": "length"} | settings))
    write_card(folder, form, base, Tuning(config, 7, evaluation), "model = load()")
    text = (folder / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_a_card_says_what_was_done_and_what_came_out(tmp_path):
    front, text = card(tmp_path / "a", base_of(make_text_config().text), EVALUATION, iterations=9, lora_rank=4)
    assert front["license"] == "mit" and front["library_name"] == "keras-hub" and "base_model" not in front
    assert front["pipeline_tag"] == "text-generation" and "lora" in front["tags"]
    for words in (
        f"tfppo {tfppo.__version__}",
        "# The language model that tfppo includes, tuned for the task length",
        "Licence of the base model: MIT, see NOTICE",
        "| iterations | 7 of 9 |",
        "| KL coefficient | 0.1 at the start, adapted to a target of 11 nats |",
        "| LoRA | rank 4, alpha 4, layers attention |",
        "On 50 held-out prompts",
        "| score | 0.250 | 0.750 |",
        "| within_one_word | 0.100 | not a number |",
        "3.210 nats",
        "model = load()",
    ):
        assert words in text, words
    assert "movie-gpt2" in (tmp_path / "a" / "NOTICE").read_text()


def test_a_card_names_the_prompts_of_the_user(tmp_path):
    own = {"prompts": "data/all.jsonl", "reward": "m:a,m:b", "reward_weights": (1.0, 0.5), "system": "Be\nbrief."}
    _, text = card(tmp_path / "a", Base("x", None), EVALUATION | {"split": "train"}, task=None, **own)
    for words in (
        "# X, tuned on prompts of all.jsonl",
        "| task | none |\n| prompts | prompts of all.jsonl |",
        "| reward | m:a,m:b, with the weights 1, 0.5 |",
        "| system message | Be brief. |",
        "On 50 training prompts",
    ):
        assert words in text, words
    _, text = card(tmp_path / "b", Base("x", None), EVALUATION | {"split": "test"}, prompts="all.csv")
    assert "tuned for the task length" in text and "| prompts | prompts of all.csv |" in text and "50 held-out" in text
    assert "tuned on prompts of Python" in card(tmp_path / "c", Base("x", None), task=None)[1]


def test_a_card_without_an_evaluation_says_so(tmp_path):
    front, text = card(tmp_path / "a", Base("elsewhere", None), form="adapters", kl_controller="fixed")
    assert front["library_name"] == "peft" and front["license"] == "unknown"
    assert "These weights were not evaluated." in text and "unknown: see the base model" in text
    assert "The adapters of a language model" in text and "| KL coefficient | 0.1 |" in text


@pytest.mark.parametrize(
    ("files", "licence", "said"),
    [
        ({"README.md": "---\nlicense: apache-2.0\n---\nA model."}, "apache-2.0", "apache-2.0"),
        ({"README.md": "---\nlicense: other\nlicense_name: own\n---\n"}, "other", "other, own"),
        ({"README.md": "no front matter", "LICENSE.txt": "Do good."}, "other", "see the file LICENSE.txt"),
        ({"README.md": "---\n: [\n---\n", "LICENSE": "Do good."}, "other", "see the file LICENSE"),
        ({}, "unknown", "unknown: see the base model"),
    ],
)
def test_the_licence_is_that_of_the_base_model(tmp_path, files, licence, said):
    folder = tmp_path / "base"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    front, text = card(tmp_path / "card", Base("hf://someone/model", folder))
    assert front["license"] == licence and f"Licence of the base model: {said}\n" in text
    assert front["base_model"] == "someone/model"
    copied = {path.name for path in (tmp_path / "card").iterdir()} - {"README.md"}
    assert copied == {name for name in files if name.startswith("LICENSE")}


def test_the_base_of_a_run_from_another_run_is_the_model_of_that_one_and_is_not_fetched(tmp_path, monkeypatch):
    configs = {"first": make_text_config(preset="hf://someone/model"), "second": make_text_config(init_from="first")}
    monkeypatch.setattr(model_card.run_folder, "read_config", lambda folder, kind: configs[folder.name])
    monkeypatch.setattr(model_card, "folder_of", lambda preset: pytest.fail(f"{preset} is fetched"))
    assert base_of(make_text_config(init_from="second").text) == Base("hf://someone/model", None)
    configs["first"] = make_text_config(preset="model")
    assert base_of(make_text_config(init_from="second").text) == Base("a model that was given in Python", None)


def test_a_preset_with_a_card_is_loaded(tmp_path):
    shutil.copytree(default_preset(), tmp_path / "preset")
    card(tmp_path / "card", base_of(make_text_config().text))
    shutil.copy(tmp_path / "card" / "README.md", tmp_path / "preset")
    model, _ = load_preset(tmp_path / "preset")
    assert weights_hash(model.weights) == weights_hash(load_preset(default_preset())[0].weights)
