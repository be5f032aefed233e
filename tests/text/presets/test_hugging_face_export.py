"""Folders for transformers: equal logits and tokens after they are loaded again, and compared with a Llama in NumPy."""

import json

import keras_hub
import numpy as np
import pytest
from safetensors.numpy import load_file
from support.families import TEXTS, byte_pairs, make_family, make_tokenizer
from support.hugging_face import BEGIN, CONFIG, END, LLAMA3_ROPE, logits, make_folder, write
from support.refusal import refusal
from tokenizers import Tokenizer

from tfppo import load_preset
from tfppo.text.data.codec import PromptCodec
from tfppo.text.data.special_tokens import SpecialTokens, special_tokens_of
from tfppo.text.models.adapters import adapter_variables, add_adapters
from tfppo.text.models.lstm import LSTMLanguageModel
from tfppo.text.presets.folder import save_preset
from tfppo.text.presets.hugging_face_export import write_hugging_face
from tfppo.text.presets.hugging_face_weights import kind_of, weights_of
from tfppo.text.presets.peft import CONFIG_FILE, WEIGHTS_FILE, write_adapters

TOKENS = np.random.default_rng(0).integers(5, 75, 24)
slow = pytest.mark.slow
FAMILIES = [
    "GPT2",
    "Llama3 tied",
    "Gemma3",
    "Qwen tied",
    *(pytest.param(name, marks=slow) for name in ("Llama3", "Mistral", "Gemma", "Gemma2", "Qwen", "Qwen3", "SmolLM3")),
]


def computed(model, tokens=TOKENS):
    inputs = {"token_ids": tokens[None], "padding_mask": np.ones_like(tokens[None])}
    return model(inputs, training=False).numpy()[0]


def make(name):
    """Makes a small model and a tokenizer of a family."""
    layers = {"num_layers": 7} if name == "Gemma3" else {}  # every sixth layer attends without a window
    model = make_family(name, vocabulary_size=304, **layers)
    for weight in model.weights:
        if "inv_freq" in weight.path:  # SmolLM3's, which is computed from its settings
            weight.assign(10000.0 ** (-np.arange(0, 4, 2) / 4))
    return model, make_tokenizer(name)


@pytest.mark.representatives(2)
@pytest.mark.parametrize("name", FAMILIES)
def test_what_goes_out_comes_back(name, tmp_path):
    model, tokenizer = make(name)
    special = special_tokens_of(tokenizer)
    special = SpecialTokens(special.start, (*special.ends, 40))
    write_hugging_face(tmp_path / "out", model, tokenizer, special)
    loaded, again = load_preset(tmp_path / "out")
    tolerance = 1e-3 if name == "Qwen3" else 1e-5  # KerasHub's Qwen3 has another epsilon for its queries and keys
    np.testing.assert_allclose(computed(loaded), computed(model), atol=tolerance)
    assert type(again) is type(tokenizer) and special_tokens_of(again) == special
    assert [[*map(int, row)] for row in again(TEXTS)] == [[*map(int, row)] for row in tokenizer(TEXTS)]
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == list(special.ends) and generation["bos_token_id"] == special.start
    if name in ("GPT2", "Llama3 tied", "Qwen tied"):
        start = [] if special.start is None else [special.start]
        of_tokenizers = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
        for text in TEXTS:
            assert of_tokenizers.encode(text).ids == start + [*map(int, tokenizer(text))]
        named = [token for token in tokenizer.special_tokens if token != "<pad>"]
        assert all(of_tokenizers.encode(f"a{token}").ids[-1] == tokenizer.token_to_id(token) for token in named)


