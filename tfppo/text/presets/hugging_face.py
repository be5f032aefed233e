"""Folders in the form of Hugging Face: config.json, weights in *.safetensors, and the files of a tokenizer.

KerasHub (0.32) converts them. This module corrects what it ignores, rounds or does not find: the epsilon of
normalization layers, the names of settings in folders that transformers 5 wrote, the weights of Mistral, and of GPT-2
the width of its inner layers, the vocabulary and the special tokens, and the words that byte pairs do not
cross. Only weights in the form safetensors are read,
which cannot contain code.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
from keras_hub.src.utils.transformers import convert_mistral
from keras_hub.src.utils.transformers.safetensor_utils import SafetensorLoader

from tfppo.errors import UsageError, shown
from tfppo.text.data.special_tokens import keep_special_tokens, unsplittable_tokens_of
from tfppo.text.data.tokenizer import vocabulary_and_merges
from tfppo.text.presets.configs import (
    MODEL_FILE,
    TOKENIZER_CONFIG,
    TOKENIZER_FILE,
    Config,
    causal_lm_of,
    chat_template,
    end_tokens,
    read_json,
    write_json,
)
from tfppo.text.presets.word_splitting import apply_word_splitting

INDEX_FILE, WEIGHTS = "model.safetensors.index.json", "*.safetensors"
SUPPORTED = (  # values of `model_type`; benchmarks/hugging_face.py compares each with transformers
    *("gemma", "gemma2", "gemma3_text", "gpt2", "llama", "mistral", "mixtral"),
    *("qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3"),
)
NEW_NAMES = {"num_local_experts": "num_experts"}  # settings that transformers 5 renamed
DEFAULTS: dict[str, Any] = {  # of transformers, for settings that a folder may leave out
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
    "use_sliding_window": False,
    "sliding_window": None,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
}
# Settings that KerasHub's model of a type does not have, with the only value that it computes.
ABSENT: dict[str, dict[str, object]] = {
    "gpt2": {"activation_function": "gelu_new", "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False},
    "llama": {"attention_bias": False, "mlp_bias": False, "hidden_act": "silu"},
    "mistral": {"hidden_act": "silu"},
    "qwen2": {"hidden_act": "silu", "use_sliding_window": False},
    "qwen3": {"hidden_act": "silu", "attention_bias": False},
}


def is_hugging_face(folder: Path) -> bool:
    """Returns True if a folder has a config of Hugging Face, and not one of KerasHub."""
    try:
        config = read_json(folder / MODEL_FILE)
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "model_type" in config and "registered_name" not in config


def load_hugging_face(folder: Path, dtype: str) -> tuple[keras.Model, keras_hub.models.Tokenizer]:
    """Loads a language model and its tokenizer from a folder in the form of Hugging Face.

    Args:
      folder: The folder.
      dtype: Precision of the loaded model, "float32" or "mixed_bfloat16".

    Returns:
      The model and its tokenizer.

    Raises:
      UsageError: If the architecture or a setting of the model is not supported, or a file is missing.
      Exception: What KerasHub raises for damaged files.
    """
    config = corrected_config(read_json(folder / MODEL_FILE))
    _check_weights(folder)
    tokens = _corrected_tokens(folder)
    with _corrected_folder(folder, config, tokens) as corrected:
        settings = {"intermediate_dim": config["n_inner"]} if config.get("n_inner") else {}
        backbone = keras_hub.models.Backbone.from_preset(str(corrected), dtype=dtype, **settings)
        is_mistral = config["model_type"] == "mistral"
        if is_mistral:
            with _ExactWeights(str(corrected)) as weights:
                convert_mistral.convert_weights(backbone, weights, config)
        named = {"unsplittable_tokens": _added_tokens(folder, special=True)} if config["model_type"] == "gpt2" else {}
        # KerasHub has two tokenizers for Mistral, and would take any of them.
        tokenizer_class = keras_hub.models.MistralTokenizer if is_mistral else keras_hub.models.Tokenizer
        tokenizer = tokenizer_class.from_preset(str(corrected), **named)
    apply_word_splitting(folder, tokenizer, TOKENIZER_FILE)
    written = [token for token in _added_tokens(folder, special=False) if token in unsplittable_tokens_of(tokenizer)]
    more = end_tokens(folder), chat_template(folder), written
    keep_special_tokens(tokenizer, _adds_start_token(folder, tokens), *more)
    epsilon = config.get("rms_norm_eps", config.get("layer_norm_epsilon"))
    for layer in backbone._flatten_layers() if epsilon is not None else ():
        for name in ("epsilon", "layer_norm_epsilon"):  # all normalization layers of these models have the same
            if hasattr(layer, name):
                setattr(layer, name, epsilon)
    return causal_lm_of(backbone), tokenizer


class _Exact(np.ndarray):
    """An array that keeps its precision, because KerasHub's converter of Mistral rounds to float16."""

    def astype(self, *arguments: Any, **settings: Any) -> np.ndarray:
        return self


