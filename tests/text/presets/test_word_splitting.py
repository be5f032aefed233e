"""Byte pairs do not cross the words of the Hugging Face folder, also after the tokenizer was saved."""

import json

import keras_hub
import pytest
from support.hugging_face import BEGIN, END, make_folder, write
from support.refusal import refusal
from tokenizers import Tokenizer

from tfppo import load_preset
from tfppo.text.presets import save_preset

TEXTS = ["It's  the film.\n\n  A 1999 film, \uff76 caf\u00e9 \n", "  ", "the film<|im_end|>\nthe film"]
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}
JOINED = [["t", "h"], ["\u0120", "\u0120"], ["th", "e"], ["\u010a", "\u0120"], ["s", "\u0120"]]  # across words, too


@pytest.fixture
def make(tmp_path):
    """`make(**parts)` writes a Hugging Face folder whose tokenizer has these parts, and byte pairs across words."""

    def made(**parts):
        folder = tmp_path / "model"
        make_folder(folder)
        write(folder / "tokenizer_config.json", {"bos_token": BEGIN, "eos_token": END})  # as KerasHub itself reads them
        content = json.loads((folder / "tokenizer.json").read_text())
        vocabulary = content["model"]["vocab"]
        unused = [token for token, id in vocabulary.items() if id > 262]  # longer than a byte
        for pair, token in zip(JOINED, unused, strict=False):
            vocabulary["".join(pair)] = vocabulary.pop(token)
        content["model"]["merges"] = JOINED
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        added = [flags | token for token in content["added_tokens"]]
        write(folder / "tokenizer.json", content | {"version": "1.0", "added_tokens": added} | parts)
        return folder

    return made


def ids(tokenizer):
    return [[*map(int, tokenizer([text])[0])] for text in TEXTS]


@pytest.mark.representatives(2)
@pytest.mark.parametrize(
    "parts",
    [
        pytest.param({"pre_tokenizer": BYTES}, id="GPT-2"),
        pytest.param({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [DIGITS, BYTES]}}, id="SmolLM2"),
        pytest.param({"pre_tokenizer": BYTES, "normalizer": {"type": "NFKC"}}, id="normalized"),
    ],
)
def test_words_are_those_of_the_folder(make, tmp_path, parts):
    folder = make(**parts)
    given = Tokenizer.from_file(str(folder / "tokenizer.json"))
    expected = [given.encode(text).ids for text in TEXTS]
    model, tokenizer = load_preset(folder)
    assert ids(tokenizer) == expected != ids(keras_hub.models.Tokenizer.from_preset(str(folder)))
    for number in range(2):
        save_preset(tmp_path / f"preset{number}", model, tokenizer, "float32")
        model, tokenizer = load_preset(tmp_path / f"preset{number}")
        assert ids(tokenizer) == expected


def test_a_folder_without_words_keeps_those_of_keras_hub(make, tmp_path):
    folder = make()
    model, tokenizer = load_preset(folder)
    assert ids(tokenizer) == ids(keras_hub.models.Tokenizer.from_preset(str(folder)))
    save_preset(tmp_path / "preset", model, tokenizer, "float32")
    assert not (tmp_path / "preset" / "word_splitting.json").exists()


def test_words_that_cannot_be_read_are_one_line(make):
    assert "cannot be read" in refusal(load_preset, make(pre_tokenizer={"type": "Unknown"}))
