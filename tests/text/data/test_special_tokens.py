"""The start token and the end tokens of tokenizers, from their family, a preprocessor, or the folder of a model."""

import json

import keras_hub
import pytest
import tensorflow as tf
from support.families import FAMILIES, make_family, make_tokenizer
from support.hugging_face import BEGIN, END, make_folder, write

from tfppo import load_preset
from tfppo.text.config import TextConfig
from tfppo.text.data.codec import PromptCodec
from tfppo.text.data.special_tokens import keep_special_tokens, special_tokens_of
from tfppo.text.presets import save_preset
from tfppo.text.start.given import given_special_tokens
from tfppo.text.start.parts import fingerprints

STARTS = {"OPT", "Bloom", "Gemma", "Gemma2", "Gemma3", "Llama", "Llama3", "Mistral", "Mixtral", "Phi3"}
"""Families whose models were trained with a start token before each text."""


@pytest.mark.parametrize("name", [name for name in FAMILIES if "tied" not in name])
def test_a_family_has_the_start_token_of_its_preprocessor_unless_it_is_the_end_token(name):
    tokenizer = make_tokenizer(name)
    start, ends, *_ = special_tokens_of(tokenizer)
    assert (start is not None) == (name in STARTS)
    assert ends[0] == tokenizer.end_token_id and PromptCodec(tokenizer).ends == ends
    token_ids, lengths = PromptCodec(tokenizer).encode(["the film"])
    plain = [int(token) for token in tokenizer(["the film"])[0]]
    assert token_ids[0].tolist() == ([start] if name in STARTS else []) + plain and lengths[0] == len(token_ids[0])
    if name in STARTS:
        assert start == tokenizer.start_token_id
        assert PromptCodec(tokenizer).decode(token_ids) == ["the film"]


def test_llama_3_ends_with_either_of_its_end_tokens():
    tokenizer = make_tokenizer("Llama3")
    codec = PromptCodec(tokenizer)
    assert codec.ends == (tokenizer.token_to_id("<|end_of_text|>"), tokenizer.token_to_id("<|eot_id|>"))
    is_end = codec.stop_condition(TextConfig())
    tokens = tf.constant([[*codec.ends, 30]])
    assert is_end(tokens, tf.range(3)).numpy().tolist() == [[True, True, False]]
    assert codec.decode([[30, codec.ends[1]]]) == codec.decode([[30]])  # no end token is a part of the text


@pytest.mark.parametrize("adds_start", [True, False])
def test_a_given_preprocessor_decides_about_the_start_token(adds_start):
    tokenizer = make_tokenizer("Gemma")
    model = make_family("Gemma", vocabulary_size=tokenizer.vocabulary_size())
    preprocessor = keras_hub.models.GemmaCausalLMPreprocessor(tokenizer, add_start_token=adds_start)
    for given in ((model, preprocessor), keras_hub.models.GemmaCausalLM(model.backbone, preprocessor)):
        special = given_special_tokens(given)
        assert PromptCodec(tokenizer, special=special).before == [tokenizer.start_token_id] * adds_start
    assert given_special_tokens((model, tokenizer)) == special_tokens_of(tokenizer)  # it knows nothing of the others


@pytest.mark.parametrize("adds_start", [True, False])
def test_a_preset_keeps_the_start_token_and_all_end_tokens(tmp_path, adds_start):
    tokenizer = make_tokenizer("Gemma")
    model = make_family("Gemma", vocabulary_size=tokenizer.vocabulary_size())
    keep_special_tokens(tokenizer, adds_start, [7, 9])
    save_preset(tmp_path / "preset", model, tokenizer)
    loaded = load_preset(tmp_path / "preset")[1]
    start = tokenizer.start_token_id if adds_start else None
    assert special_tokens_of(loaded) == (start, (tokenizer.end_token_id, 7, 9), None, ())
    of_keras_hub = keras_hub.models.CausalLMPreprocessor.from_preset(str(tmp_path / "preset"))
    assert of_keras_hub.add_start_token == adds_start


@pytest.mark.parametrize(
    ("post_processor", "adds_start"),
    [(None, False), ({"type": "TemplateProcessing", "special_tokens": {BEGIN: {"ids": [11]}}}, True)],
)
def test_the_folder_of_a_hugging_face_model_decides_about_the_start_token(tmp_path, post_processor, adds_start):
    make_folder(tmp_path / "model")
    path = tmp_path / "model" / "tokenizer.json"
    write(path, json.loads(path.read_text()) | {"post_processor": post_processor})
    tokenizer = load_preset(tmp_path / "model")[1]
    assert PromptCodec(tokenizer).before == [tokenizer.token_to_id(BEGIN)] * adds_start


@pytest.mark.parametrize(("listed", "more"), [(12, []), ([12, 5], [5]), ([], [])])
def test_the_end_tokens_of_a_generation_config_are_used(tmp_path, listed, more):
    make_folder(tmp_path / "model")
    write(tmp_path / "model" / "generation_config.json", {"eos_token_id": listed})
    tokenizer = load_preset(tmp_path / "model")[1]
    assert tokenizer.token_to_id(END) == 12
    assert PromptCodec(tokenizer).ends == (12, *more)


def test_other_special_tokens_are_another_tokenizer_for_a_run():
    def checksum(*settings):
        tokenizer = make_tokenizer("Qwen")
        if settings:
            keep_special_tokens(tokenizer, *settings)
        return fingerprints(make_family("Qwen"), tokenizer, None, None).tokenizer_sha256

    assert checksum() == checksum(False) == checksum(None)
    assert len({checksum(), checksum(None, [7]), checksum(None, [8])}) == 3