class _ExactWeights(SafetensorLoader):
    """Reads weights that are not rounded."""

    def get_tensor(self, hf_weight_key: str) -> np.ndarray:
        return super().get_tensor(hf_weight_key).view(_Exact)


def corrected_config(config: Config) -> Config:
    """Returns the config of a model with the names and defaults that KerasHub expects.

    Args:
      config: Content of `config.json`, of transformers 4 or 5.

    Raises:
      UsageError: If the model is one that KerasHub cannot compute.
    """
    kind = config["model_type"]
    if kind not in SUPPORTED:
        raise UsageError(
            f"model_type is {shown(kind)}; it must be one of {', '.join(SUPPORTED)}: give a model of "
            "one of these architectures"
        )
    old_names = {old: config[new] for new, old in NEW_NAMES.items() if new in config}
    config = DEFAULTS | old_names | config
    heads = config.get("num_attention_heads")
    config.setdefault("num_key_value_heads", heads)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if "full_attention" not in rope:  # Gemma 3 has rope parameters for each kind of layer, which KerasHub reads
        rope = {"rope_type": rope.get("type", "default")} | rope
        config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
        if config["rope_scaling"] and (kind, rope["rope_type"]) != ("llama", "llama3"):
            raise UsageError(
                f"rope_scaling of the model is {shown(rope['rope_type'])}; KerasHub's {kind} does not compute it: give "
                "a model without rope_scaling"
            )
    for name, only in ABSENT.get(kind, {}).items():
        if config.get(name, only) != only:
            raise UsageError(
                f"{name} of the model is {shown(config[name])}; KerasHub's {kind} computes only {shown(only)}: give "
                "another model"
            )
    if kind == "llama" and config.get("head_dim") not in (None, config["hidden_size"] // heads):
        raise UsageError(
            f"head_dim of the model is {shown(config['head_dim'])}; KerasHub's llama computes only hidden_size / "
            f"num_attention_heads = {config['hidden_size'] // heads}: give another model"
        )
    return config


def _check_weights(folder: Path) -> None:
    """Checks that a folder has weights as safetensors, and that all of them lie in the folder itself."""
    if not any(folder.glob(WEIGHTS)):
        raise UsageError(
            f"{folder} has no weights in the form safetensors ({WEIGHTS}): write them with transformers' "
            "model.save_pretrained(folder), because other forms can contain code"
        )
    if (folder / INDEX_FILE).is_file():
        names = set(read_json(folder / INDEX_FILE)["weight_map"].values())
        outside = [name for name in sorted(names) if Path(name).name != name or not name.endswith(".safetensors")]
        if outside:
            raise UsageError(f"{folder / INDEX_FILE} names {shown(outside[0])}: it must name files in the same folder")


@contextmanager
def _corrected_folder(folder: Path, config: Config, tokens: Config) -> Iterator[Path]:
    """Makes a folder that KerasHub reads, within a `with` block: corrected settings, and links to all other files."""
    with tempfile.TemporaryDirectory() as made:
        corrected = Path(made)
        for path in folder.iterdir():
            if path.is_file() and path.name not in (MODEL_FILE, TOKENIZER_CONFIG):
                os.symlink(path.resolve(), corrected / path.name)
        write_json(corrected / MODEL_FILE, config)
        write_json(corrected / TOKENIZER_CONFIG, tokens)
        if config["model_type"] == "gpt2" and not (folder / "vocab.json").exists():
            vocabulary, merges = vocabulary_and_merges(read_json(folder / TOKENIZER_FILE))
            write_json(corrected / "vocab.json", vocabulary)
            (corrected / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
        yield corrected


def _corrected_tokens(folder: Path) -> Config:
    """Returns the config of a tokenizer with special tokens as texts; in older folders they are objects."""
    config: Config = read_json(folder / TOKENIZER_CONFIG) if (folder / TOKENIZER_CONFIG).is_file() else {}
    tokens = {name: config.get(name) for name in ("bos_token", "eos_token")}
    texts = {name: token["content"] if isinstance(token, dict) else token for name, token in tokens.items()}
    return config | texts | {"bos_token": texts["bos_token"] or texts["eos_token"]}


def _added_tokens(folder: Path, special: bool) -> list[str]:
    """Returns the added tokens in the file of a tokenizer, if there is one: those that are special, or the others."""
    if not (folder / TOKENIZER_FILE).is_file():
        return []
    tokens = read_json(folder / TOKENIZER_FILE).get("added_tokens", [])
    return [token["content"] for token in tokens if token["special"] == special]


def _adds_start_token(folder: Path, tokens: Config) -> bool | None:
    """Returns whether the tokenizer of a folder puts its start token before a text; None: the folder does not say."""
    if (folder / TOKENIZER_FILE).is_file():
        processor = read_json(folder / TOKENIZER_FILE).get("post_processor")
        return json.dumps(tokens["bos_token"]) in json.dumps(processor)
    return tokens.get("add_bos_token")
