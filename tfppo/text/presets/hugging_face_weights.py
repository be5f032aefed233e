"""Settings and weights of KerasHub models in the form of Hugging Face.

KerasHub (0.32) has converters from that form for more families than to it, and its exporters leave settings out. So
this module asks a converter for the names of the weights, and writes the settings itself.
"""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import keras
import keras_hub
import numpy as np
from keras_hub.src.utils.transformers import (
    convert_gemma,
    convert_gemma3,
    convert_gpt2,
    convert_llama3,
    convert_mistral,
    convert_qwen,
    convert_qwen3,
    convert_smollm3,
)

from tfppo.errors import UsageError
from tfppo.text.presets.configs import Config

CONVERTERS: dict[str, ModuleType] = {
    "gemma": convert_gemma,
    "gemma2": convert_gemma,
    "gemma3_text": convert_gemma3,
    "gpt2": convert_gpt2,
    "llama": convert_llama3,
    "mistral": convert_mistral,
    "qwen2": convert_qwen,
    "qwen3": convert_qwen3,
    "smollm3": convert_smollm3,
}
ARCHITECTURES = {
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
}
KINDS: dict[type[keras.Model], str] = {
    keras_hub.models.GemmaCausalLM: "gemma",
    keras_hub.models.Gemma3CausalLM: "gemma3_text",
    keras_hub.models.GPT2CausalLM: "gpt2",
    keras_hub.models.LlamaCausalLM: "llama",
    keras_hub.models.Llama3CausalLM: "llama",
    keras_hub.models.MistralCausalLM: "mistral",
    keras_hub.models.QwenCausalLM: "qwen2",
    keras_hub.models.Qwen3CausalLM: "qwen3",
    keras_hub.models.SmolLM3CausalLM: "smollm3",
}
PREFIXES = {"gpt2": "transformer.", "qwen3": "model."}  # which these converters leave out of the names
TO_HIDDEN = ("o_proj.weight", "down_proj.weight")  # projections to the width of the model; others project from it
LONGEST = 131072  # max_position_embeddings of a model whose largest length is not known; it changes no logits


def kind_of(model: keras.Model) -> str:
    """Returns the `model_type` of a model in transformers.

    Raises:
      UsageError: If the model cannot be written in the form of Hugging Face.
    """
    kind = KINDS.get(type(model))
    if kind is None:
        families = ", ".join(dict.fromkeys(type.__name__.removesuffix("CausalLM") for type in KINDS))
        raise UsageError(
            f"the model is a {type(model).__name__}, which cannot be written for transformers; this works for "
            f"{families}: export it with --format keras"
        )
    return "gemma2" if kind == "gemma" and model.backbone.use_post_ffw_norm else kind


def settings_of(model: keras.Model, kind: str) -> Config:
    """Returns the `config.json` of a model, without its tokens.

    Args:
      model: A model of one of `KINDS`.
      kind: Its `model_type`.
    """
    backbone = model.backbone
    epsilon = backbone.get_layer(backbone.output_names[0]).epsilon
    common = {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "vocab_size": backbone.vocabulary_size,
        "tie_word_embeddings": backbone.token_embedding.tie_weights,
        "torch_dtype": "float32",
        "use_cache": True,
    }
    if kind == "gpt2":
        rates = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), backbone.dropout)
        return (
            common
            | rates
            | {
                "n_positions": backbone.max_sequence_length,
                "n_embd": backbone.hidden_dim,
                "n_layer": backbone.num_layers,
                "n_head": backbone.num_heads,
                "n_inner": backbone.intermediate_dim,
                "activation_function": "gelu_new",
                "layer_norm_epsilon": epsilon,
            }
        )
    heads = backbone.num_attention_heads if kind == "smollm3" else backbone.num_query_heads
    common |= {
        "hidden_size": backbone.hidden_dim,
        "intermediate_size": backbone.intermediate_dim,
        "num_hidden_layers": backbone.num_layers,
        "num_attention_heads": heads,
        "num_key_value_heads": backbone.num_key_value_heads,
        "head_dim": getattr(backbone, "head_dim", None) or backbone.hidden_dim // heads,
        "max_position_embeddings": LONGEST,
        "rms_norm_eps": epsilon,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
    }
    return common | _OF_FAMILIES[kind](backbone)


