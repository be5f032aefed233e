"""Writes the adapters of a language model alone, in the form of PEFT, for its base model in transformers.

A layer of KerasHub with several heads has an adapter of the shape [D, heads, r] x [r, D / heads]: each head has its own
first factor, and all share the second one. As a matrix [D, heads * D / heads] this product has the rank `heads * r`, so
that PEFT needs that rank for it.
"""

import re
from pathlib import Path

import keras
import keras_hub
import numpy as np

from tfppo.errors import UsageError
from tfppo.text.models.adapters import adapters_off
from tfppo.text.presets.configs import write_json
from tfppo.text.presets.hugging_face_export import save_weights
from tfppo.text.presets.hugging_face_weights import TO_HIDDEN, kind_of, named_weights

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."


def write_adapters(folder: Path, model: keras_hub.models.CausalLM, base: str) -> None:
    """Writes the adapters of a model into a new folder.

    Args:
      folder: Must not exist.
      model: A model with adapters.
      base: Name or folder of the model without adapters, for PEFT.

    Raises:
      FileExistsError: If the folder exists.
      UsageError: If the model has no adapters, or the family of the model is not supported.
    """
    kind = kind_of(model)
    if kind == "gpt2":
        raise UsageError(
            "the model is a GPT2CausalLM, whose queries, keys and values are one layer in transformers; adapters alone "
            "can be written for all other families of --format transformers: leave --adapters-only out"
        )
    layers = {id(layer._kernel): layer for layer in model._flatten_layers() if getattr(layer, "lora_enabled", False)}
    if not layers:
        raise UsageError("the run has no adapters; --adapters-only needs a run with lora_rank: leave it out")
    with adapters_off(model):  # then a kernel is the variable itself, and not the sum with the adapter
        named = [(name, layers[id(weight)]) for name, weight in named_weights(model, kind) if id(weight) in layers]
    tensors: dict[str, np.ndarray] = {}
    ranks: dict[str, int] = {}
    first = next(iter(layers.values()))
    alpha = float(first.lora_rank if first.lora_alpha is None else first.lora_alpha)
    for name, layer in named:
        module = name.removesuffix(".weight")
        down, up = _factors(name, layer, kind)
        tensors[f"{PREFIX}{module}.lora_A.weight"] = np.ascontiguousarray(down)
        tensors[f"{PREFIX}{module}.lora_B.weight"] = np.ascontiguousarray(up)
        ranks[module.split(".")[-1]] = len(down)
    if len(named) != len(layers):
        raise UsageError(
            f"{len(layers) - len(named)} layers with adapters have no counterpart in transformers: leave "
            "--adapters-only out"
        )
    folder.mkdir(parents=True)
    save_weights(tensors, folder / WEIGHTS_FILE)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": first.lora_rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": sorted(ranks),
        "rank_pattern": {_pattern(name): rank for name, rank in sorted(ranks.items())},
        "alpha_pattern": {_pattern(name): alpha * rank / first.lora_rank for name, rank in sorted(ranks.items())},
    }
    write_json(folder / CONFIG_FILE, config)


def _pattern(name: str) -> str:
    return rf"^.*\.{re.escape(name)}$"


def _factors(name: str, layer: keras.Layer, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the factors of an adapter as PEFT has them, A [R, in] and B [out, R], so that B A is their product."""
    first, second = (keras.ops.convert_to_numpy(x) for x in (layer.lora_kernel_a, layer.lora_kernel_b))
    if first.ndim == 2 or name.endswith(TO_HIDDEN):
        return first.reshape(-1, first.shape[-1]).T, second.T
    if kind.startswith("gemma"):
        first = np.moveaxis(first, 0, 1)  # of [heads, D, r]
    width, heads, rank = first.shape
    down = first.reshape(width, heads * rank).T
    return down, np.kron(np.eye(heads, dtype=second.dtype), second.T)  # [heads * D / heads, heads * r]