def test_tokens_that_are_text_stay_text(tmp_path):
    """Thoughts between <think> and </think> are words of the model that a reward reads (Qwen3, SmolLM3)."""
    model, tokenizer = make("Qwen3")
    thoughts = "<think>", "</think>"
    named = [*tokenizer.unsplittable_tokens, *thoughts]  # as KerasHub converts a tokenizer of Qwen3
    tokenizer = type(tokenizer)(*byte_pairs(), unsplittable_tokens=named)
    special = special_tokens_of(tokenizer)._replace(written=thoughts)
    write_hugging_face(tmp_path / "out", model, tokenizer, special)
    _, again = load_preset(tmp_path / "out")
    save_preset(tmp_path / "preset", model, tokenizer, "float32", special)
    _, saved = load_preset(tmp_path / "preset")
    template = "{{ messages[0].content }}<think>"
    for found in (again, saved):
        assert special_tokens_of(found).written == thoughts
        codec = PromptCodec(found, special=special_tokens_of(found), template=template)
        (answer,) = codec.encode_answers(["<think>a film</think>the cast"])
        ids = [found.token_to_id(token) for token in thoughts]
        assert [token for token in answer if token in ids] == ids  # each is one token
        assert codec.decode([answer]) == ["<think>a film</think>the cast"]
        (prompt,) = codec.encode_prompts(["the film"])
        assert prompt[-1] == ids[0]
    file = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert file.decode(file.encode("<think>a film").ids, skip_special_tokens=True).startswith("<think>")


@pytest.mark.parametrize("settings", [{}, {"tie_word_embeddings": None, "rope_scaling": LLAMA3_ROPE}])
def test_a_llama_gives_the_same_logits_in_numpy(tmp_path, settings):
    weights = make_folder(tmp_path / "model", max_position_embeddings=77, **settings)
    model, tokenizer = load_preset(tmp_path / "model")
    write_hugging_face(tmp_path / "out", model, tokenizer, special_tokens_of(tokenizer), tmp_path / "model")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["rms_norm_eps"] == CONFIG["rms_norm_eps"] and config["max_position_embeddings"] == 77
    assert config["architectures"] == CONFIG["architectures"]
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written.keys() == weights.keys()  # tied embeddings are written once
    np.testing.assert_array_equal(logits(config, written, TOKENS), logits(CONFIG | settings, weights, TOKENS))