def _gemma(backbone: keras_hub.models.Backbone) -> Config:
    activation = {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh"}
    return activation | {"intermediate_size": backbone.intermediate_dim // 2, "rope_theta": 10000.0}


def _gemma2(backbone: keras_hub.models.Backbone) -> Config:
    return (
        _gemma(backbone)
        | _queries(backbone)
        | {
            "sliding_window": backbone.sliding_window_size,
            "attn_logit_softcapping": backbone.attention_logit_soft_cap,
            "final_logit_softcapping": backbone.final_logit_soft_cap,
        }
    )


def _gemma3(backbone: keras_hub.models.Backbone) -> Config:
    def rope(theta: float, factor: float) -> Config:
        plain = {"rope_type": "default", "rope_theta": theta}
        return plain if factor == 1.0 else plain | {"rope_type": "linear", "factor": factor}

    windows = [layer.use_sliding_window_attention for layer in backbone.transformer_layers]
    return _queries(backbone) | {
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": backbone.sliding_window_size,
        "layer_types": ["sliding_attention" if window else "full_attention" for window in windows],
        "attn_logit_softcapping": backbone.attention_logit_soft_cap,
        "final_logit_softcapping": backbone.final_logit_soft_cap,
        "rope_parameters": {  # the wavelengths are fixed in KerasHub
            "sliding_attention": rope(1e4, backbone.local_rope_scaling_factor),
            "full_attention": rope(1e6, backbone.global_rope_scaling_factor),
        },
    }


def _queries(backbone: keras_hub.models.Backbone) -> Config:
    width = backbone.hidden_dim // backbone.num_query_heads
    return {"query_pre_attn_scalar": backbone.head_dim if backbone.query_head_dim_normalize else width}


def _llama(backbone: keras_hub.models.Backbone) -> Config:
    theta: Config = {"rope_theta": float(backbone.rope_max_wavelength)}
    if backbone.rope_frequency_adjustment_factor is None:
        return theta
    scaling = {
        "rope_type": "llama3",
        "factor": backbone.rope_frequency_adjustment_factor,
        "low_freq_factor": backbone.rope_low_freq_factor,
        "high_freq_factor": backbone.rope_high_freq_factor,
        "original_max_position_embeddings": backbone.rope_pretraining_sequence_length,
    }
    return theta | {"rope_scaling": scaling}


def _mistral(backbone: keras_hub.models.Backbone) -> Config:
    return {"rope_theta": float(backbone.rope_max_wavelength), "sliding_window": backbone.sliding_window}


def _qwen2(backbone: keras_hub.models.Backbone) -> Config:
    window = {"use_sliding_window": backbone.use_sliding_window_attention}
    return window | {"rope_theta": float(backbone.rope_max_wavelength), "sliding_window": backbone.sliding_window_size}


def _qwen3(backbone: keras_hub.models.Backbone) -> Config:
    return {"rope_theta": float(backbone.rope_max_wavelength), "use_sliding_window": False, "sliding_window": None}


def _smollm3(backbone: keras_hub.models.Backbone) -> Config:
    return {
        "rope_theta": float(backbone.rope_theta),
        "max_position_embeddings": backbone.max_position_embeddings,
        "no_rope_layers": [int(has_rope) for has_rope in backbone.rope_layer_enabled_list],
        "layer_types": list(backbone.layer_types),
        "use_sliding_window": False,
        "attention_bias": backbone.attention_bias,
        "mlp_bias": backbone.mlp_bias,
    }


_OF_FAMILIES: dict[str, Callable[[keras_hub.models.Backbone], Config]] = {
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "smollm3": _smollm3,
}


class _NamesOfWeights:
    """Stands for the file of weights from which a converter of KerasHub loads, and notes what it asks for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []

    def port_weight(self, keras_variable: Any, hf_weight_key: str, hook_fn: object = None) -> None:
        """Notes the name of a weight, and the weight of the model that a converter would set."""
        self.asked.append((hf_weight_key, keras_variable))

    def get_tensor(self, name: str) -> None:
        """Does nothing: the converter of Gemma 3 only looks whether a name exists."""


def named_weights(model: keras.Model, kind: str) -> Iterator[tuple[str, Any]]:
    """Yields the names of all weights in transformers, each with the weight of the model in KerasHub's layout.

    A weight with adapters is the sum of both, unless they are switched off. A packed weight of GPT-2 has three parts.

    Args:
      model: A model of one of `KINDS`.
      kind: Its `model_type`.
    """
    names = _NamesOfWeights()
    CONVERTERS[kind].convert_weights(model.backbone, names, {"model_type": kind, "n_embd": model.backbone.hidden_dim})
    for name, weight in names.asked:
        yield (name if name == "lm_head.weight" else PREFIXES.get(kind, "") + name), weight


def weights_of(model: keras.Model, kind: str) -> dict[str, np.ndarray]:
    """Returns all weights of a model as transformers names and shapes them.

    Args:
      model: A model of one of `KINDS`.
      kind: Its `model_type`.
    """
    parts: dict[str, list[np.ndarray]] = {}
    for name, weight in named_weights(model, kind):
        array = np.asarray(keras.ops.convert_to_numpy(weight), np.float32)
        shaped = _gpt2_layout(name, array, model) if kind == "gpt2" else _layout(name, array, kind)
        parts.setdefault(name, []).append(shaped)
    return {name: np.ascontiguousarray(np.concatenate(arrays, axis=-1)) for name, arrays in parts.items()}


def _layout(name: str, array: np.ndarray, kind: str) -> np.ndarray:
    """Changes the layout of a weight from KerasHub's, [in, out] with several heads, to transformers' [out, in]."""
    if array.ndim == 1 or name.endswith("embed_tokens.weight"):
        return array
    if name.endswith("bias"):
        return array.reshape(-1)
    if name.endswith(TO_HIDDEN):
        return array.reshape(-1, array.shape[-1]).T  # of [heads, D / heads, D]
    if array.ndim == 3 and kind.startswith("gemma"):
        array = np.moveaxis(array, 0, 1)  # of [heads, D, D / heads]
    return array.reshape(len(array), -1).T  # of [D, heads, D / heads]


def _gpt2_layout(name: str, array: np.ndarray, model: keras.Model) -> np.ndarray:
    """Changes the layout of a weight of GPT-2, whose matrices are [in, out] in transformers, too."""
    if name.endswith("bias"):
        return array.reshape(-1)
    return array.reshape(model.backbone.hidden_dim, -1) if ".attn." in name else array
