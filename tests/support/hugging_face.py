"""Writes a small Llama as a Hugging Face folder, and computes its logits with NumPy."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from support.families import SPECIAL, byte_pairs

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 0.01,  # large, so that it shows
    "rope_theta": 500.0,
    "tie_word_embeddings": True,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
BEGIN, END = "<|im_start|>", "<|im_end|>"


def make_folder(folder: Path, **settings: Any) -> dict[str, np.ndarray]:
    """Writes config, weights and tokenizer of a random Llama, and returns the weights by name.

    Args:
      folder: Must not exist.
      **settings: Settings of the config that replace those of `CONFIG`; None leaves one out.
    """
    vocabulary, merges = byte_pairs()
    config = {name: value for name, value in (CONFIG | settings).items() if value is not None}
    config["vocab_size"] = len(vocabulary)
    folder.mkdir()
    weights = make_weights(config)
    save_file(weights, folder / "model.safetensors")
    tokens = [{"id": vocabulary[token], "content": token, "special": True} for token in SPECIAL]
    model = {"type": "BPE", "vocab": vocabulary, "merges": merges}
    write(folder / "config.json", config)
    write(folder / "tokenizer.json", {"model": model, "added_tokens": tokens})
    write(folder / "tokenizer_config.json", {"bos_token": BEGIN, "eos_token": {"content": END, "special": True}})
    return weights


def write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def make_weights(config: dict[str, Any]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    width, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    keys = width // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": (vocabulary, width), "model.norm.weight": (width,)}
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (vocabulary, width)
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}."
        shapes |= {layer + "input_layernorm.weight": (width,), layer + "post_attention_layernorm.weight": (width,)}
        attention = {
            "q_proj": (width, width),
            "k_proj": (keys, width),
            "v_proj": (keys, width),
            "o_proj": (width, width),
        }
        feed_forward = {"gate_proj": (inner, width), "up_proj": (inner, width), "down_proj": (width, inner)}
        shapes |= {f"{layer}self_attn.{name}.weight": shape for name, shape in attention.items()}
        shapes |= {f"{layer}mlp.{name}.weight": shape for name, shape in feed_forward.items()}
    return {
        name: np.float32((1.0 if "norm" in name else 0.0) + rng.normal(0.0, 0.3, shape))
        for name, shape in shapes.items()
    }


def logits(config: dict[str, Any], weights: dict[str, np.ndarray], tokens: np.ndarray) -> np.ndarray:
    """Computes the logits [S, V] of a Llama for a sequence of tokens [S] (Touvron et al. 2023), in float64."""
    w = {name: np.float64(weight) for name, weight in weights.items()}
    heads, key_heads = config["num_attention_heads"], config["num_key_value_heads"]
    size, length = config["hidden_size"] // heads, len(tokens)
    angles = np.arange(length)[:, None] * frequencies(config, size)  # [S, D / 2]
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]

    def norm(x, scale):
        return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + config["rms_norm_eps"]) * scale

    def rotate(x):  # [S, heads, D]
        a, b = np.split(x, 2, axis=-1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    x = w["model.embed_tokens.weight"][tokens]
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}."
        h = norm(x, w[layer + "input_layernorm.weight"])
        q, k, v = (h @ w[f"{layer}self_attn.{name}_proj.weight"].T for name in "qkv")
        q, k = (rotate(z.reshape(length, -1, size)) for z in (q, k))
        k, v = (np.repeat(z.reshape(length, -1, size), heads // key_heads, axis=1) for z in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(size)
        scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
        attention = np.exp(scores - scores.max(axis=-1, keepdims=True))
        attention /= attention.sum(axis=-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", attention, v).reshape(length, -1)
        x = x + mixed @ w[layer + "self_attn.o_proj.weight"].T
        h = norm(x, w[layer + "post_attention_layernorm.weight"])
        gate, up = (h @ w[f"{layer}mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[layer + "mlp.down_proj.weight"].T
    return norm(x, w["model.norm.weight"]) @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T


def frequencies(config: dict[str, Any], size: int) -> np.ndarray:
    """Computes the rotary frequencies [D / 2], scaled as in Llama 3 (Grattafiori et al. 2024) if the config says so."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = rope.get("rope_theta", config.get("rope_theta"))
    plain = theta ** (-np.arange(0, size, 2) / size)
    if rope.get("rope_type", "default") == "default":
        return plain
    waves = rope["original_max_position_embeddings"] * plain / (2 * np.pi)  # waves within the original length
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    share = np.clip((waves - low) / (high - low), 0.0, 1.0)
    return plain * (share + (1 - share) / rope["factor"])