def test_the_files_of_the_tokenizer_and_the_chat_template_are_kept(tmp_path):
    make_folder(tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text("{{ messages }}")
    model, tokenizer = load_preset(tmp_path / "model")
    write_hugging_face(tmp_path / "out", model, tokenizer, special_tokens_of(tokenizer), tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


def test_a_tokenizer_is_written_with_its_special_tokens(tmp_path):
    names = {"bos_token": BEGIN, "eos_token": END, "misc_special_tokens": {"<think>"}}
    tokenizer = keras_hub.models.Llama3Tokenizer(*byte_pairs(), **names)
    model = make_family("Llama3", vocabulary_size=304)
    write_hugging_face(tmp_path / "out", model, tokenizer, special_tokens_of(tokenizer))
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert (config["bos_token"], config["eos_token"]) == (BEGIN, END)
    again = load_preset(tmp_path / "out")[1]
    assert (again.start_token, again.end_token) == (BEGIN, END) and "<think>" in again.special_tokens


def test_the_weights_of_mistral_are_not_rounded(tmp_path):
    model, tokenizer = make("Mistral")
    write_hugging_face(tmp_path / "out", model, tokenizer, special_tokens_of(tokenizer))
    loaded, _ = load_preset(tmp_path / "out")
    for mine, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(other, mine)


@pytest.mark.fault(
    "An export for transformers would be loaded as another model, or its family or tokenizer has no such form",
    "A one-line error says what is possible.",
)
def test_what_has_no_form_in_transformers_is_refused(tmp_path):
    bloom, llama = make_family("Bloom"), make_family("Llama3", vocabulary_size=304)
    tokenizer, special = make_tokenizer("Llama3"), SpecialTokens(None, (5,))
    text = refusal(write_hugging_face, tmp_path / "out", bloom, tokenizer, special)
    assert "BloomCausalLM" in text and "this works for Gemma, Gemma3, GPT2, Llama" in text and "--format keras" in text
    text = refusal(write_hugging_face, tmp_path / "out", llama, make_tokenizer("GPT2"), special)
    assert "GPT2Tokenizer" in text and "Llama3Backbone" in text
    assert not (tmp_path / "out").exists()
    llama.backbone.transformer_layers[0]._self_attention_layernorm.epsilon = 3.0
    text = refusal(write_hugging_face, tmp_path / "out", llama, tokenizer, special_tokens_of(tokenizer))
    assert "would be loaded as something else (the hidden states of its copy differ by up to" in text
    assert "LSTMLanguageModel" in refusal(kind_of, LSTMLanguageModel(20, num_layers=1, hidden_dim=8, dropout=0.0))


# ----- Adapters for PEFT


@pytest.mark.parametrize("name", ["Llama3 tied", "Gemma3", pytest.param("Qwen", marks=slow)])
def test_the_base_and_the_adapters_are_the_tuned_model(name, tmp_path):
    model, _ = make(name)
    kind = kind_of(model)
    base = weights_of(model, kind)
    add_adapters(model, rank=2, alpha=3.0, targets="all")
    for number, variable in enumerate(adapter_variables(model)):
        variable.assign(np.random.default_rng(number).normal(0.0, 0.3, variable.shape))
    write_adapters(tmp_path / "adapters", model, "someone/model")
    config = json.loads((tmp_path / "adapters" / CONFIG_FILE).read_text())
    assert config["base_model_name_or_path"] == "someone/model" and (config["r"], config["lora_alpha"]) == (2, 3.0)
    factors, changed = load_file(tmp_path / "adapters" / WEIGHTS_FILE), 0
    for weight, tuned in weights_of(model, kind).items():
        module = weight.removesuffix(".weight")
        key, end = f"base_model.model.{module}.lora_{{}}.weight", module.split(".")[-1]
        if end in config["target_modules"]:
            pattern = rf"^.*\.{end}$"
            scale = config["alpha_pattern"][pattern] / config["rank_pattern"][pattern]
            assert factors[key.format("A")].shape[0] == config["rank_pattern"][pattern]
            expected = base[weight] + scale * factors[key.format("B")] @ factors[key.format("A")]
            np.testing.assert_allclose(expected, tuned, atol=1e-5)
            changed += np.abs(tuned - base[weight]).max() > 0.1
        else:
            np.testing.assert_array_equal(tuned, base[weight])
    assert len(factors) == 2 * changed == 2 * 7 * model.backbone.num_layers


def test_adapters_are_merged_into_a_folder_for_transformers(tmp_path):
    model, tokenizer = make("Llama3 tied")
    add_adapters(model, rank=2)
    for variable in adapter_variables(model):
        variable.assign(np.random.default_rng(1).normal(0.0, 0.3, variable.shape))
    write_hugging_face(tmp_path / "out", model, tokenizer, special_tokens_of(tokenizer))
    np.testing.assert_allclose(computed(load_preset(tmp_path / "out")[0]), computed(model), atol=1e-4)


@pytest.mark.fault("Adapters alone are exported from a model whose family or run has none", "A one-line error.")
def test_adapters_that_peft_does_not_have_are_refused(tmp_path):
    gpt2, _ = make("GPT2")
    add_adapters(gpt2, rank=2)
    assert "GPT2CausalLM" in refusal(write_adapters, tmp_path / "out", gpt2, "")
    assert "lora_rank" in refusal(write_adapters, tmp_path / "out", make_family("Llama3"), "")
    assert not (tmp_path / "out").exists()


@slow
@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_run_of_a_folder_is_exported_and_tuned_again(tmp_path, monkeypatch, lora_rank):
    from tfppo.cli import main

    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "model")
    write(tmp_path / "model" / "generation_config.json", {"eos_token_id": [12, 5]})
    sizes = "--task length --iterations 1 --batch-size 8 --minibatch-size 4 --response-length 5 --eval-prompts 4"
    train = ["train", "text", *sizes.split(), "--prompt-length", "40", "--lora-rank", str(lora_rank)]
    for preset, name in ((tmp_path / "model", "one"), (tmp_path / "runs" / "one" / "export", "two")):
        assert main([*train, "--preset", str(preset), "--name", name]) == 0
        assert main(["export", f"runs/{name}", "--format", "transformers"]) == 0
        assert special_tokens_of(load_preset(tmp_path / "runs" / name / "export")[1]).ends == (12, 5)
    if lora_rank:
        assert main(["export", "runs/two", "--adapters-only"]) == 0
        config = json.loads((tmp_path / "runs" / "two" / "export" / CONFIG_FILE).read_text())
        assert config["base_model_name_or_path"] == str(tmp_path / "runs" / "one" / "export")
